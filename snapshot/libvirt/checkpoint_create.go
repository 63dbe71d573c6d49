package libvirt

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/checkpoint"
	"github.com/lull-backup/lull/snapshot/durable"
	"github.com/lull-backup/lull/snapshot/libvirt/domainxml"
	"github.com/lull-backup/lull/snapshot/libvirt/rpc"
	"github.com/lull-backup/lull/snapshot/qemu"
)

// errTooLong: the memory was not written in time.
var errTooLong = errors.New("the domain has stood still for as long as it may")

// Create makes a checkpoint of the domain as it is.
func (c *checkpointing) Create(ctx context.Context, n snapshot.NewCheckpoint) (string, error) {
	if err := c.tree.MayAdd(n); err != nil {
		return "", err
	}
	id := checkpoint.NewID()
	p, s, err := c.plan(ctx, id)
	if err != nil {
		return "", err
	}
	need := int64(0)
	if n.Memory {
		if p.State != snapshot.StateRunning { // QEMU would give its images up, as after a migration
			return "", snapshot.WithHint(fmt.Errorf("the domain stands still, and its memory is written only of one that runs: %w", snapshot.ErrUnsupported),
				"let it go on (virsh resume "+snapshot.ShellWord(c.id.name)+"), or give --no-memory")
		}
		need = p.Saved.Limit
	}
	if err := c.enough(need); err != nil {
		return "", err
	}
	op := checkpoint.Op{Kind: checkpoint.Create, Node: id, Run: id, Instance: p.Instance, Running: p.State == snapshot.StateRunning}
	if err := c.begin(op); err != nil {
		return "", err
	}
	node, err := c.freezeInto(ctx, p, s, n)
	after, cancel := owed(ctx)
	defer cancel()
	if err != nil {
		return "", errors.Join(err, c.undoCreate(after))
	}
	c.tree.Add(node)
	c.tree.Own = c.fresh(id)
	return id, c.end(after)
}

// plan looks at the domain as a snapshot does, and makes sure that it can have checkpoints.
func (c *checkpointing) plan(ctx context.Context, id string) (p snapshot.Plan, s sight, err error) {
	if p, err = c.Plan(ctx, c.id.name, id); err != nil {
		return p, s, err
	}
	if p.State == snapshot.StateOff {
		return p, s, snapshot.WithHint(fmt.Errorf("the domain is off: %w", snapshot.ErrUnsupported), "start it: virsh start "+snapshot.ShellWord(c.id.name))
	}
	if s, err = c.look(ctx); err != nil {
		return p, s, err
	}
	if err = c.suits(p); err == nil {
		err = c.byFile(p, s)
	}
	if err == nil {
		err = errors.Join(c.atHome(s), c.lasting(ctx, s))
	}
	if err == nil {
		err = c.clear(ctx, s)
	}
	return p, s, err
}

// byFile fails where libvirt finds the image of a disk for itself, as that of a volume: which one
// the domain is on could not be seen in its definitions.
func (c *checkpointing) byFile(p snapshot.Plan, s sight) error {
	for _, d := range p.Disks {
		if s.now.source(d.Name) == "" || s.next.source(d.Name) == "" {
			return snapshot.WithHint(fmt.Errorf("the domain's definition names no file for its disk %s, but such as a volume of a pool: %w", d.Name, snapshot.ErrUnsupported),
				"shut it down, and put <disk type='file'> and <source file='"+escape(d.Path)+"'/> there (virsh edit "+snapshot.ShellWord(c.id.name)+")")
		}
	}
	return nil
}

// lasting fails for a domain that has no definition for its next start.
func (c *checkpointing) lasting(ctx context.Context, s sight) error {
	err := c.dom.link.ask(ctx, func(conn *rpc.Conn) error {
		_, err := conn.Metadata(ctx, s.dom, domainxml.Namespace, rpc.AffectConfig)
		return err
	})
	switch {
	case rpc.HasCode(err, rpc.CodeNoDomainMetadata):
		return nil
	case rpc.HasCode(err, rpc.CodeOperationInvalid, rpc.CodeInvalidArg):
		return snapshot.WithHint(fmt.Errorf("the domain is transient, it would not start again: %w", snapshot.ErrUnsupported),
			"define it: virsh dumpxml "+snapshot.ShellWord(c.id.name)+" --inactive --security-info > domain.xml; virsh define domain.xml")
	}
	return err
}

