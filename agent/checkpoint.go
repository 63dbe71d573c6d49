package agent

import (
	"context"
	"fmt"

	"github.com/lull-backup/lull/snapshot"
)

// Checkpoint does fn, which works on the checkpoints of a VM, when no run and no other
// process works on the VM, and what interrupted runs left of it is repaired. name is that
// of the VM's journal entry.
func (r *Runner) Checkpoint(ctx context.Context, name string, host snapshot.Host, vm string, fn func(context.Context, snapshot.Checkpointer) error) error {
	c, ok := host.(snapshot.Checkpointer)
	if !ok {
		return NoCheckpoints(name)
	}
	done, err := r.turns.wait(ctx, name)
	if err != nil {
		return fmt.Errorf("checkpoints of %s: %w", name, err)
	}
	defer done()
	lock, err := r.Journal.Lock(name)
	if err != nil {
		return fmt.Errorf("checkpoints of %s: %w", name, err)
	}
	defer lock.Unlock()
	if err := r.recoverEntry(ctx, name, host, vm); err != nil {
		return err
	}
	return fn(ctx, c)
}

// NoCheckpoints is the error of a VM whose host keeps no checkpoints.
func NoCheckpoints(name string) error {
	return snapshot.WithHint(fmt.Errorf("checkpoints of %s: they need a QEMU or a libvirt that runs the VM, and its host is of images alone: %w", name, snapshot.ErrUnsupported),
		"give the VM to a qemu or libvirt host")
}

// recoverCheckpoints brings to an end what was interrupted on a VM's checkpoints, where
// its host keeps any. The caller holds the VM's lock.
func (r *Runner) recoverCheckpoints(ctx context.Context, host snapshot.Host, vm string) error {
	c, ok := host.(snapshot.Checkpointer)
	if !ok {
		return nil
	}
	found, err := c.RecoverCheckpoints(ctx, vm)
	if found && err == nil {
		r.Log.Warn("an interrupted operation on checkpoints was brought to an end", "vm", vm)
	}
	return err
}
