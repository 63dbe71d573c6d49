package qemu

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/checkpoint"
)

// stepPaused is the step of an operation that has stopped the VM and is about to let it
// go on.
const stepPaused = "paused"

// remove marks checkpoints as gone, and does what can be done about their images.
func (c *checkpointing) remove(ctx context.Context, ids []string) error {
	before := c.tree
	c.tree.Nodes = append([]checkpoint.Node(nil), before.Nodes...)
	c.tree.Delete(ids...)
	if s, ok := c.tree.Next(); ok && !s.Drop {
		if err := c.ready(ctx); err != nil { // nothing is marked that cannot be begun
			return err
		}
	}
	if err := c.save(); err != nil {
		return err
	}
	c.step("delete-marked")
	return c.reduce(ctx)
}

// ready makes sure that the VM's images can be worked on.
func (c *checkpointing) ready(ctx context.Context) error {
	return c.live(ctx, func(m *monitor) error {
		_, err := c.Host.plan(ctx, m, newID())
		return err
	}, c.unused)
}

// reduce does the steps that there are.
func (c *checkpointing) reduce(ctx context.Context) error {
	for {
		s, ok := c.tree.Next()
		if !ok {
			return nil
		}
		n := *c.tree.Find(s.Node)
		if !s.Drop {
			if err := c.begin(checkpoint.Op{Kind: checkpoint.Fold, Node: s.Node, Into: s.Into}); err != nil {
				return err
			}
			c.step("fold-begun")
			if err := c.fold(ctx, s); err != nil {
				return fmt.Errorf("merge checkpoint %s: %w", s.Node, err)
			}
			c.step("fold-done")
		}
		files := c.filesOf(&n)
		if s.Drop { // the files first: one that is in no tree is nobody's
			c.step("drop")
			if err := removeAll(files...); err != nil {
				return err
			}
		}
		c.tree.Done(s)
		if err := c.endLive(ctx, files...); err != nil {
			return err
		}
	}
}

// fold makes one image of two on every disk.
func (c *checkpointing) fold(ctx context.Context, s checkpoint.Step) error {
	return c.live(ctx, func(m *monitor) error { return c.foldLive(ctx, m, s) }, func() error {
		if err := c.unused(); err != nil {
			return err
		}
		return c.foldFiles(ctx, s)
	})
}

// upper is the image of a disk that a step makes one with that of its checkpoint.
func (c *checkpointing) upper(d checkpoint.Disk, s checkpoint.Step) string {
	if s.Into == checkpoint.Own {
		return d.Path
	}
	return layerPath(d, s.Into)
}

// foldFiles folds images that no QEMU has open for writing.
func (c *checkpointing) foldFiles(ctx context.Context, s checkpoint.Step) error {
	for _, d := range c.tree.Disks {
		upper, lower := c.upper(d, s), layerPath(d, s.Node)
		done, err := c.folded(d, s)
		if err != nil {
			return err
		}
		if done {
			continue
		}
		if s.First {
			err = c.writeDown(ctx, upper, lower)
		} else {
			err = c.writeUp(ctx, upper, layerPath(d, c.tree.Find(s.Node).Parent))
		}
		if err != nil {
			return fmt.Errorf("disk %s: %w", d.Name, err)
		}
		c.step("fold-disk")
	}
	return nil
}

// writeDown writes an image into the one below, which takes its name.
func (c *checkpointing) writeDown(ctx context.Context, upper, lower string) error {
	if err := c.qemuImg(ctx, "commit", "-q", "-d", "-f", "qcow2", upper); err != nil {
		return err
	}
	return c.takeName(lower, upper)
}

// takeName puts an image in the place of one that says the same. It keeps its own name, too:
// a QEMU may know it by that.
func (c *checkpointing) takeName(lower, upper string) error {
	if err := syncFile(lower); err != nil {
		return err
	}
	return place(checkpoint.Disk{Path: upper}, lower)
}

// folded tells whether a disk is done with a step: its image is no more, or has taken the
// name of the other.
func (c *checkpointing) folded(d checkpoint.Disk, s checkpoint.Step) (bool, error) {
	there, err := exists(layerPath(d, s.Node))
	if err != nil || !there {
		return true, err
	}
	return sameFile(layerPath(d, s.Node), c.upper(d, s))
}

// writeUp makes an image rest upon the next but one, with all that it had of the one
// between.
func (c *checkpointing) writeUp(ctx context.Context, upper, below string) error {
	if err := c.qemuImg(ctx, "rebase", "-q", "-f", "qcow2", "-b", filepath.Base(below), "-F", "qcow2", upper); err != nil {
		return err
	}
	return syncFile(upper)
}

