package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/checkpoint"
	"github.com/lull-backup/lull/snapshot/durable"
)

// plan looks at the VM as a snapshot does, and makes sure that it can have checkpoints.
func (c *checkpointing) plan(ctx context.Context, id string) (p snapshot.Plan, err error) {
	err = c.line.use(ctx, func(m *monitor) error {
		if p, err = c.Host.plan(ctx, m, id); err != nil {
			return err
		}
		if err := m.canRest(ctx, p); err != nil {
			return err
		}
		return m.plainStart()
	})
	if err == nil {
		err = c.suits(p)
	}
	return p, err
}

// canRest fails where a disk is called after its node, which a checkpoint changes, or where
// its image is not all there is to it.
func (m *monitor) canRest(ctx context.Context, p snapshot.Plan) error {
	drives, err := m.drives(ctx)
	if err != nil {
		return err
	}
	for _, b := range drives {
		planned := b.Inserted != nil && slices.ContainsFunc(p.Disks, func(d snapshot.DiskPlan) bool { return d.Node == b.Inserted.Node })
		if planned && b.Inserted.Image.Specific.Data.DataFile != "" {
			return fmt.Errorf("the content of node %s is in a data file of its own: %w", b.Inserted.Node, snapshot.ErrUnsupported)
		}
		if planned && !wellFormed(qdevID(b.QDev)) && !wellFormed(b.Device) {
			return snapshot.WithHint(fmt.Errorf("the device of node %s has no id, and checkpoints need one: %w", b.Inserted.Node, snapshot.ErrUnsupported),
				"start the VM with an id for it: -device ...,drive="+b.Inserted.Node+",id=NAME")
		}
	}
	return nil
}

// ours fails where a disk has an image of checkpoints that this tree does not know, as that
// of a VM that was renamed.
func (c *checkpointing) ours(p snapshot.Plan) error {
	owned := c.owned()
	for _, d := range p.Disks {
		for _, l := range d.Chain {
			path := realPath(l.Path)
			if ownedFile.FindStringSubmatch(path) == nil || owned[path] || c.tree.Known.Files[path] != "" {
				continue
			}
			return snapshot.WithHint(fmt.Errorf("disk %s: %s is of a checkpoint, and its tree is elsewhere: %w", d.Name, l.Path, snapshot.ErrDiverged),
				"give the VM back the name in the configuration under which its checkpoints were made, and state_dir what it was")
		}
	}
	return nil
}

// suits fails where a disk could not go back with the others.
func (c *checkpointing) suits(p snapshot.Plan) error {
	err := checkpoint.Suits(p, "shut the VM down, convert the disk with qemu-img convert -O qcow2, and start it from that")
	if err != nil {
		return err
	}
	if err := c.ours(p); err != nil {
		return err
	}
	var disks []checkpoint.Disk
	for _, d := range p.Disks {
		disks = append(disks, checkpoint.Disk{Name: d.Name, Path: realPath(d.Path)})
	}
	if len(c.tree.Nodes) == 0 {
		c.tree.Disks = disks
		return nil
	}
	if !slices.Equal(disks, c.tree.Disks) {
		return snapshot.WithHint(fmt.Errorf("the VM has other disks than its checkpoints: %w", snapshot.ErrUnsupported),
			"give it the disks that it had, or remove the checkpoints first: lull checkpoint merge")
	}
	return nil
}

// Create makes a checkpoint of the VM as it is.
func (c *checkpointing) Create(ctx context.Context, n snapshot.NewCheckpoint) (id string, err error) {
	if err := c.tree.MayAdd(n); err != nil {
		return "", err
	}
	id = checkpoint.NewID()
	p, err := c.plan(ctx, id)
	if err != nil {
		return "", err
	}
	if err := c.enough(p); err != nil {
		return "", err
	}
	c.layOut(&p, id, n.Memory)
	if n.Memory {
		if err := c.canKeep(ctx, p); err != nil {
			return "", err
		}
	}
	op := checkpoint.Op{Kind: checkpoint.Create, Node: id, Run: id, Instance: p.Instance, Saved: p.Saved,
		Running: p.State == snapshot.StateRunning}
	return id, c.guarded(ctx, func() error { return c.createGuarded(ctx, op, p, n) })
}

// createGuarded makes the checkpoint, or leaves everything as it was.
func (c *checkpointing) createGuarded(ctx context.Context, op checkpoint.Op, p snapshot.Plan, n snapshot.NewCheckpoint) error {
	if err := c.begin(op); err != nil {
		return err
	}
	node, err := c.freezeInto(ctx, p, n)
	after, cancel := owed(ctx)
	defer cancel()
	if err != nil {
		return errors.Join(err, c.undoCreate(after))
	}
	c.tree.Add(node)
	return c.endLive(after)
}

