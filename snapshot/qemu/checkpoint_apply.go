package qemu

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/checkpoint"
	"github.com/lull-backup/lull/snapshot/durable"
)

// Steps of an Apply.
const (
	stepSwitch = "switch" // the VM is stopped, and its disks are moved onto other images in QEMU
	stepLoad   = "load"   // its memory is exchanged; once that has begun only the end is right
	stepPlace  = "place"  // the images take the place of its own
	stepResume = "resume" // the VM goes on
)

// Apply takes the VM back to a checkpoint.
func (c *checkpointing) Apply(ctx context.Context, n checkpoint.Node, cold bool) error {
	op := checkpoint.Op{Kind: checkpoint.Apply, Node: n.ID, Run: checkpoint.NewID(), Cold: cold || n.Memory == nil}
	err := c.live(ctx, func(m *monitor) error { return c.mayApply(ctx, m, n, &op) }, func() error { return c.mayApplyOff(op) })
	if err != nil {
		return err
	}
	if op.Instance == "" {
		return c.applyGuarded(ctx, op, n)
	}
	return c.guarded(ctx, func() error { return c.applyGuarded(ctx, op, n) })
}

func (c *checkpointing) applyGuarded(ctx context.Context, op checkpoint.Op, n checkpoint.Node) error {
	if err := c.begin(op); err != nil {
		return err
	}
	c.step("apply-begun")
	after, cancel := owed(ctx)
	defer cancel()
	if err := c.freshImages(ctx, n); err != nil {
		return errors.Join(err, c.takeBack(after))
	}
	c.step("apply-made")
	if op.Instance == "" {
		return c.placeAll(after)
	}
	return c.live(after, func(m *monitor) error { return c.switchLive(ctx, m, n) }, func() error {
		return errors.Join(fmt.Errorf("the VM has ended: %w", snapshot.ErrGone), c.takeBack(after))
	})
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
	if err := m.resets(); err != nil {
		return err
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

// resets fails where a reset ends QEMU.
func (m *monitor) resets() error {
	for _, o := range parseOptions(m.proc.commandLine()) {
		if o.name == "no-reboot" || o.name == "action" && strings.Contains(o.value, "reboot=shutdown") {
			return snapshot.WithHint(fmt.Errorf("its QEMU ends where the VM is reset (-%s): %w", o.name, snapshot.ErrUnsupported),
				"shut the VM down and apply it with --cold then, or with its memory where it has any")
		}
	}
	return nil
}

// holdsFile tells whether a file of the VM is as it was.
func holdsFile(f checkpoint.File) (bool, error) {
	was, err := durable.ReadFile(f.Kept, snapshot.MaxFileSize)
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
		own := ownPath(d, c.tree.Op.Run)
		err := c.makeImage(ctx, imageOptions{path: own, backing: layerPath(d, n.ID), like: d.Path, wiped: c.wiped()})
		if err == nil {
			err = errors.Join(readyToPlace(own), c.setAside(d.Path, replacedBy(own)))
		}
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

// switchLive goes back in the QEMU that runs.
func (c *checkpointing) switchLive(ctx context.Context, m *monitor, n checkpoint.Node) error {
	brief, cancel := c.briefly(ctx)
	defer cancel()
	after, cancelAfter := owed(ctx)
	defer cancelAfter()
	err := c.leave(brief, m, n)
	if err != nil {
		return errors.Join(because(brief, err), c.switchBack(after, m))
	}
	return c.exchange(after, m, n)
}

// leave moves the VM's disks onto fresh images, while it stands still. All that can be found
// out about the memory was looked at before.
func (c *checkpointing) leave(ctx context.Context, m *monitor, n checkpoint.Node) error {
	c.tree.Op.Nodes = nil
	for _, d := range c.tree.Disks {
		s, err := c.stack(ctx, m, d)
		if err != nil {
			return err
		}
		c.tree.Op.Nodes = append(c.tree.Op.Nodes, s.drive.Inserted.Node)
	}
	if err := c.reach(stepSwitch); err != nil {
		return err
	}
	if err := c.openMemory(ctx, m, n); err != nil {
		return err
	}
	c.step("apply-ready")
	if err := c.halt(ctx, m); err != nil {
		return err
	}
	c.step("apply-stopped")
	if err := c.switchDisks(ctx, m); err != nil {
		return err
	}
	c.step("apply-switched")
	if err := ctx.Err(); err != nil { // the last moment for that
		return err
	}
	return c.reach(stepLoad)
}

// exchange brings back what is not on the disks, and lets the VM go on from the checkpoint.
// QEMU cannot be kept from loading memory to the end, and only then can the VM go on: so it
// may take as long as it takes. It can be repeated.
func (c *checkpointing) exchange(ctx context.Context, m *monitor, n checkpoint.Node) error {
	c.step("apply-loading")
	err := c.bringBack(context.WithoutCancel(ctx), m, n)
	ctx, cancel := owed(ctx) // from now on
	defer cancel()
	if errors.Is(err, errNotBegun) {
		return errors.Join(err, c.switchBack(ctx, m))
	}
	if err != nil && !errors.Is(err, errLoad) {
		return err // what became of it, the next attempt finds out
	}
	c.step("apply-loaded")
	if reachErr := c.reach(stepPlace); reachErr != nil {
		return errors.Join(err, reachErr)
	}
	return errors.Join(err, c.placeAll(ctx))
}

// switchDisks moves the disks onto fresh images.
func (c *checkpointing) switchDisks(ctx context.Context, m *monitor) error {
	for i, d := range c.tree.Disks {
		s, err := c.stack(ctx, m, d)
		if err != nil {
			return err
		}
		node := checkpointNode(c.tree.Op.Run, i)
		own := opening{path: ownPath(d, c.tree.Op.Run), node: node, as: s.drive.Inserted, chain: true}
		if err := m.openImage(ctx, own); err != nil {
			return err
		}
		if err := m.give(ctx, s.drive, node); err != nil {
			return err
		}
		c.step("apply-switching")
	}
	return nil
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

// switchBack gives the VM what it had, where its memory is still what it was, and lets it go
// on. It can be repeated.
func (c *checkpointing) switchBack(ctx context.Context, m *monitor) error {
	for i, d := range c.tree.Disks {
		if err := c.giveBack(ctx, m, d, i); err != nil {
			return fmt.Errorf("disk %s: %w", d.Name, err)
		}
	}
	if err := c.closeMemory(ctx, m); err != nil {
		return err
	}
	if err := c.carryOn(ctx, m); err != nil {
		return err
	}
	return c.takeBack(ctx)
}

// giveBack gives a disk the image that it had, and closes the fresh one. A node that QEMU
// itself had made has gone with its device: then the image is opened anew.
func (c *checkpointing) giveBack(ctx context.Context, m *monitor, d checkpoint.Disk, i int) error {
	s, err := c.stack(ctx, m, d)
	if err != nil {
		return err
	}
	g, err := m.graph(ctx)
	if err != nil {
		return err
	}
	node := checkpointNode(c.tree.Op.Run, i)
	if s.drive.Inserted.Node == node {
		before, err := c.nodeBefore(ctx, m, d, i, s)
		if err != nil {
			return err
		}
		if err := m.give(ctx, s.drive, before); err != nil {
			return err
		}
	}
	return m.closeChain(ctx, g, append(g.chain(node), fileNode(node)))
}

// nodeBefore is the node that a disk had.
func (c *checkpointing) nodeBefore(ctx context.Context, m *monitor, d checkpoint.Disk, i int, s stack) (string, error) {
	nodes, err := m.nodes(ctx, true)
	if err != nil {
		return "", err
	}
	if i < len(c.tree.Op.Nodes) && findNode(nodes, c.tree.Op.Nodes[i]) != nil {
		return c.tree.Op.Nodes[i], nil
	}
	again := checkpointNode(c.tree.Op.Run, i) + "-again"
	if err := m.closeChain(ctx, blockGraph{}, []string{again, fileNode(again)}); err != nil { // of an attempt that was cut off
		return "", err
	}
	return again, m.openImage(ctx, opening{path: d.Path, node: again, as: s.drive.Inserted, chain: true})
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
		if err := c.closeMemory(ctx, m); err != nil {
			return err
		}
		return c.closeUnused(ctx, m) // before the names that they go by are others'
	}, func() error {
		if err := c.unused(); err != nil {
			return err
		}
		for _, f := range n.Files {
			if err := c.putBack(f); err != nil {
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
	c.step("apply-placing")
	for _, d := range c.tree.Disks {
		if err := c.place(d.Path, ownPath(d, op.Run)); err != nil {
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
	c.halted = false
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
		file := cmp.Or(g.child(n.Name, "file"), n.Name) // that of an image that was closed is left alone
		if n.Type != "block-driver" || used[n.ID] || !c.ofTree(m, findNode(nodes, file)) {
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

// putBack is putFile of a VM whose files are wiped, where they are.
func (c *checkpointing) putBack(f checkpoint.File) error {
	same, err := holdsFile(f)
	if err == nil && same {
		return nil
	}
	if info, err := os.Lstat(f.Path); err == nil && info.Mode().IsRegular() {
		if err := c.setAside(f.Path, beside(f.Path, c.tree.Op.Run, replacedEnding)); err != nil {
			return err
		}
	}
	return putFile(f)
}

// putFile makes a file of the VM what it was, with the owner and mode that it has.
func putFile(f checkpoint.File) error {
	was, err := durable.ReadFile(f.Kept, snapshot.MaxFileSize)
	if err != nil {
		return fmt.Errorf("bring back %s: %w", f.Path, err)
	}
	if now, err := durable.ReadFile(f.Path, snapshot.MaxFileSize); err == nil && bytes.Equal(was, now) {
		return nil
	}
	s, err := durable.Stage(f.Path, func(file *os.File) error {
		_, err := file.Write(was)
		if info, statErr := os.Stat(f.Path); err == nil && statErr == nil {
			err = adopt(file, info)
		}
		return err
	})
	if err == nil {
		err = s.Put(true)
	}
	if err != nil {
		return fmt.Errorf("bring back file of VM: %w", spaceOr(err))
	}
	return nil
}