// foldLive folds beside a QEMU that runs: with QEMU where it has the images open.
func (c *checkpointing) foldLive(ctx context.Context, m *monitor, s checkpoint.Step) error {
	c.tree.Op.Instance = m.proc.instance
	stacks := make([]stack, len(c.tree.Disks))
	for i, d := range c.tree.Disks {
		st, err := c.stack(ctx, m, d)
		if err == nil {
			err = ignoreRefused(m.finish(ctx, foldJob(i))) // of an attempt that was cut off
		}
		if err == nil {
			st, err = c.stack(ctx, m, d)
		}
		if err == nil && s.Into != checkpoint.Own && st.node(layerPath(d, s.Into)) == "" {
			return c.foldFiles(ctx, s) // not where the VM runs
		}
		if err != nil {
			return fmt.Errorf("disk %s: %w", d.Name, err)
		}
		stacks[i] = st
	}
	g, err := m.graph(ctx)
	if err != nil {
		return err
	}
	for i := range stacks {
		done, err := c.folded(stacks[i].disk, s)
		if err != nil {
			return err
		}
		if done {
			continue
		}
		if err := c.foldDisk(ctx, m, s, i, stacks[i]); err != nil {
			return fmt.Errorf("disk %s: %w", stacks[i].disk.Name, err)
		}
		c.step("fold-disk")
	}
	if s.First && s.Into == checkpoint.Own {
		err = c.settleDown(ctx, m, s, stacks)
	} else if s.Into == checkpoint.Own {
		// QEMU's own tables of the image that now has everything reach the disk.
		err = c.paused(ctx, m, stacks, func() error { return nil })
	}
	if err != nil {
		return err
	}
	for _, st := range stacks {
		if err := m.closeChain(ctx, g, st.nodes); err != nil {
			return err
		}
	}
	return nil
}

func foldJob(disk int) string { return fmt.Sprintf("lullcp-fold-%d", disk) }

// foldDisk folds the images of a disk that QEMU has open, but for the very end where it is
// the VM's own that is written down.
func (c *checkpointing) foldDisk(ctx context.Context, m *monitor, s checkpoint.Step, i int, st stack) error {
	if err := st.whole(); err != nil {
		return err
	}
	d := st.disk
	upper, lower := st.node(c.upper(d, s)), st.node(layerPath(d, s.Node))
	if lower == "" {
		return c.strange(fmt.Errorf("QEMU does not have %s open", layerPath(d, s.Node)))
	}
	job := args{"job-id": foldJob(i), "auto-dismiss": false}
	switch {
	case !s.First:
		below := layerPath(d, c.tree.Find(s.Node).Parent)
		job["device"], job["base-node"], job["backing-file"] = upper, st.node(below), filepath.Base(below)
		if err := m.Execute(ctx, "block-stream", job, nil); err != nil {
			return err
		}
		return m.finish(ctx, foldJob(i))
	case s.Into == checkpoint.Own:
		job["device"], job["base-node"] = upper, lower
		if err := m.Execute(ctx, "block-commit", job, nil); err != nil {
			return err
		}
		j, err := m.awaitJob(ctx, foldJob(i), "ready")
		if err == nil && (j == nil || j.Status != "ready") {
			err = errors.Join(m.finish(ctx, foldJob(i)), fmt.Errorf("the job ended before it was ready: %w", snapshot.ErrBusy))
		}
		return err
	}
	// The image above is told the name that it knows: the one that the result takes.
	job["device"], job["top-node"], job["base-node"] = st.nodes[0], upper, lower
	job["backing-file"] = filepath.Base(layerPath(d, s.Into))
	if err := m.Execute(ctx, "block-commit", job, nil); err != nil {
		return err
	}
	if err := m.finish(ctx, foldJob(i)); err != nil {
		return err
	}
	return c.takeName(layerPath(d, s.Node), layerPath(d, s.Into))
}

// settleDown moves the VM onto the images that have everything now. It stands still
// meanwhile, so that both images of a disk say the same when the one takes the place of
// the other.
func (c *checkpointing) settleDown(ctx context.Context, m *monitor, s checkpoint.Step, stacks []stack) error {
	return c.paused(ctx, m, stacks, func() error {
		var errs []error
		for i, st := range stacks {
			errs = append(errs, c.pivotDown(ctx, m, s, i, st))
		}
		return errors.Join(errs...)
	})
}

func (c *checkpointing) pivotDown(ctx context.Context, m *monitor, s checkpoint.Step, i int, st stack) error {
	done, err := c.folded(st.disk, s)
	if err != nil || done {
		return err
	}
	lower := layerPath(st.disk, s.Node)
	err = m.Execute(ctx, "job-complete", args{"id": foldJob(i)}, nil)
	if err == nil || refused(err) { // it may have ended meanwhile
		err = errors.Join(err, m.finish(ctx, foldJob(i)))
	}
	if err != nil {
		return fmt.Errorf("disk %s: %w", st.disk.Name, err)
	}
	now, err := c.stack(ctx, m, st.disk)
	if err != nil {
		return err
	}
	if now.drive.Inserted.Node != st.node(lower) {
		return fmt.Errorf("disk %s: its job ends without moving it: %w", st.disk.Name, snapshot.ErrBusy)
	}
	return c.takeName(lower, st.disk.Path)
}

// paused does fn while the VM stands still, and flushes all images. A VM that stood still
// before goes on doing so.
func (c *checkpointing) paused(ctx context.Context, m *monitor, stacks []stack, fn func() error) error {
	status, err := m.status(ctx)
	if err != nil {
		return err
	}
	c.tree.Op.Running = status == "running"
	c.tree.Op.Nodes = nil
	for i := range stacks {
		c.tree.Op.Nodes = append(c.tree.Op.Nodes, stacks[i].node(layerPath(stacks[i].disk, c.tree.Op.Node)))
	}
	if err := c.reach(stepPaused); err != nil {
		return err
	}
	if err := m.Execute(ctx, "stop", nil, nil); err != nil {
		return err
	}
	c.step("fold-paused")
	err = fn()
	if !c.tree.Op.Running {
		return err
	}
	on, cancel := context.WithTimeout(context.WithoutCancel(ctx), resumeTimeout)
	defer cancel()
	return errors.Join(err, m.Execute(on, "cont", nil, nil))
}
