package qemu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/checkpoint"
)

// Steps of an Apply.
const (
	stepSwitch = "switch" // the VM stands still, and its disks are moved onto other images in QEMU
	stepPlace  = "place"  // these take the place of its own: from here on only the end is right
	stepResume = "resume" // the VM goes on
)

// apply takes the VM back to a checkpoint.
func (c *checkpointing) apply(ctx context.Context, n checkpoint.Node, cold bool) error {
	op := checkpoint.Op{Kind: checkpoint.Apply, Node: n.ID, Run: newID(), Cold: cold || n.Memory == nil}
	err := c.live(ctx, func(m *monitor) error { return c.mayApply(ctx, m, n, &op) }, func() error { return c.mayApplyOff(op) })
	if err != nil {
		return err
	}
	if err := c.begin(op); err != nil {
		return err
	}
	c.step("apply-begun")
	if err := c.freshImages(ctx, n); err != nil {
		return errors.Join(err, c.takeBack(ctx))
	}
	c.step("apply-made")
	if op.Instance == "" {
		return c.placeAll(ctx)
	}
	if err := c.reach(stepSwitch); err != nil {
		return err
	}
	return c.live(ctx, func(m *monitor) error { return c.switchLive(ctx, m, n) }, func() error { return c.takeBack(ctx) })
}