// suits fails where a disk could not go back with the others.
func (c *checkpointing) suits(p snapshot.Plan) error {
	err := checkpoint.Suits(p, "shut the domain down, convert the disk with qemu-img convert -O qcow2, and give it that with virsh edit")
	if err != nil {
		return err
	}
	if err := c.ours(p); err != nil {
		return err
	}
	var disks []checkpoint.Disk
	var names, images []string
	for _, d := range p.Disks {
		disks, names, images = append(disks, checkpoint.Disk{Name: d.Name, Path: d.Path}), append(names, d.Name), append(images, d.Path)
	}
	if len(c.tree.Nodes) == 0 {
		c.tree.Disks, c.tree.Own = disks, images
		return nil
	}
	return c.sameDisks(names)
}

// ours fails where a disk has an image of checkpoints that this tree does not know, as that of a
// domain that was defined anew under another UUID.
func (c *checkpointing) ours(p snapshot.Plan) error {
	owned := map[string]bool{}
	for _, n := range c.tree.Nodes {
		for i := range n.Images {
			owned[n.Images[i]], owned[c.tree.Own[i]] = true, true
		}
	}
	for _, d := range p.Disks {
		for _, l := range d.Chain {
			first := ownedFile.FindStringSubmatch(l.Path)
			if first == nil || owned[l.Path] {
				continue
			}
			// Without a base virsh would write on into what the domain's first image rests upon.
			return snapshot.WithHint(fmt.Errorf("disk %s: %s is of a checkpoint, and its tree is elsewhere: %w", d.Name, l.Path, snapshot.ErrDiverged),
				"give the domain back the UUID under which its checkpoints were made, and state_dir what it was; or, to give the checkpoints up: virsh blockcommit "+
					snapshot.ShellWord(c.id.name)+" "+snapshot.ShellWord(d.Name)+" --base "+snapshot.ShellWord(first[1])+" --active --pivot")
		}
	}
	return nil
}

// sameDisks fails where the domain has other disks than its checkpoints.
func (c *checkpointing) sameDisks(names []string) error {
	var known []string
	for _, d := range c.tree.Disks {
		known = append(known, d.Name)
	}
	slices.Sort(known)
	if slices.Sort(names); !slices.Equal(names, known) {
		return snapshot.WithHint(fmt.Errorf("the domain has other disks (%s) than its checkpoints (%s): %w", strings.Join(names, ", "), strings.Join(known, ", "), snapshot.ErrUnsupported),
			"give it the disks that it had, or remove the checkpoints first: lull checkpoint merge")
	}
	return nil
}

// freezeInto makes the images, and has libvirt freeze the domain's own as those of the
// checkpoint.
func (c *checkpointing) freezeInto(ctx context.Context, p snapshot.Plan, s sight, n snapshot.NewCheckpoint) (node checkpoint.Node, err error) {
	op := c.tree.Op
	node = checkpoint.Node{ID: op.Node, Name: n.Name, Hardware: p.Hardware, Images: slices.Clone(c.tree.Own)}
	c.step("create-begun")
	if err := c.makeImages(ctx, c.tree.Own, c.fresh(op.Run)); err != nil {
		return node, err
	}
	kept := c.definitionPath(op.Node)
	if err := durable.Put(kept, []byte(s.next.text), 0o600, true); err != nil {
		return node, fmt.Errorf("keep definition: %w", err)
	}
	node.Files = []checkpoint.File{{File: snapshot.File{Role: snapshot.RoleDefinition, Path: definitionPath}, Kept: kept}}
	c.step("create-made")
	memory := ""
	if n.Memory {
		memory = beside(c.tree.Disks[0].Path, op.Node, memoryEnding)
		node.Memory = &checkpoint.Memory{Path: memory, Limit: p.Saved.Limit}
	}
	if err := c.freezeAll(ctx, p, s, memory); err != nil {
		return node, err
	}
	node.Created = time.Now()
	c.step("create-frozen")
	if err := c.settleFrozen(ctx, node.Memory); err != nil {
		return node, err
	}
	if node.Written, err = written(node.Images); err != nil {
		return node, err
	}
	if err := c.loadable(ctx, node); err != nil {
		return node, err
	}
	files, err := c.keepFiles(p, node.ID)
	node.Files = append(node.Files, files...)
	return node, err
}

// loadable fails where the memory could not be loaded again, as that of a domain which was given
// what its definition does not have.
func (c *checkpointing) loadable(ctx context.Context, n checkpoint.Node) error {
	if n.Memory == nil {
		return nil
	}
	_, err := c.ranAs(ctx, n)
	if errors.Is(err, snapshot.ErrUnsupported) || errors.Is(err, snapshot.ErrCorrupt) {
		err = snapshot.WithHint(err, "give the definition what the domain runs with, or take it from the domain (virsh attach-device or detach-device --config; virsh edit "+
			snapshot.ShellWord(c.id.name)+"), or give --no-memory")
	}
	if err != nil {
		return fmt.Errorf("memory of the checkpoint: %w", err)
	}
	return nil
}

