package qemu

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/checkpoint"
)

// stepPaused is the step of an operation that has stopped the VM and is about to let it
// go on.
const stepPaused = "paused"

// Remove marks checkpoints as gone, and does what can be done about their images.
func (c *checkpointing) Remove(ctx context.Context, ids []string) error {
	before := c.tree
	c.tree.Nodes = append([]checkpoint.Node(nil), before.Nodes...)
	c.tree.Delete(ids...)
	c.tree.Strip()
	if s, ok := c.tree.Next(); ok && !s.Drop {
		if err := errors.Join(c.ready(ctx), c.roomToFold(s)); err != nil { // nothing is marked that cannot be begun
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
		_, err := c.Host.plan(ctx, m, checkpoint.NewID())
		return err
	}, c.unused)
}

// reduce does the steps that there are. What one of them frees is there for the next.
func (c *checkpointing) reduce(ctx context.Context) error {
	for {
		if err := c.sweep(ctx); err != nil { // everything works without
			c.opt.Log.Warn("files that no checkpoint needs any more are left for the end", "vm", c.vm, "error", err)
		}
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
		files := append(c.Paths(&n), c.placing(&n)...)
		if s.Drop {
			c.step("drop")
		}
		c.tree.Done(s)
		if err := c.endDone(ctx, files); err != nil {
			return err
		}
	}
}

// endDone notes that a step is done, whatever became of ctx.
func (c *checkpointing) endDone(ctx context.Context, files []string) error {
	after, cancel := owed(ctx)
	defer cancel()
	return c.endLive(after, files...)
}

// placing are the names by which the images of a checkpoint are put in other places.
func (c *checkpointing) placing(n *checkpoint.Node) (list []string) {
	for _, d := range c.tree.Disks {
		list = append(list, layerPath(d, n.ID)+placeEnding)
	}
	return list
}

// fold makes one image of two on every disk. One that fails leaves the VM on images that its
// paths name.
func (c *checkpointing) fold(ctx context.Context, s checkpoint.Step) error {
	err := c.roomToFold(s)
	if err == nil {
		err = c.live(ctx, func(m *monitor) error { return c.foldLive(ctx, m, s) }, func() error {
			if err := c.unused(); err != nil {
				return err
			}
			return c.foldFiles(ctx, s)
		})
	}
	if err == nil {
		return nil
	}
	after, cancel := owed(ctx)
	defer cancel()
	return errors.Join(err, c.giveUp(after, s))
}

// giveUp ends a fold that has failed. Where every disk still has both images, it is as if it
// had not begun: what was written says the same in either.
func (c *checkpointing) giveUp(ctx context.Context, s checkpoint.Step) error {
	partly := false
	err := c.live(ctx, func(m *monitor) error {
		if m.proc.instance == c.tree.Op.Instance && c.tree.Op.Step == stepPaused {
			if err := c.settleAgain(ctx, m); err != nil {
				return err
			}
		}
		for i, d := range c.tree.Disks {
			if err := m.abandon(ctx, foldJob(i)); err != nil {
				return err
			}
			st, err := c.stack(ctx, m, d)
			if err != nil {
				return err
			}
			partly = partly || s.Into != checkpoint.Own && st.node(c.upper(d, s)) == "" && st.node(layerPath(d, s.Node)) != ""
		}
		return nil
	}, func() error { return nil })
	if err != nil || partly || slices.ContainsFunc(c.tree.Disks, func(d checkpoint.Disk) bool { return c.written(d, s) }) {
		return err // the next start goes on
	}
	return c.end()
}

// written tells whether a disk's image above has all that it had of the one between, and
// rests upon the next.
func (c *checkpointing) written(d checkpoint.Disk, s checkpoint.Step) bool {
	return !s.First && restsOn(c.upper(d, s), snapshot.Layer{Path: layerPath(d, s.Node), Format: snapshot.FormatQcow2}) != nil
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
		if err := c.foldFile(ctx, s, d); err != nil {
			return fmt.Errorf("disk %s: %w", d.Name, err)
		}
	}
	return nil
}

func (c *checkpointing) foldFile(ctx context.Context, s checkpoint.Step, d checkpoint.Disk) error {
	done, err := c.folded(d, s)
	if err != nil || done {
		return err
	}
	if s.First {
		err = c.writeDown(ctx, c.upper(d, s), layerPath(d, s.Node))
	} else {
		err = c.writeUp(ctx, c.upper(d, s), layerPath(d, s.Node), layerPath(d, c.tree.Find(s.Node).Parent))
	}
	if err == nil {
		c.step("fold-disk")
	}
	return err
}

