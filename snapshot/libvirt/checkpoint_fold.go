package libvirt

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/checkpoint"
	"github.com/lull-backup/lull/snapshot/image"
	"github.com/lull-backup/lull/snapshot/libvirt/rpc"
	"github.com/lull-backup/lull/snapshot/qemu"
)

// Images are always folded downwards: what rests alone upon the image of a checkpoint that is
// gone is written into that, and takes over its path. Nobody else looks at the lower one
// meanwhile, so it may be begun anew at any time; and both show the same afterwards, until
// nobody has the upper one any more.

// Remove marks checkpoints as gone, and does what can be done about their images.
func (c *checkpointing) Remove(ctx context.Context, ids []string) error {
	c.tree.Delete(ids...)
	c.tree.Strip()
	if s, ok := c.tree.Next(); ok { // nothing is marked that cannot be begun
		if err := c.may(ctx, s); err != nil {
			return err
		}
	}
	if err := c.save(); err != nil {
		return err
	}
	c.step("delete-marked")
	return c.reduceMarked(ctx)
}

// ready makes sure that the domain's images can be worked on.
func (c *checkpointing) ready(ctx context.Context) error {
	s, err := c.look(ctx)
	if err == nil {
		err = c.atHome(s)
	}
	if err == nil {
		err = c.clear(ctx, s)
	}
	return err
}

// may fails where a step cannot be begun.
func (c *checkpointing) may(ctx context.Context, s checkpoint.Step) error {
	err := c.ready(ctx)
	files := c.imagesOf(s.Node)
	if err == nil && !s.Drop {
		upper := c.imagesOf(s.Into)
		files, err = slices.Concat(files, upper), c.roomToFold(upper)
	}
	if err == nil {
		err = c.unshared(ctx, files)
	}
	return err
}

// imagesOf are those of a checkpoint, or the domain's own.
func (c *checkpointing) imagesOf(id string) []string {
	if id == checkpoint.Own {
		return c.tree.Own
	}
	return c.tree.Find(id).Images
}

// reduce does the steps that there are.
func (c *checkpointing) reduce(ctx context.Context) error {
	for {
		s, ok := c.tree.Next()
		if op := c.tree.Op; op != nil && (!ok || s.Drop || s.Node != op.Node || s.Into != op.Into) {
			return c.strange(fmt.Errorf("the merge of checkpoint %s into %q was under way, and the tree does not have it", op.Node, op.Into))
		}
		if !ok {
			return nil
		}
		junk := c.tree.Find(s.Node).Paths()
		if s.Drop {
			if err := c.may(ctx, s); err != nil {
				return fmt.Errorf("remove checkpoint %s: %w", s.Node, err)
			}
		} else {
			if err := c.fold(ctx, s); err != nil {
				return fmt.Errorf("merge checkpoint %s: %w", s.Node, err)
			}
			lower := c.tree.Find(s.Node).Images
			junk = append(slices.Clone(c.imagesOf(s.Into)), junk[len(lower):]...)
			if s.Into == checkpoint.Own {
				c.tree.Own = lower
			} else {
				c.tree.Find(s.Into).Images = lower
				if err := c.rewritten(s.Into); err != nil {
					return fmt.Errorf("merge checkpoint %s: %w", s.Node, err)
				}
			}
		}
		c.tree.Done(s)
		c.step("fold-done")
		after, cancel := owed(ctx)
		err := c.end(after, junk...)
		cancel()
		if err != nil {
			return err
		}
	}
}

// fold makes one image of two on every disk.
func (c *checkpointing) fold(ctx context.Context, s checkpoint.Step) error {
	if c.tree.Op == nil {
		if err := c.may(ctx, s); err != nil {
			return err
		}
		if err := c.begin(checkpoint.Op{Kind: checkpoint.Fold, Node: s.Node, Into: s.Into}); err != nil {
			return err
		}
	}
	c.step("fold-begun")
	err := c.foldAll(ctx, s)
	if err == nil {
		return nil
	}
	after, cancel := owed(ctx)
	defer cancel()
	return errors.Join(err, c.giveUp(after, s))
}

// giveUp ends a fold that has failed. Where the domain has moved on no disk, it is as if it had
// not begun: what was written says the same in either image.
func (c *checkpointing) giveUp(ctx context.Context, s checkpoint.Step) error {
	look, err := c.look(ctx)
	if err != nil {
		return err
	}
	if look.on {
		for _, d := range c.tree.Disks {
			err := c.dom.link.ask(ctx, func(conn *rpc.Conn) error {
				job, there, err := conn.BlockJobOf(ctx, look.dom, d.Name)
				if err != nil || !there || job.Type != rpc.BlockJobCommit && job.Type != rpc.BlockJobActiveCommit { // a copy is its user's
					return err
				}
				return conn.BlockJobAbort(ctx, look.dom, d.Name, 0)
			})
			if _, refused := errors.AsType[*rpc.Error](err); err != nil && !refused { // it has ended
				return err
			}
		}
		if look, err = c.look(ctx); err != nil {
			return err
		}
	}
	moving := !look.on && strings.HasPrefix(c.tree.Op.Step, stepPivot) // it ended as it moved, or right after
	if moving || c.atHome(look) != nil || c.touched(s) {
		return nil // the next start goes on
	}
	return c.end(ctx)
}