// layOut makes the plan of a snapshot that of a checkpoint.
func (c *checkpointing) layOut(p *snapshot.Plan, id string, memory bool) {
	p.Disks = slices.Clone(p.Disks)
	for i := range p.Disks {
		d := &p.Disks[i]
		d.Delta, d.DeltaNode, d.Export = ownPath(c.tree.Disks[i], id), checkpointNode(id, i), ""
	}
	limit, bandwidth := p.Saved.Limit, p.Saved.Bandwidth
	p.Saved = snapshot.SavedPlan{}
	if memory {
		p.Saved = snapshot.SavedPlan{Path: beside(c.tree.Disks[0].Path, id, memoryEnding), Limit: limit, Bandwidth: bandwidth, Wipe: c.wiped()}
	}
}

// checkpointNode is the node of a VM's own image that an operation made. It does not begin
// as those of deltas do: it stays.
func checkpointNode(run string, disk int) string { return fmt.Sprintf("lullcp-%s-%d", run, disk) }

// belowNode is the node of the image that a new checkpoint has, opened anew.
func belowNode(own string) string { return own + "-below" }

// canKeep fails where the memory could not be kept.
func (c *checkpointing) canKeep(ctx context.Context, p snapshot.Plan) error {
	if p.Saved.Limit == 0 {
		return fmt.Errorf("how much memory the VM has is not known: %w", snapshot.ErrUnsupported)
	}
	err := c.roomForState(p)
	if err == nil {
		err = c.during(ctx, p, func(m *monitor) error { return m.migratable(ctx) })
	}
	if err != nil {
		return snapshot.WithHint(fmt.Errorf("keep memory: %w", err), "--no-memory makes a checkpoint of the disks alone")
	}
	return nil
}

// freezeInto makes the images, and freezes the VM's own as those of the checkpoint.
func (c *checkpointing) freezeInto(ctx context.Context, p snapshot.Plan, n snapshot.NewCheckpoint) (checkpoint.Node, error) {
	op := c.tree.Op
	node := checkpoint.Node{ID: op.Node, Name: n.Name, Hardware: p.Hardware}
	c.step("create-begun")
	for i, d := range c.tree.Disks {
		err := c.makeImage(ctx, imageOptions{path: ownPath(d, op.Run), backing: layerPath(d, node.ID), size: p.Disks[i].Size, like: d.Path, wiped: c.wiped()})
		if err == nil {
			err = errors.Join(os.Link(d.Path, layerPath(d, node.ID)), readyToPlace(ownPath(d, op.Run)), syncDir(d.Path))
		}
		if err != nil {
			return node, fmt.Errorf("disk %s: %w", d.Name, err)
		}
	}
	c.step("create-made")
	if err := c.during(ctx, p, func(m *monitor) error { return c.openFresh(ctx, m, p) }); err != nil {
		return node, err
	}
	if err := c.reach(stepPaused); err != nil {
		return node, err
	}
	c.step("create-opened")
	brief, cancel := c.briefly(ctx)
	defer cancel()
	var err error
	if n.Memory {
		node.Memory, err = c.takeMemory(brief, p)
	} else {
		err = c.takeDisks(brief, p)
	}
	if err != nil {
		return node, because(brief, err)
	}
	node.Created = time.Now()
	c.step("create-frozen")
	node.Files, err = c.keepFiles(ctx, p, node.ID)
	return node, err
}