// writeDown writes an image into the one below, which takes its name.
func (c *checkpointing) writeDown(ctx context.Context, upper, lower string) error {
	below := snapshot.Layer{Path: lower, Format: snapshot.FormatQcow2}
	if err := errors.Join(restsOn(upper, below), ownData(below)); err != nil {
		return err
	}
	name, err := describedAs([]snapshot.Layer{{Path: upper, Format: snapshot.FormatQcow2}, below}, false, discardOf(c.wiped()))
	if err != nil {
		return fmt.Errorf("name %s: %w", upper, err)
	}
	if err := c.writing(ctx, "commit", "-q", "-d", name); err != nil {
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
	return c.place(upper, lower)
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
func (c *checkpointing) writeUp(ctx context.Context, upper, lower, below string) error {
	if restsOn(upper, snapshot.Layer{Path: below, Format: snapshot.FormatQcow2}) != nil { // not done by an earlier attempt
		if err := restsOn(upper, snapshot.Layer{Path: lower, Format: snapshot.FormatQcow2}); err != nil {
			return err
		}
	}
	if err := ownData(snapshot.Layer{Path: lower, Format: snapshot.FormatQcow2}, snapshot.Layer{Path: below, Format: snapshot.FormatQcow2}); err != nil {
		return err
	}
	if err := c.writing(ctx, "rebase", "-q", "-f", "qcow2", "-b", filepath.Base(below), "-F", "qcow2", upper); err != nil {
		return err
	}
	return syncFile(upper)
}

// foldLive folds beside a QEMU that runs: with QEMU where it has the images open.
func (c *checkpointing) foldLive(ctx context.Context, m *monitor, s checkpoint.Step) error {
	c.tree.Op.Instance = m.proc.instance
	stacks := make([]stack, len(c.tree.Disks))
	for i, d := range c.tree.Disks {
		err := m.abandon(ctx, foldJob(i)) // of an attempt that was cut off
		if err == nil {
			stacks[i], err = c.stack(ctx, m, d)
		}
		if err != nil {
			return fmt.Errorf("disk %s: %w", d.Name, err)
		}
	}
	for i, st := range stacks {
		if err := c.foldBeside(ctx, m, s, i, st); err != nil {
			return fmt.Errorf("disk %s: %w", st.disk.Name, err)
		}
	}
	var err error
	if !s.First {
		err = c.settleUp(ctx, m, stacks)
	} else if s.Into == checkpoint.Own {
		err = c.settleDown(ctx, m, s, stacks)
	}
	if err != nil {
		return err
	}
	after, cancel := owed(ctx)
	defer cancel()
	return c.closeUnused(after, m)
}

// foldBeside finds out what is left to do for a disk, and does it.
func (c *checkpointing) foldBeside(ctx context.Context, m *monitor, s checkpoint.Step, i int, st stack) error {
	done, err := c.folded(st.disk, s)
	if err != nil || done {
		return err
	}
	lower := layerPath(st.disk, s.Node)
	switch above, below := st.node(c.upper(st.disk, s)) != "", st.node(lower) != ""; {
	case !above && !below: // not where the VM runs
		return c.foldFile(ctx, s, st.disk)
	case !below:
		return nil // it has left the chain
	case !above && s.First && s.Into != checkpoint.Own:
		return c.takeName(lower, c.upper(st.disk, s)) // it has everything, but not the name yet
	}
	if err := c.foldDisk(ctx, m, s, i, st); err != nil {
		return err
	}
	c.step("fold-disk")
	return nil
}

// abandon ends a job whatever it has come to. What it has written is right, and is written
// again.
func (m *monitor) abandon(ctx context.Context, id string) error {
	err := m.Execute(ctx, "job-cancel", args{"id": id}, nil)
	if err != nil && !refused(err) {
		return err
	}
	return ignoreRefused(m.finish(ctx, id))
}

func foldJob(disk int) string { return fmt.Sprintf("lullcp-fold-%d", disk) }

// foldDisk folds the images of a disk that QEMU has open, but for the very end where it is
// the VM's own that is written down.
func (c *checkpointing) foldDisk(ctx context.Context, m *monitor, s checkpoint.Step, i int, st stack) error {
	d := st.disk
	upper, lower := st.node(c.upper(d, s)), st.node(layerPath(d, s.Node))
	if upper == "" {
		return c.strange(fmt.Errorf("QEMU does not have %s open", c.upper(d, s)))
	}
	job := args{"job-id": foldJob(i), "auto-dismiss": false}
	switch {
	case !s.First:
		below := layerPath(d, c.tree.Find(s.Node).Parent)
		job["device"], job["base-node"], job["backing-file"] = upper, st.node(below), filepath.Base(below)
		job["auto-finalize"] = false // settleUp does
		if err := m.Execute(ctx, "block-stream", job, nil); err != nil {
			return err
		}
		return c.reached(ctx, m, foldJob(i), "pending")
	case s.Into == checkpoint.Own:
		job["device"], job["base-node"] = upper, lower
		if err := m.Execute(ctx, "block-commit", job, nil); err != nil {
			return err
		}
		return c.reached(ctx, m, foldJob(i), "ready")
	}
	// The image above is told the name that it knows: the one that the result takes.
	job["device"], job["top-node"], job["base-node"] = st.nodes[0], upper, lower
	job["backing-file"] = filepath.Base(layerPath(d, s.Into))
	if err := m.Execute(ctx, "block-commit", job, nil); err != nil {
		return err
	}
	if err := m.finishTelling(ctx, foldJob(i), c.roomy); err != nil {
		return err
	}
	return c.takeName(layerPath(d, s.Node), layerPath(d, s.Into))
}

// reached waits until a job has come to a state.
func (c *checkpointing) reached(ctx context.Context, m *monitor, id, state string) error {
	j, err := m.watchJob(ctx, id, c.roomy, state)
	if err == nil && (j == nil || j.Status != state) {
		err = errors.Join(m.finish(ctx, id), fmt.Errorf("the job ended before it was %s: %w", state, snapshot.ErrBusy))
	}
	return err
}

// settleUp ends the jobs that have written images up: each tells its image to rest upon
// another, at once, so all that was written has to be on the disk before. Nothing flushes
// QEMU's own tables but a VM that stops. It stands still until all have ended: QEMU 7.2 has
// crashed where a guest wrote while the image between went.
func (c *checkpointing) settleUp(ctx context.Context, m *monitor, stacks []stack) error {
	return c.paused(ctx, m, stacks, func(ctx context.Context) error {
		for i := range stacks {
			err := m.Execute(ctx, "job-finalize", args{"id": foldJob(i)}, nil)
			if err == nil || refused(err) { // there is none where the disk was done before
				err = m.finish(ctx, foldJob(i))
			}
			if err != nil {
				return fmt.Errorf("disk %s: %w", stacks[i].disk.Name, err)
			}
			c.step("fold-settled")
		}
		// The image says so by now, in QEMU; and before that below goes, on the disk.
		return m.Execute(ctx, "stop", nil, nil)
	})
}

// settleDown moves the VM onto the images that have everything now. It stands still
// meanwhile, so that both images of a disk say the same when the one takes the place of
// the other; and it goes on only when every path names the image that it is on.
func (c *checkpointing) settleDown(ctx context.Context, m *monitor, s checkpoint.Step, stacks []stack) error {
	for _, d := range c.tree.Disks {
		done, err := c.folded(d, s)
		if err == nil && !done {
			err = c.setAside(d.Path, replacedBy(layerPath(d, s.Node)))
		}
		if err != nil {
			return fmt.Errorf("disk %s: %w", d.Name, err)
		}
	}
	err := c.paused(ctx, m, stacks, func(ctx context.Context) error {
		var errs []error
		for i, st := range stacks {
			errs = append(errs, c.pivotDown(ctx, m, s, i, st))
		}
		return errors.Join(errs...)
	})
	if err != nil {
		return err
	}
	for _, d := range c.tree.Disks {
		if done, err := c.folded(d, s); err != nil || !done {
			return errors.Join(err, fmt.Errorf("disk %s: its job ends without moving it: %w", d.Name, snapshot.ErrBusy))
		}
	}
	return nil
}

// pivotDown has QEMU move a disk. What can fail afterwards for want of room is done before.
func (c *checkpointing) pivotDown(ctx context.Context, m *monitor, s checkpoint.Step, i int, st stack) error {
	done, err := c.folded(st.disk, s)
	if err != nil || done {
		return err
	}
	if err := readyToPlace(layerPath(st.disk, s.Node)); err != nil {
		return err
	}
	err = m.Execute(ctx, "job-complete", args{"id": foldJob(i)}, nil)
	if err == nil || refused(err) { // it may have ended meanwhile
		err = errors.Join(err, m.finish(ctx, foldJob(i)))
	}
	if err != nil {
		return fmt.Errorf("disk %s: %w", st.disk.Name, err)
	}
	c.step("fold-pivoted")
	return nil
}

// paused does fn while the VM stands still, with all images flushed. Nothing of that is cut
// short. A VM that stood still before goes on doing so.
func (c *checkpointing) paused(ctx context.Context, m *monitor, stacks []stack, fn func(context.Context) error) error {
	status, err := m.status(ctx)
	if err != nil {
		return err
	}
	c.tree.Op.Running = status == "running"
	c.tree.Op.Nodes = nil
	for i := range stacks {
		c.tree.Op.Nodes = append(c.tree.Op.Nodes, stacks[i].node(layerPath(stacks[i].disk, c.tree.Op.Node)))
	}
	return c.guarded(ctx, func() error {
		if err := c.reach(stepPaused); err != nil {
			return err
		}
		after, cancel := owed(ctx)
		defer cancel()
		err := c.halt(after, m)
		c.step("fold-paused")
		if err == nil {
			err = fn(after)
		}
		return errors.Join(err, c.settleAgain(after, m))
	})
}