// touched tells whether an image was pointed to the lower one of a fold already.
func (c *checkpointing) touched(s checkpoint.Step) bool {
	if s.Into == checkpoint.Own {
		return false
	}
	lower := c.tree.Find(s.Node).Images
	for _, above := range c.above(s.Into) {
		for i, path := range above {
			if info, err := image.Inspect(path, snapshot.FormatQcow2); err != nil || sameFile(info.Backing, lower[i]) {
				return true
			}
		}
	}
	return false
}

// above are the images that rest upon those of a checkpoint.
func (c *checkpointing) above(id string) (list [][]string) {
	for _, child := range c.tree.Children(id) {
		list = append(list, c.imagesOf(child))
	}
	if c.tree.Now == id {
		list = append(list, c.tree.Own)
	}
	return list
}

func (c *checkpointing) foldAll(ctx context.Context, s checkpoint.Step) error {
	look, err := c.look(ctx)
	if err == nil { // its user may have saved it since this was begun
		err = c.clear(ctx, look)
	}
	if err != nil {
		return err
	}
	if s.Into == checkpoint.Own {
		return c.foldOwn(ctx, s, look)
	}
	upper, lower := c.imagesOf(s.Into), c.imagesOf(s.Node)
	live := look.on && slices.Contains(c.tree.Path(c.tree.Now), s.Into)
	for i, d := range c.tree.Disks {
		if live {
			err = c.foldMiddle(ctx, look, i, upper[i], lower[i])
		} else {
			err = c.commitFile(ctx, upper[i], lower[i])
		}
		if err != nil {
			return fmt.Errorf("disk %s: %w", d.Name, err)
		}
		c.step("fold-disk")
	}
	for _, above := range c.above(s.Into) {
		if err := c.repoint(ctx, above, upper, lower); err != nil {
			return err
		}
	}
	c.step("fold-repointed")
	if look, err = c.look(ctx); err != nil {
		return err
	}
	return c.define(ctx, look, c.tree.Own)
}

// repoint has images rest upon the lower ones. QEMU has done so with that of a domain that
// runs.
func (c *checkpointing) repoint(ctx context.Context, above, upper, lower []string) error {
	return c.using(func(q *qemu.Host) error {
		for i, path := range above {
			if err := q.Repoint(ctx, path, layerOf(upper[i]), layerOf(lower[i])); err != nil {
				return fmt.Errorf("disk %s: %w", c.tree.Disks[i].Name, err)
			}
		}
		return nil
	})
}

// foldMiddle has libvirt commit an image below that which the domain writes to. It is over where
// the domain has the lower one still, and not the upper one any more: one that has ended, or has
// another disk there, says nothing of that.
func (c *checkpointing) foldMiddle(ctx context.Context, s sight, i int, upper, lower string) error {
	d, own := c.tree.Disks[i], c.tree.Own[i]
	has := func(s sight, path string) bool {
		disk, _ := s.now.disk(d.Name)
		return sameFile(disk.source, own) && slices.ContainsFunc(disk.backing, func(b string) bool { return sameFile(b, path) })
	}
	switch {
	case has(s, lower) && !has(s, upper):
		return nil
	case !has(s, lower):
		return c.strange(fmt.Errorf("its disk does not lie upon %s", lower))
	}
	m, err := c.dom.Dial(ctx)
	if err != nil {
		return err
	}
	defer m.Monitor.Close()
	said := m.Monitor.Subscribe("BLOCK_JOB_COMPLETED", "BLOCK_JOB_CANCELLED")
	defer said.Close()
	if err := c.commitMiddle(ctx, s, d, upper, lower); err != nil {
		return err
	}
	job := commit{disk: d.Name}
	s, err = c.await(ctx, "the commit of disk "+d.Name+" came to its end", func(s sight) bool {
		for len(said.Events()) > 0 {
			job.hear(<-said.Events())
		}
		return !s.on || !has(s, upper) || job.reason != "" || job.ended
	})
	if err == nil && (!has(s, lower) || has(s, upper)) {
		err = job.failed()
	}
	return err
}

