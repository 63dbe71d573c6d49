package libvirt

import (
	"context"
	"errors"
	"fmt"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/checkpoint"
)

// recover ends what can only be ended, and takes back what can be:
//
//	create   taken back: where the disks have frozen, the checkpoint is folded away
//	apply    until the domain is defined as the checkpoint has it: taken back; then: ended
//	fold     ended
//
// libvirt lets a domain go on that it has stopped, so nothing is urgent.
func (c *checkpointing) recover(ctx context.Context) (found bool, err error) {
	op := c.tree.Op
	if op == nil {
		return c.tidy(ctx)
	}
	c.opt.Log.Warn("recover interrupted operation on checkpoints", "vm", c.id.name, "operation", op.Kind, "checkpoint", op.Node)
	switch op.Kind {
	case checkpoint.Create:
		err = c.undoCreate(ctx)
	case checkpoint.Apply:
		err = c.applyAgain(ctx)
	case checkpoint.Fold:
		err = c.reduce(ctx)
	default:
		err = fmt.Errorf("operation %q is not known: %w", op.Kind, snapshot.ErrUnsupported)
	}
	return true, err
}

// tidy does what is left to do about files and checkpoints that are gone. There is time for
// that until there is room, and nothing in the way: everything works without.
func (c *checkpointing) tidy(ctx context.Context) (found bool, err error) {
	_, more := c.tree.Next()
	if found = more || len(c.tree.Junk) > 0; !found {
		return false, nil
	}
	if err = c.sweep(ctx); err == nil {
		err = c.reduce(ctx)
	}
	if c.tree.Op == nil && (errors.Is(err, snapshot.ErrNoSpace) || errors.Is(err, snapshot.ErrBusy)) {
		c.opt.Log.Warn("deleted checkpoints are not merged yet", "vm", c.id.name, "error", err)
		return false, nil
	}
	return found, err
}