// openFresh opens the new images beside the running disks.
func (c *checkpointing) openFresh(ctx context.Context, m *monitor, p snapshot.Plan) error {
	drives, err := m.drives(ctx)
	if err != nil {
		return err
	}
	for _, d := range p.Disks {
		in, err := asPlanned(drives, d)
		if err == nil {
			err = m.openImage(ctx, opening{path: d.Delta, node: d.DeltaNode, as: in})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// takeDisks freezes the disks of a VM that stands still for the moment that it takes to put
// the new images in their places.
func (c *checkpointing) takeDisks(ctx context.Context, p snapshot.Plan) error {
	if err := c.during(ctx, p, func(m *monitor) error { return c.halt(ctx, m) }); err != nil {
		return err // undoCreate lets the VM go on, here and below
	}
	c.step("create-stopped")
	if err := c.freeze(ctx, p); err != nil {
		return err
	}
	after, cancel := owed(ctx)
	defer cancel()
	if err := c.settleFrozen(after, p); err != nil {
		return err
	}
	return c.during(after, p, func(m *monitor) error { return c.carryOn(after, m) })
}

// settleFrozen gives the images their names for good while the VM stands still: that which
// QEMU opened by the name that the new one is to have is opened anew by that of the
// checkpoint, as QEMU opens a file again by its name whenever it wants to write to it. It
// can be repeated.
func (c *checkpointing) settleFrozen(ctx context.Context, p snapshot.Plan) error {
	c.step("create-settling")
	return c.during(ctx, p, func(m *monitor) error {
		for i, d := range c.tree.Disks {
			if err := c.renewBelow(ctx, m, d, i); err != nil {
				return fmt.Errorf("disk %s: %w", d.Name, err)
			}
		}
		for _, d := range c.tree.Disks {
			if err := c.place(d.Path, ownPath(d, c.tree.Op.Run)); err != nil {
				return err
			}
			c.step("create-placed")
		}
		return nil
	})
}

// renewBelow opens the image that froze anew, where it was opened by the name of the VM's
// own.
func (c *checkpointing) renewBelow(ctx context.Context, m *monitor, d checkpoint.Disk, i int) error {
	own := checkpointNode(c.tree.Op.Run, i)
	g, err := m.graph(ctx)
	if err != nil {
		return err
	}
	nodes, err := m.nodes(ctx, true)
	if err != nil {
		return err
	}
	chain := g.chain(own)
	if len(chain) < 2 {
		return fmt.Errorf("%s lies upon nothing: %w", own, snapshot.ErrDiverged)
	}
	below, file, top := findNode(nodes, chain[1]), findNode(nodes, g.child(chain[1], "file")), findNode(nodes, own)
	if below == nil || file == nil || top == nil {
		return fmt.Errorf("no node %s: %w", chain[1], snapshot.ErrDiverged)
	}
	if path, ok := m.proc.find(file.File); ok && realPath(path) != d.Path {
		return nil // it keeps the name that it has
	}
	if err := m.closeChain(ctx, g, []string{belowNode(own)}); err != nil { // of an attempt that was cut off
		return err
	}
	if err := m.openImage(ctx, opening{path: layerPath(d, c.tree.Op.Node), node: belowNode(own), as: below, frozen: true, chain: true}); err != nil {
		return err
	}
	a := m.ownOptions(own, top)
	a["backing"] = belowNode(own)
	if err := m.Execute(ctx, "blockdev-reopen", args{"options": []args{a}}, nil); err != nil {
		return err
	}
	return m.closeChain(ctx, g, chain[1:])
}

// opening is an image to be opened.
type opening struct {
	path, node string
	as         *inserted // opened as this is
	frozen     bool      // nobody is to write to it
	chain      bool      // with the images that it names below; else alone
}

// openImage opens it. The file below a frozen one has no name of its own, so that QEMU can
// make both writable when one is merged into the other.
func (m *monitor) openImage(ctx context.Context, o opening) error {
	file := args{"driver": "file", "filename": o.path, "cache": cacheOf(o.as), "discard": discardOf(m.vm.Wipe)}
	a := m.ownOptions(o.node, o.as)
	if !o.chain {
		a["backing"] = nil
	}
	if o.frozen {
		a["file"], a["read-only"] = file, true
		return deltaRefused(m.Execute(ctx, "blockdev-add", a, nil))
	}
	file["node-name"] = fileNode(o.node)
	if err := m.Execute(ctx, "blockdev-add", file, nil); err != nil {
		return deltaRefused(err)
	}
	return deltaRefused(m.Execute(ctx, "blockdev-add", a, nil))
}

// ownOptions are those of an image that is opened as another is.
func (m *monitor) ownOptions(node string, as *inserted) args {
	a := args{"driver": "qcow2", "node-name": node, "file": fileNode(node), "cache": cacheOf(as), "discard": discardOf(m.vm.Wipe)}
	if as.DetectZeroes != "" {
		a["detect-zeroes"] = as.DetectZeroes
	}
	return a
}

func cacheOf(in *inserted) args {
	return args{"direct": in.Cache.Direct, "no-flush": in.Cache.NoFlush}
}

// keepFiles keeps the firmware's variables of the instant.
func (c *checkpointing) keepFiles(ctx context.Context, p snapshot.Plan, id string) (list []checkpoint.File, err error) {
	variables := c.kept(p)
	defer c.keep(p, nil)
	for i, f := range p.Files {
		if f.Role != snapshot.RoleNVRAM {
			continue
		}
		b, ok := variables[f.Path]
		if !ok {
			if b, err = steady(ctx, f.Path); err != nil {
				return list, fmt.Errorf("keep NVRAM: %w", err)
			}
		}
		kept := beside(c.tree.Disks[0].Path, id, fmt.Sprintf("%s%d", nvramEnding, i))
		if err := durable.Put(kept, b, 0o600, true); err != nil {
			return list, fmt.Errorf("keep NVRAM: %w", spaceOr(err))
		}
		list = append(list, checkpoint.File{File: f, Kept: kept})
	}
	return list, nil
}