// makeImages makes an empty image upon each of some.
func (c *checkpointing) makeImages(ctx context.Context, below, fresh []string) error {
	return c.using(func(q *qemu.Host) error {
		for i, path := range fresh {
			if err := q.MakeOverlay(ctx, path, layerOf(below[i]), c.wiped()); err != nil {
				return fmt.Errorf("disk %s: %w", c.tree.Disks[i].Name, err)
			}
		}
		return nil
	})
}

// freezeAll is one external snapshot, which libvirt forgets at once. memory is a file for the
// domain's; empty: it keeps that to itself.
func (c *checkpointing) freezeAll(ctx context.Context, p snapshot.Plan, s sight, memory string) error {
	p.Disks = slices.Clone(p.Disks)
	fresh := c.targets(c.fresh(c.tree.Op.Run))
	for i := range p.Disks {
		p.Disks[i].Delta = fresh[p.Disks[i].Name]
	}
	text, err := snapshotXML(s.now, p)
	if err != nil {
		return err
	}
	flags := uint32(rpc.SnapshotReuse | rpc.SnapshotAtomic | rpc.SnapshotNoMetadata)
	if memory == "" {
		flags |= rpc.SnapshotDiskOnly
	} else {
		text = strings.Replace(text, "<disks>", "<memory snapshot='external' file='"+escape(memory)+"'/><disks>", 1)
	}
	stop := c.opt.CheckpointStop
	if stop == 0 {
		stop = usualStop
	}
	brief, cancel := context.WithTimeoutCause(ctx, stop, snapshot.WithHint(fmt.Errorf("%w: %v", errTooLong, stop),
		"raise max_stop of checkpoints, or give --no-memory"))
	defer cancel()
	return c.abortable(brief, s.dom, func(ctx context.Context, conn *rpc.Conn) error {
		_, err := conn.SnapshotCreate(ctx, s.dom, text, flags)
		return err
	})
}

// abortable has something done that libvirt can give up, and waits until it is done or given
// up: nobody else may touch its files before.
func (c *checkpointing) abortable(ctx context.Context, d rpc.Domain, do func(context.Context, *rpc.Conn) error) error {
	whole, cancel := owed(ctx)
	defer cancel()
	done := make(chan error, 1)
	go func() {
		done <- c.dom.link.order(whole, func(conn *rpc.Conn) error { return do(whole, conn) })
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	again := time.NewTicker(tick)
	defer again.Stop()
	for {
		// There may be none yet, or any more. What job it is libvirt says only when this has ended.
		_ = c.dom.link.ask(whole, func(conn *rpc.Conn) error { return conn.AbortJob(whole, d) })
		select {
		case err := <-done:
			if err != nil {
				err = errors.Join(context.Cause(ctx), err)
			}
			return err
		case <-again.C:
		}
	}
}

// settleFrozen waits until both definitions name the new images, and makes durable what libvirt
// has written.
func (c *checkpointing) settleFrozen(ctx context.Context, memory *checkpoint.Memory) error {
	fresh := c.fresh(c.tree.Op.Run)
	s, err := c.await(ctx, "the domain goes on on its new images", func(s sight) bool { return !s.on || c.runs(s, fresh) })
	if err == nil {
		err = c.define(ctx, s, fresh)
	}
	if err == nil {
		err = noted()
	}
	if err != nil || memory == nil {
		return err
	}
	info, err := os.Stat(memory.Path)
	if err != nil {
		return err
	}
	memory.Stream = info.Size()
	return errors.Join(os.Chmod(memory.Path, 0o600), durable.SyncFile(memory.Path), durable.SyncFolder(filepath.Dir(memory.Path)))
}

// endSnapshot ends a snapshot that libvirt makes of the domain with its memory; one without is
// soon over, or its user's. What else libvirt is at is that, and an error. busy: it was at one.
func (c *checkpointing) endSnapshot(ctx context.Context, conn *rpc.Conn, d rpc.Domain) (busy bool, err error) {
	kind, what, err := conn.Job(ctx, d)
	if err != nil || kind != rpc.JobBounded && kind != rpc.JobUnbounded {
		return false, err
	}
	if what != rpc.JobSnapshot {
		return true, c.otherJob()
	}
	if _, err := os.Stat(beside(c.tree.Disks[0].Path, c.tree.Op.Node, memoryEnding)); err == nil {
		_ = conn.AbortJob(ctx, d) // it may have ended by itself
	}
	return true, nil
}
