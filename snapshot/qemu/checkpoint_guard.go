package qemu

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/checkpoint"
)

// An operation on checkpoints stops the VM for a while. From the stop until it goes on:
//
//   - What was begun is brought to an end, or back to where it began, also when ctx ends:
//     half of it would leave the VM on an image that its path does not name. What can be
//     given up halfway has a limit (Options.CheckpointStop).
//   - Somebody stands by who outlives this process (Options.Guard), and lets the VM go on
//     should it die: by ReleaseCheckpoint, from what the tree says.
//   - One process at a time works on a tree: it holds the lock beside it.

// defaultStop is the usual Options.CheckpointStop.
const defaultStop = time.Minute

// undoTimeout bounds how long is tried to bring things to an end, or back in order.
const undoTimeout = 10 * time.Minute

// lockTick is how often a lock is tried that another has.
const lockTick = 20 * time.Millisecond

// How long until it is tried again to let a VM go on: at first, and at most.
const (
	releaseTick    = 100 * time.Millisecond
	releaseSlowest = 5 * time.Second
)

// errTooLong: an operation was given up, as the VM had stood still long enough.
var errTooLong = errors.New("the VM has stood still for as long as it may")

// owed is a context for what has to be done whatever became of ctx.
func owed(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
}

// briefly is a context for what is given up when the VM has stood still for too long.
func (c *checkpointing) briefly(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, c.opt.CheckpointStop, snapshot.WithHint(
		fmt.Errorf("%w: %v", errTooLong, c.opt.CheckpointStop), "raise max_stop of checkpoints, or give --no-memory"))
}

// because adds why a context ended to the error of what it cut short.
func because(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); err != nil && errors.Is(cause, errTooLong) {
		return errors.Join(cause, err)
	}
	return err
}

// guarded does fn, which may stop the VM, while somebody stands by.
func (c *checkpointing) guarded(ctx context.Context, fn func() error) error {
	if c.opt.Guard == nil || c.standing {
		return fn()
	}
	off, err := c.opt.Guard(ctx, c.vm)
	if err != nil {
		return fmt.Errorf("nobody would let the VM go on if lull died: %w", err)
	}
	c.standing = true
	err = fn()
	c.standing = false
	after, cancel := owed(ctx)
	defer cancel()
	if offErr := off(after, !c.halted); offErr != nil {
		c.opt.Log.Warn("end the guard of a VM", "vm", c.vm, "error", offErr)
	}
	return err
}

// halt stops the VM, which flushes its images.
func (c *checkpointing) halt(ctx context.Context, m *monitor) error {
	c.halted = true
	return m.Execute(ctx, "stop", nil, nil)
}

// carryOn lets a VM go on that the operation has stopped.
func (c *checkpointing) carryOn(ctx context.Context, m *monitor) error {
	if c.tree.Op.Running {
		status, err := m.status(ctx)
		if err == nil && status == "paused" {
			err = m.Execute(ctx, "cont", nil, nil)
		}
		if err != nil {
			return err
		}
	}
	c.halted = false
	return nil
}

// lockTree waits until no other process works on a tree.
func lockTree(ctx context.Context, tree string) (unlock func(), err error) {
	tick := time.NewTicker(lockTick)
	defer tick.Stop()
	for {
		if unlock, err = checkpoint.Lock(tree); !errors.Is(err, snapshot.ErrBusy) {
			return unlock, err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %w", err, context.Cause(ctx))
		}
	}
}

// onTree does fn with the tree of a VM, while nobody else works on that, and removes what is
// needed no more then.
func (h *Host) onTree(ctx context.Context, vm string, fn func(*checkpointing) error) error {
	if _, err := h.checkpointing(vm); err != nil { // before a file is made for it
		return err
	}
	unlock, err := lockTree(ctx, h.treePath(vm))
	if err != nil {
		return err
	}
	defer unlock()
	c, err := h.checkpointing(vm)
	if err == nil {
		err = c.follow(ctx)
	}
	if err != nil {
		return err
	}
	if err = fn(c); c.urgent {
		return err
	}
	last, loadErr := h.checkpointing(vm) // what fn did not come to write down, it did not do
	if loadErr == nil {
		loadErr = last.sweep(ctx)
	}
	return errors.Join(err, loadErr)
}

// ReleaseCheckpoint lets a VM go on that stands still because a process has died, or given
// up, in the middle of an operation on its checkpoints. It does what the VM waits for, and
// leaves the rest to RecoverCheckpoints. It tries until ctx ends; and, whatever becomes of
// ctx, for as long as the process lives that stands still: one that loads memory answers
// nobody until it has.
func (h *Host) ReleaseCheckpoint(ctx context.Context, vm string) error {
	for wait := releaseTick; ; wait = min(2*wait, releaseSlowest) {
		err := h.releaseOnce(ctx, vm)
		if err == nil {
			return nil
		}
		h.opt.Log.Warn("the VM does not go on yet", "vm", vm, "error", err)
		done := ctx.Done()
		if h.operatedOn(vm) {
			done = nil
		}
		select {
		case <-time.After(wait):
		case <-done:
			return fmt.Errorf("let %s go on: %w", vm, errors.Join(err, context.Cause(ctx)))
		}
	}
}

func (h *Host) releaseOnce(ctx context.Context, vm string) error {
	if h.operatedOn(vm) {
		ctx = context.WithoutCancel(ctx)
	}
	return h.onTree(ctx, vm, func(c *checkpointing) error {
		c.urgent = true
		_, err := c.Recover(ctx)
		return err
	})
}

// operatedOn tells whether an operation on the VM's checkpoints is under way, and its process
// lives.
func (h *Host) operatedOn(vm string) bool {
	c, err := h.checkpointing(vm)
	return err == nil && c.tree.Op != nil && living(c.tree.Op.Instance)
}