// commitMiddle has libvirt begin that commit, or goes on with that of one who was cut off, until
// there is none any more.
func (c *checkpointing) commitMiddle(ctx context.Context, s sight, d checkpoint.Disk, upper, lower string) error {
	var job rpc.BlockJob
	var there bool
	look := func(conn *rpc.Conn) (err error) {
		job, there, err = conn.BlockJobOf(ctx, s.dom, d.Name)
		return err
	}
	err := c.dom.link.ask(ctx, look)
	switch {
	case err != nil:
		return err
	case !there:
		err = c.dom.link.order(ctx, func(conn *rpc.Conn) error {
			return conn.BlockCommit(ctx, s.dom, d.Name, lower, upper, 0, 0)
		})
	case job.Type != rpc.BlockJobCommit:
		err = snapshot.WithHint(fmt.Errorf("libvirt has another job on the disk: %w", snapshot.ErrBusy), "wait for its end (virsh blockjob), or end it")
	}
	if err == nil {
		c.step("fold-committing")
	}
	again := time.NewTicker(tick)
	defer again.Stop()
	for there = true; there && err == nil; {
		select {
		case <-again.C:
			err = errors.Join(c.dom.link.ask(ctx, look), c.tree.Roomy(c.opt.Space))
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
	}
	return err
}

// foldOwn writes what the domain has written since a checkpoint into that one's images, and
// moves the domain there. A disk whose definition has moved is done: its image may hold more by
// now.
func (c *checkpointing) foldOwn(ctx context.Context, s checkpoint.Step, look sight) error {
	upper, lower := c.tree.Own, c.imagesOf(s.Node)
	for i, d := range c.tree.Disks {
		source := look.next.source(d.Name)
		if look.on {
			source = look.now.source(d.Name)
		}
		var err error
		switch {
		case sameFile(source, lower[i]):
			continue
		case !sameFile(source, upper[i]):
			err = c.strange(fmt.Errorf("it is on %s", source))
		case look.on:
			err = c.foldLive(ctx, look, d, upper[i], lower[i])
		default:
			err = c.foldOff(ctx, d, upper[i], lower[i])
		}
		if err != nil {
			return fmt.Errorf("disk %s: %w", d.Name, err)
		}
		c.step("fold-disk")
	}
	return c.moveDown(ctx, upper, lower)
}

// moveDown sees that the domain is on the lower images, in both definitions.
func (c *checkpointing) moveDown(ctx context.Context, upper, lower []string) error {
	s, err := c.await(ctx, "the domain has moved", func(s sight) bool { return !s.on || c.runs(s, lower) })
	if err != nil {
		return err
	}
	if err := c.define(ctx, s, lower); err != nil {
		return err
	}
	c.step("fold-defined")
	if s, err = c.look(ctx); err != nil || !s.on || c.runs(s, lower) {
		return err
	}
	// It was started in between, from the upper images. They say the same, and go on.
	if err := c.define(ctx, s, upper); err != nil {
		return err
	}
	return snapshot.WithHint(fmt.Errorf("the domain has just been started: %w", snapshot.ErrBusy), "run the command again")
}

// foldLive has libvirt commit what a domain that is on writes to, and move it.
func (c *checkpointing) foldLive(ctx context.Context, s sight, d checkpoint.Disk, upper, lower string) error {
	disk, _ := s.now.disk(d.Name)
	if len(disk.backing) == 0 || !sameFile(disk.backing[0], lower) {
		return c.strange(fmt.Errorf("%s does not rest upon %s", upper, lower))
	}
	m, err := c.dom.Dial(ctx)
	if err != nil {
		return err
	}
	defer m.Monitor.Close()
	err = c.dom.Commit(ctx, m.Monitor, snapshot.DiskPlan{Disk: snapshot.Disk{Name: d.Name, Path: lower}}, qemu.Committing{
		Pivot: func() error {
			err := c.reach(stepPivot + d.Name)
			c.step("fold-pivoting")
			return err
		},
		Progress: func(int64, int64) error { return c.tree.Roomy(c.opt.Space) },
	})
	if err != nil {
		return err
	}
	_, err = c.await(ctx, "disk "+d.Name+" has moved", func(s sight) bool {
		now, _ := s.now.disk(d.Name)
		return sameFile(now.source, lower) && !now.mirror
	})
	if err != nil {
		return err
	}
	c.step("fold-pivoted")
	return c.reach("")
}

// foldOff writes a disk's own image into the lower one, of a domain that is off. Where it went
// off as libvirt was told to move it, nobody knows which of the two it has written to last.
func (c *checkpointing) foldOff(ctx context.Context, d checkpoint.Disk, upper, lower string) error {
	if c.tree.Op.Step == stepPivot+d.Name {
		same, err := c.same(ctx, upper, lower)
		if err != nil || same {
			return err
		}
		return snapshot.WithHint(fmt.Errorf("%s and %s differ, and the domain ended as it moved from the one to the other: %w", upper, lower, snapshot.ErrUncertain),
			"look which of the two was written to last (stat): it has all that the domain wrote. Its definition should name the first; for the second give it that (virsh edit "+
				snapshot.ShellWord(c.id.name)+"). Then start it (virsh start "+snapshot.ShellWord(c.id.name)+"), and run lull again")
	}
	return c.commitFile(ctx, upper, lower)
}

func (c *checkpointing) same(ctx context.Context, upper, lower string) (same bool, err error) {
	chain, err := image.ResolveChain(lower, snapshot.FormatQcow2)
	if err != nil {
		return false, err
	}
	err = c.using(func(q *qemu.Host) error {
		same, err = q.SaysTheSame(ctx, upper, chain)
		return err
	})
	return same, err
}

// commitFile writes an image that no QEMU has open into the one below.
func (c *checkpointing) commitFile(ctx context.Context, upper, lower string) error {
	return c.tree.WhileRoomy(ctx, c.opt.Space, func(ctx context.Context) error {
		return c.using(func(q *qemu.Host) error { return q.CommitImage(ctx, upper, layerOf(lower)) })
	})
}
