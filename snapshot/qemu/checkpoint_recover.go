package qemu

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
//	apply    before the memory is exchanged: taken back; afterwards: ended
//	fold     ended; a VM that stands still for its sake goes on first
//
// A VM that stands still goes on before all that can wait.
func (c *checkpointing) Recover(ctx context.Context) (found bool, err error) {
	if c.tree.Op == nil {
		return c.reduceAgain(ctx)
	}
	c.opt.Log.Warn("recover interrupted operation on checkpoints", "vm", c.vm, "operation", c.tree.Op.Kind, "checkpoint", c.tree.Op.Node)
	if c.tree.Op.Step == "" || c.urgent {
		return true, c.recoverOp(ctx)
	}
	// The VM may stand still, and whoever stood by may have died with the operation. That
	// nobody can take the place is no reason to leave the VM as it is.
	began := false
	err = c.guarded(ctx, func() error {
		began = true
		return c.recoverOp(ctx)
	})
	if err != nil && !began {
		c.opt.Log.Warn("recover without a guard", "vm", c.vm, "error", err)
		err = c.recoverOp(ctx)
	}
	return true, err
}

func (c *checkpointing) recoverOp(ctx context.Context) (err error) {
	switch op := c.tree.Op; {
	case op.Kind == checkpoint.Create:
		err = c.undoCreate(ctx)
	case op.Kind == checkpoint.Apply && (op.Step == stepSwitch || op.Step == stepLoad):
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
	return err
}

// reduceAgain does what is left to do about checkpoints that are gone. There is time for
// that until there is room: everything works without.
func (c *checkpointing) reduceAgain(ctx context.Context) (found bool, err error) {
	_, more := c.tree.Next()
	old := c.tree.Strip() // an older lull kept that
	had := len(c.tree.Junk)
	if c.urgent || !more && had == 0 {
		return false, nil
	}
	if old {
		if err := c.save(); err != nil {
			return false, err
		}
	}
	err = c.reduce(ctx)
	found = more || len(c.tree.Junk) < had
	if errors.Is(err, snapshot.ErrNoSpace) && c.tree.Op == nil {
		c.opt.Log.Warn("deleted checkpoints are not merged yet", "vm", c.vm, "error", err)
		return false, nil
	}
	return found, err
}

// refold goes on where a fold was cut off.
func (c *checkpointing) refold(ctx context.Context) error {
	op := c.tree.Op
	if op.Step == stepPaused {
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
	if c.urgent {
		return nil
	}
	return c.reduce(ctx)
}

// settleAgain brings a VM that stands still for the sake of a fold on its way. A disk that
// has moved to the lower image already must have that in its place before.
func (c *checkpointing) settleAgain(ctx context.Context, m *monitor) error {
	op := c.tree.Op
	n := c.tree.Find(op.Node)
	if n == nil {
		return c.strange(fmt.Errorf("no checkpoint %s", op.Node))
	}
	s := checkpoint.Step{Node: op.Node, Into: op.Into, First: n.Parent == ""}
	if s.First && s.Into == checkpoint.Own {
		if err := c.placeMoved(ctx, m, s); err != nil {
			return err
		}
	}
	if err := c.carryOn(ctx, m); err != nil {
		return err
	}
	return c.reach("")
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
			c.step("fold-placing")
			err = c.takeName(layerPath(d, s.Node), d.Path)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// switchAgain goes on with an Apply whose VM stands still. As long as its memory is still
// what it was, the VM gets its disks back; else it goes on from the checkpoint. Where QEMU
// has gone nothing was changed but in it, unless an image has its place already.
func (c *checkpointing) switchAgain(ctx context.Context) error {
	op := c.tree.Op
	n := c.tree.Find(op.Node)
	if n == nil {
		return c.strange(fmt.Errorf("no checkpoint %s", op.Node))
	}
	placed, err := c.placedAnywhere()
	if err != nil {
		return err
	}
	gone := c.takeBack
	if placed {
		gone = c.placeAll
	}
	return c.live(ctx, func(m *monitor) error {
		if m.proc.instance != op.Instance || placed {
			return gone(ctx)
		}
		return c.loadAgain(ctx, m, *n)
	}, func() error {
		if err := c.unused(); err != nil {
			return err
		}
		return gone(ctx)
	})
}

// loadAgain goes back or on, as it has to be.
func (c *checkpointing) loadAgain(ctx context.Context, m *monitor, n checkpoint.Node) error {
	op := c.tree.Op
	if op.Step == stepLoad && op.Cold {
		return c.exchange(ctx, m, n)
	}
	j, err := m.findJob(ctx, c.loadJob())
	if err != nil {
		return err
	}
	if j == nil { // the load has not begun
		return c.switchBack(ctx, m)
	}
	return c.exchange(ctx, m, n)
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
		if err := c.unused(); err != nil {
			return err
		}
		frozen, err = c.touched()
		return err
	})
	if err != nil {
		return err
	}
	if frozen {
		c.tree.Add(checkpoint.Node{ID: op.Node, Gone: true})
		if err := c.endLive(ctx, append(c.fresh(), c.leftovers()...)...); err != nil || c.urgent {
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
	if memory := c.tree.Op.Saved.Path; memory != "" {
		list = append(list, memory, memory+savingSuffix)
	}
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
	if err := c.place(d.Path, layer); err != nil {
		return err
	}
	return removeAll(layer)
}

// undoLive lets a VM go on that stands still, and closes images that it does not use, which
// can wait until it runs. frozen: it does use them, as its disks are frozen.
func (c *checkpointing) undoLive(ctx context.Context, m *monitor, p snapshot.Plan) (frozen bool, err error) {
	op := c.tree.Op
	if m.proc.instance != op.Instance {
		return c.placedAnywhere()
	}
	if frozen, err = c.frozenBy(ctx, m); err != nil {
		return frozen, err
	}
	if frozen {
		if err := c.settleFrozen(ctx, p); err != nil {
			return frozen, err
		}
	}
	if err := c.resumeOnce(ctx, p); err != nil || frozen {
		return frozen, err
	}
	return frozen, c.closeFresh(ctx, m)
}

// resumeOnce lets a VM go on that a Create has stopped. Who stops it afterwards means it.
func (c *checkpointing) resumeOnce(ctx context.Context, p snapshot.Plan) error {
	if op := c.tree.Op; op.Step == stepPaused && op.Running {
		if err := c.resume(ctx, p, nil); err != nil {
			return fmt.Errorf("resume: %w", err)
		}
		c.untune(ctx, p)
	}
	c.halted = false
	return c.reach("")
}

// frozenBy tells whether a Create has moved the disks, of which all move or none.
func (c *checkpointing) frozenBy(ctx context.Context, m *monitor) (bool, error) {
	for i, d := range c.tree.Disks {
		s, err := c.stack(ctx, m, d)
		if err != nil {
			return false, err
		}
		if s.drive.Inserted.Node == checkpointNode(c.tree.Op.Run, i) {
			return true, nil
		}
	}
	return false, nil
}

// closeFresh closes the images that a Create has opened and nothing uses. That each is
// closed is looked at: its file is removed then.
func (c *checkpointing) closeFresh(ctx context.Context, m *monitor) error {
	for i := range c.tree.Disks {
		node := checkpointNode(c.tree.Op.Run, i)
		if err := m.closeChain(ctx, blockGraph{}, []string{node, fileNode(node)}); err != nil {
			return err
		}
		nodes, err := m.nodes(ctx, true)
		if err != nil {
			return err
		}
		if findNode(nodes, node) != nil || findNode(nodes, fileNode(node)) != nil {
			return fmt.Errorf("QEMU does not close %s: %w", node, snapshot.ErrBusy)
		}
	}
	return nil
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
