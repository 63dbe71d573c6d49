package libvirt

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/checkpoint"
	"github.com/lull-backup/lull/snapshot/libvirt/rpc"
)

// libvirt loads a memory on when the lull that ordered it has gone, and lets the domain go on then.
// Until then it is on the new images, and stands still; if the memory does not fit after all it is
// off again. Where libvirt's own daemon goes, the next one ends a domain that it finds half
// loaded; one that was whole stands still for good.

// startFrom starts the domain as the checkpoint has it: with its memory; or from its disks,
// where it ran before.
func (c *checkpointing) startFrom(ctx context.Context, n checkpoint.Node) error {
	if c.tree.Op.Cold {
		if !c.tree.Op.Running {
			return nil
		}
		return c.bootThere(ctx)
	}
	runs, err := c.remember(ctx, n)
	if runs || err == nil {
		return err
	}
	if bootErr := c.bootThere(ctx); bootErr != nil {
		return errors.Join(bootErr, err)
	}
	return unloaded(err)
}

func unloaded(err error) error {
	return snapshot.WithHint(fmt.Errorf("%w: %w", errLoad, err), "see what libvirt's log of the domain says")
}

// remember starts the domain with the memory of a checkpoint. runs: it is on, or nobody can tell,
// whatever the error.
func (c *checkpointing) remember(ctx context.Context, n checkpoint.Node) (runs bool, err error) {
	for again := false; ; again = true {
		text, err := c.ranAs(ctx, n)
		if err == nil {
			c.step("apply-loading")
			err = c.dom.link.order(ctx, func(conn *rpc.Conn) error { return conn.Restore(ctx, n.Memory.Path, text, 0) })
		}
		if err == nil {
			return true, nil
		}
		s, lookErr := c.arrived(ctx)
		lost := errors.Is(err, errLost)
		switch {
		case lookErr != nil:
			return true, errors.Join(err, lookErr)
		case lost && c.runs(s, c.fresh(c.tree.Op.Run)): // it had been loaded
			return true, nil
		case c.runs(s, c.fresh(c.tree.Op.Run)): // somebody was faster
			return true, unloaded(err)
		case s.on: // on what it had, or on others: takeBackUnmoved tells
			return true, err
		case !lost || again:
			return false, err
		}
		used, usedErr := c.used(ctx)
		if used || usedErr != nil { // it ran, and has ended: its memory would not fit any more
			return true, usedErr
		}
	}
}

// arrived looks at the domain when libvirt is done with what it does to it. One that stands still
// with the memory that it was to go on with goes on.
func (c *checkpointing) arrived(ctx context.Context) (sight, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, memoryLimit, fmt.Errorf("libvirt loads the memory still: %w", snapshot.ErrBusy))
	defer cancel()
	again := time.NewTicker(tick)
	defer again.Stop()
	for {
		s, err := c.look(ctx)
		if err != nil || !c.runs(s, c.fresh(c.tree.Op.Run)) {
			return s, err
		}
		halted, err := c.halted(ctx, s.dom)
		if err != nil || !halted {
			return s, err
		}
		c.step("apply-arriving")
		if err := c.letGoOn(ctx, s.dom); err != nil {
			return s, err
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return s, context.Cause(ctx)
		}
	}
}

// halted tells whether a domain stands still because its memory is loaded, or was, and not for
// somebody who wants that.
func (c *checkpointing) halted(ctx context.Context, d rpc.Domain) (halted bool, err error) {
	err = c.dom.link.ask(ctx, func(conn *rpc.Conn) error {
		state, why, err := conn.State(ctx, d)
		halted = state == rpc.StatePaused && (why == rpc.PausedStartingUp || why == rpc.PausedMigration)
		return err
	})
	if rpc.HasCode(err, rpc.CodeNoDomain) {
		return false, nil
	}
	return halted, err
}

// letGoOn has a domain go on whose memory was loaded whole. While libvirt loads it that waits, and
// then fails: the next look tells what has become of it.
func (c *checkpointing) letGoOn(ctx context.Context, d rpc.Domain) error {
	err := c.dom.link.ask(ctx, func(conn *rpc.Conn) error {
		if err := settled(ctx, conn, d); err != nil {
			return err
		}
		state, why, err := conn.State(ctx, d)
		if err != nil || state != rpc.StatePaused || why != rpc.PausedMigration {
			return err
		}
		return conn.Resume(ctx, d)
	})
	if errors.Is(err, snapshot.ErrBusy) || rpc.HasCode(err, rpc.CodeOperationInvalid) {
		return nil
	}
	return err
}

// settled waits until libvirt does nothing with a domain that is on: what changes the domain waits
// for whatever else does. ErrBusy: that took longer than libvirt waits.
func settled(ctx context.Context, conn *rpc.Conn, d rpc.Domain) error {
	err := conn.SetMetadata(ctx, d, "", "", barrier, rpc.AffectLive)
	if rpc.HasCode(err, rpc.CodeNoDomainMetadata) {
		return nil
	}
	return err
}
