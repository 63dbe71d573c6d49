package qemu

import (
	"context"
	"fmt"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/checkpoint"
)

// recover ends what can only be ended, and takes back what can be:
//
//	create   taken back: where the disks have frozen, the checkpoint is folded away
//	apply    before any image has taken its place: taken back; afterwards: ended
//	fold     ended; a VM that stands still for its sake goes on first
func (c *checkpointing) recover(ctx context.Context) (found bool, err error) {
	if c.tree.Op == nil {
		_, found = c.tree.Next()
		return found, c.reduce(ctx)
	}
	c.opt.Log.Warn("recover interrupted operation on checkpoints", "vm", c.vm, "operation", c.tree.Op.Kind, "checkpoint", c.tree.Op.Node)
	switch op := c.tree.Op; {
	case op.Kind == checkpoint.Create:
		err = c.undoCreate(ctx)
	case op.Kind == checkpoint.Apply && op.Step == stepSwitch:
		err = c.switchAgain(ctx)
	case op.Kind == checkpoint.Apply && op.Step == stepPlace:
		err = c.placeAll(ctx)
	case op.Kind == checkpoint.Apply && op.Step == stepResume:
		err = c.goOn(ctx)
	case op.Kind == checkpoint.Apply:
		err = c.takeBack(ctx)
	case op.Kind == checkpoint.Fold:
		err = c.refold(ctx)
	default:
		err = fmt.Errorf("operation %q is not known: %w", op.Kind, snapshot.ErrUnsupported)
	}
	return true, err
}

// refold goes on where a fold was cut off.
func (c *checkpointing) refold(ctx context.Context) error {
	op := c.tree.Op
	if op.Step == stepPaused && op.Running {
		err := c.live(ctx, func(m *monitor) error {
			if m.proc.instance != op.Instance {
				return nil
			}
			return c.settleAgain(ctx, m)
		}, func() error { return nil })
		if err != nil {
			return err
		}
	}
	return c.reduce(ctx)
}

// settleAgain brings a VM that stands still for the sake of a fold on its way. A disk that
// has moved to the lower image already must have that in its place before.
func (c *checkpointing) settleAgain(ctx context.Context, m *monitor) error {
	op := c.tree.Op
	s := checkpoint.Step{Node: op.Node, Into: op.Into, First: c.tree.Find(op.Node) != nil && c.tree.Find(op.Node).Parent == ""}
	if s.First && s.Into == checkpoint.Own {
		if err := c.placeMoved(ctx, m, s); err != nil {
			return err
		}
	}
	status, err := m.status(ctx)
	if err == nil && status == "paused" {
		err = m.Execute(ctx, "cont", nil, nil)
	}
	return err
}