// mayApply looks whether the running VM can go back.
func (c *checkpointing) mayApply(ctx context.Context, m *monitor, n checkpoint.Node, op *checkpoint.Op) error {
	p, err := c.Host.plan(ctx, m, op.Run)
	if err != nil {
		return err
	}
	if err := c.suits(p); err != nil {
		return err
	}
	op.Instance, op.Running = p.Instance, p.State == snapshot.StateRunning
	if !op.Cold {
		return fitsMemory(n.Hardware, p.Hardware)
	}
	for _, f := range n.Files {
		same, err := holdsFile(f)
		if err == nil && !same {
			err = snapshot.WithHint(fmt.Errorf("the firmware's variables differ, and a running QEMU does not read them again: %w", snapshot.ErrUnsupported),
				"shut the VM down and apply it then, or with its memory where it has any")
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// holdsFile tells whether a file of the VM is as it was.
func holdsFile(f checkpoint.File) (bool, error) {
	was, err := readFile(f.Kept, snapshot.MaxFileSize)
	if err != nil {
		return false, err
	}
	return holds(f.Path, was)
}

// mayApplyOff is mayApply of a VM that does not run.
func (c *checkpointing) mayApplyOff(op checkpoint.Op) error {
	if err := c.unused(); err != nil {
		return err
	}
	if !op.Cold {
		return snapshot.WithHint(fmt.Errorf("the VM does not run, so its memory cannot be brought back: %w", snapshot.ErrUnsupported),
			"start the VM and apply it then, or give --cold: it starts from its disks")
	}
	return nil
}

// freshImages makes an empty image upon the checkpoint's for each disk.
func (c *checkpointing) freshImages(ctx context.Context, n checkpoint.Node) error {
	for _, d := range c.tree.Disks {
		err := c.makeImage(ctx, imageOptions{path: ownPath(d, c.tree.Op.Run), backing: layerPath(d, n.ID), like: d.Path})
		if err != nil {
			return err
		}
	}
	return nil
}

// fresh are the names of the images that the operation under way makes.
func (c *checkpointing) fresh() (list []string) {
	for _, d := range c.tree.Disks {
		own := ownPath(d, c.tree.Op.Run)
		list = append(list, own, own+placeEnding)
	}
	return list
}

// takeBack ends an Apply that has changed nothing.
func (c *checkpointing) takeBack(ctx context.Context) error { return c.endLive(ctx, c.fresh()...) }

// switchLive goes back in the QEMU that runs. It can be repeated.
func (c *checkpointing) switchLive(ctx context.Context, m *monitor, n checkpoint.Node) error {
	if err := m.Execute(ctx, "stop", nil, nil); err != nil {
		return err
	}
	c.step("apply-stopped")
	before, err := c.switchDisks(ctx, m)
	if err == nil {
		c.step("apply-switched")
		err = c.bringBack(ctx, m, n)
	}
	lost := errors.Is(err, errLoad)
	if err != nil && !lost {
		back, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
		defer cancel()
		return errors.Join(err, c.switchBack(back, m, before))
	}
	c.step("apply-loaded")
	if err := c.reach(stepPlace); err != nil {
		return err
	}
	return errors.Join(err, c.placeAll(ctx))
}

// switchDisks moves the disks onto fresh images. before is the node that each had.
func (c *checkpointing) switchDisks(ctx context.Context, m *monitor) (before map[string]string, err error) {
	before = map[string]string{}
	for i, d := range c.tree.Disks {
		s, err := c.stack(ctx, m, d)
		if err != nil {
			return before, err
		}
		node := checkpointNode(c.tree.Op.Run, i)
		if s.drive.Inserted.Node == node {
			continue
		}
		if err := m.closeChain(ctx, blockGraph{}, []string{node, fileNode(node)}); err != nil { // of an attempt that was cut off
			return before, err
		}
		own := opening{path: ownPath(d, c.tree.Op.Run), node: node, as: s.drive.Inserted, chain: true}
		if err := m.openImage(ctx, own); err != nil {
			return before, err
		}
		if err := m.give(ctx, s.drive, node); err != nil {
			return before, err
		}
		before[d.Name] = s.drive.Inserted.Node
	}
	return before, nil
}

// give makes a node the medium of a drive.
func (m *monitor) give(ctx context.Context, b block, node string) error {
	return m.Execute(ctx, "qom-set", args{"path": qomPath(b.QDev), "property": "drive", "value": node}, nil)
}

// bringBack brings back what is not on the disks: the memory, or the state of a machine
// that was just switched on.
func (c *checkpointing) bringBack(ctx context.Context, m *monitor, n checkpoint.Node) error {
	if c.tree.Op.Cold {
		return m.Execute(ctx, "system_reset", nil, nil)
	}
	return c.loadMemory(ctx, m, n)
}

// switchBack gives the VM what it had, where it cannot go back, and lets it go on.
func (c *checkpointing) switchBack(ctx context.Context, m *monitor, before map[string]string) error {
	g, err := m.graph(ctx)
	if err != nil {
		return err
	}
	for i, d := range c.tree.Disks {
		s, err := c.stack(ctx, m, d)
		if err != nil {
			return err
		}
		node := checkpointNode(c.tree.Op.Run, i)
		if s.drive.Inserted.Node == node {
			if before[d.Name] == "" {
				return nil // another process has moved it: the next attempt goes on from here
			}
			if err := m.give(ctx, s.drive, before[d.Name]); err != nil {
				return err
			}
		}
		if err := m.closeChain(ctx, g, append(g.chain(node), fileNode(node))); err != nil {
			return err
		}
	}
	if c.tree.Op.Running {
		if err := m.Execute(ctx, "cont", nil, nil); err != nil {
			return err
		}
	}
	return c.takeBack(ctx)
}

// placeAll makes the fresh images those that the VM starts from, and lets a VM that waits for
// that go on. It can be repeated.
func (c *checkpointing) placeAll(ctx context.Context) error {
	op := c.tree.Op
	n := c.tree.Find(op.Node)
	if n == nil {
		return c.strange(fmt.Errorf("no checkpoint %s", op.Node))
	}
	err := c.live(ctx, func(m *monitor) error {
		if op.Instance != m.proc.instance {
			return c.placedElsewhere()
		}
		return c.closeUnused(ctx, m) // before the names that they go by are others'
	}, func() error {
		if err := c.unused(); err != nil {
			return err
		}
		for _, f := range n.Files {
			if err := putFile(f); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	if op.Step != stepPlace {
		if err := c.reach(stepPlace); err != nil {
			return err
		}
	}
	for _, d := range c.tree.Disks {
		if err := place(d, ownPath(d, op.Run)); err != nil {
			return err
		}
		c.step("apply-placed")
	}
	c.tree.Now = op.Node
	if err := c.reach(stepResume); err != nil {
		return err
	}
	return c.goOn(ctx)
}

// goOn lets the VM go on from the checkpoint, and ends the operation.
func (c *checkpointing) goOn(ctx context.Context) error {
	op := c.tree.Op
	c.step("apply-resuming")
	err := c.live(ctx, func(m *monitor) error {
		if m.proc.instance != op.Instance || !op.Running && op.Cold {
			return nil
		}
		return m.Execute(ctx, "cont", nil, nil)
	}, func() error { return nil })
	if err != nil {
		return err
	}
	c.step("apply-resumed")
	return c.endLive(ctx, c.fresh()...)
}

// closeUnused closes what was opened by name for the disks of the tree, and is in no chain
// any more.
func (c *checkpointing) closeUnused(ctx context.Context, m *monitor) error {
	g, err := m.graph(ctx)
	if err != nil {
		return err
	}
	nodes, err := m.nodes(ctx, true)
	if err != nil {
		return err
	}
	used := map[int64]bool{}
	for _, e := range g.Edges {
		used[e.Child] = true
	}
	for _, n := range g.Nodes {
		if n.Type != "block-driver" || used[n.ID] || !c.ofTree(m, findNode(nodes, g.child(n.Name, "file"))) {
			continue
		}
		if err := m.closeChain(ctx, g, g.chain(n.Name)); err != nil {
			return err
		}
	}
	return nil
}

// ofTree tells whether the node of a file is of an image of the tree's disks.
func (c *checkpointing) ofTree(m *monitor, n *inserted) bool {
	if n == nil {
		return false
	}
	path, ok := m.proc.find(n.File)
	return ok && slices.ContainsFunc(c.tree.Disks, func(d checkpoint.Disk) bool {
		found := ownedFile.FindStringSubmatch(path)
		return realPath(path) == d.Path || found != nil && found[1] == d.Path
	})
}

// placedElsewhere: the VM was started anew in the middle. Where it runs from what has its
// place by now, all is well; where not all has, only who stops it can help.
func (c *checkpointing) placedElsewhere() error {
	for _, d := range c.tree.Disks {
		placed, err := sameFile(d.Path, ownPath(d, c.tree.Op.Run))
		if err != nil {
			return err
		}
		if !placed {
			return snapshot.WithHint(fmt.Errorf("the VM was started while checkpoint %s was being applied, and disk %s was not moved yet: %w",
				c.tree.Op.Node, d.Name, snapshot.ErrDiverged), "stop the VM and run lull again: it goes on where it was")
		}
	}
	return nil
}

// putFile makes a file of the VM what it was, with the owner and mode that it has.
func putFile(f checkpoint.File) error {
	was, err := readFile(f.Kept, snapshot.MaxFileSize)
	if err != nil {
		return fmt.Errorf("bring back %s: %w", f.Path, err)
	}
	if now, err := readFile(f.Path, snapshot.MaxFileSize); err == nil && bytes.Equal(was, now) {
		return nil
	}
	info, statErr := os.Stat(f.Path)
	if err := writeFile(f.Path, was, 0o600, true); err != nil || statErr != nil {
		return err
	}
	file, err := os.OpenFile(f.Path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	return errors.Join(adopt(file, info), file.Close())
}