// placeMoved finishes the job of each disk; where that has moved it, the lower image takes
// its place.
func (c *checkpointing) placeMoved(ctx context.Context, m *monitor, s checkpoint.Step) error {
	for i, d := range c.tree.Disks {
		done, err := c.folded(d, s)
		if err != nil {
			return err
		}
		if done {
			continue
		}
		if err := m.abandon(ctx, foldJob(i)); err != nil {
			return err
		}
		st, err := c.stack(ctx, m, d)
		if err != nil {
			return err
		}
		if i >= len(c.tree.Op.Nodes) || st.drive.Inserted.Node != c.tree.Op.Nodes[i] {
			continue // it did not move
		}
		err = m.Execute(ctx, "stop", nil, nil) // which flushes
		if err == nil {
			err = c.takeName(layerPath(d, s.Node), d.Path)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// switchAgain goes on with an Apply whose VM stands still. Where that has gone, nothing was
// changed but in its QEMU.
func (c *checkpointing) switchAgain(ctx context.Context) error {
	n := c.tree.Find(c.tree.Op.Node)
	if n == nil {
		return c.strange(fmt.Errorf("no checkpoint %s", c.tree.Op.Node))
	}
	return c.live(ctx, func(m *monitor) error {
		if m.proc.instance != c.tree.Op.Instance {
			return c.takeBack(ctx)
		}
		return c.switchLive(ctx, m, *n)
	}, func() error {
		if err := c.unused(); err != nil {
			return err
		}
		return c.takeBack(ctx)
	})
}

// undoCreate takes a checkpoint back that is not whole.
func (c *checkpointing) undoCreate(ctx context.Context) error {
	op := c.tree.Op
	p := snapshot.Plan{Host: Kind, VM: c.vm, Run: op.Run, Instance: op.Instance, Saved: op.Saved}
	frozen := false
	err := c.live(ctx, func(m *monitor) (err error) {
		frozen, err = c.undoLive(ctx, m, p)
		return err
	}, func() (err error) {
		if living(op.Instance) {
			return fmt.Errorf("the VM does not answer: %w", snapshot.ErrUnreachable)
		}
		if err := c.unused(); err != nil {
			return err
		}
		frozen, err = c.touched()
		return err
	})
	if err == nil {
		err = dropState(p)
	}
	if err != nil {
		return err
	}
	if frozen {
		c.tree.Add(checkpoint.Node{ID: op.Node, Gone: true})
		if err := c.endLive(ctx, append(c.fresh(), c.leftovers()...)...); err != nil {
			return err
		}
		return c.reduce(ctx)
	}
	for _, d := range c.tree.Disks {
		if err := c.placeBack(d); err != nil {
			return err
		}
	}
	return c.endLive(ctx, append(c.fresh(), c.leftovers()...)...)
}

// leftovers are files of a checkpoint that is taken back, beside its images.
func (c *checkpointing) leftovers() (list []string) {
	for i := range maxNVRAM {
		list = append(list, beside(c.tree.Disks[0].Path, c.tree.Op.Node, fmt.Sprintf("%s%d", nvramEnding, i)))
	}
	return list
}

// maxNVRAM bounds the small files of a VM that are looked for.
const maxNVRAM = 8

// placeBack gives an image that nothing was written upon its place back.
func (c *checkpointing) placeBack(d checkpoint.Disk) error {
	layer := layerPath(d, c.tree.Op.Node)
	there, err := exists(layer)
	if err != nil || !there {
		return err
	}
	if err := place(d, layer); err != nil {
		return err
	}
	return removeAll(layer)
}

// undoLive lets a VM go on that stands still, and closes images that it does not use. frozen:
// it does, as its disks are frozen.
func (c *checkpointing) undoLive(ctx context.Context, m *monitor, p snapshot.Plan) (frozen bool, err error) {
	op := c.tree.Op
	if m.proc.instance != op.Instance {
		return c.placedAnywhere()
	}
	for i, d := range c.tree.Disks {
		s, err := c.stack(ctx, m, d)
		if err != nil {
			return false, err
		}
		node := checkpointNode(op.Run, i)
		if s.drive.Inserted.Node == node {
			frozen = true
			continue
		}
		if err := m.closeChain(ctx, blockGraph{}, []string{node, fileNode(node)}); err != nil {
			return false, err
		}
	}
	if frozen {
		if err := c.settleFrozen(ctx, p); err != nil {
			return frozen, err
		}
	}
	if op.Step == stepPaused && op.Running {
		if err := c.resume(ctx, p); err != nil {
			return frozen, fmt.Errorf("resume: %w", err)
		}
		c.throttle(ctx, p)
	}
	return frozen, nil
}

// placedAnywhere tells whether a VM that was started anew runs from an image that the
// checkpoint put in its place.
func (c *checkpointing) placedAnywhere() (bool, error) {
	for _, d := range c.tree.Disks {
		if placed, err := sameFile(d.Path, ownPath(d, c.tree.Op.Run)); err != nil || placed {
			return placed, err
		}
	}
	return false, nil
}

// touched tells, with QEMU gone, whether a guest has written to an image that a checkpoint
// put in its place: then it was taken. If none has, both images say the same.
func (c *checkpointing) touched() (bool, error) {
	for _, d := range c.tree.Disks {
		placed, err := sameFile(d.Path, ownPath(d, c.tree.Op.Run))
		if err != nil {
			return false, err
		}
		if !placed {
			continue
		}
		if empty, err := untouched(d.Path); err != nil || !empty {
			return true, err
		}
	}
	return false, nil
}
