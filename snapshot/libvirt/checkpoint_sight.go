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
	"github.com/lull-backup/lull/snapshot/libvirt/domainxml"
	"github.com/lull-backup/lull/snapshot/libvirt/rpc"
)

// sight is a domain as libvirt has it.
type sight struct {
	dom  rpc.Domain
	on   bool
	now  diskList // of one that is on
	next diskList // at the next start
}

func (c *checkpointing) look(ctx context.Context) (s sight, err error) {
	if s.dom, s.on, err = c.dom.find(ctx); err != nil {
		return s, err
	}
	if s.on {
		if s.now, err = c.dom.xml(ctx, s.dom, 0); err != nil {
			return s, err
		}
	}
	s.next, err = c.dom.xml(ctx, s.dom, rpc.XMLInactive|rpc.XMLSecure)
	return s, err
}

// names tells whether a file is of the domain's, in whatever definition.
func (s sight) names(path string) bool {
	in := func(d listed) bool {
		return sameFile(d.source, path) || slices.ContainsFunc(d.backing, func(b string) bool { return sameFile(b, path) })
	}
	return slices.ContainsFunc(s.now.disks, in) || slices.ContainsFunc(s.next.disks, in)
}

// unneeded fails where somebody has one of some files, or a layer upon one.
func (c *checkpointing) unneeded(ctx context.Context, s sight, files []string) error {
	for _, path := range files {
		if s.names(path) {
			return c.strange(fmt.Errorf("the domain uses %s, which is of no checkpoint any more", path))
		}
	}
	for _, d := range s.next.disks { // libvirt keeps no layers in this one: the images say
		over, err := d.over(files...)
		if err != nil {
			return snapshot.WithHint(fmt.Errorf("nobody can tell what the disk %s lies upon: %w: %w", d.target, snapshot.ErrBusy, err),
				"look at it with qemu-img info --backing-chain "+snapshot.ShellWord(d.source)+", and run lull again once it can be read")
		}
		if over {
			return c.strange(fmt.Errorf("%s of its disk %s lies upon an image that is of no checkpoint any more", d.source, d.target))
		}
	}
	return c.unshared(ctx, files)
}

// unshared fails where another domain has one of some files, or a layer upon one.
func (c *checkpointing) unshared(ctx context.Context, files []string) error {
	var list []rpc.Domain
	err := c.dom.all.ask(ctx, func(conn *rpc.Conn) (err error) {
		list, err = conn.Domains(ctx)
		return err
	})
	for _, other := range list {
		if err == nil && other.UUID != c.id.uuid {
			err = c.apart(ctx, other, files)
		}
	}
	return err
}

// apart fails where that domain does so, in either definition.
func (c *checkpointing) apart(ctx context.Context, other rpc.Domain, files []string) error {
	for _, flags := range []uint32{0, rpc.XMLInactive} {
		def, err := c.dom.xmlOf(ctx, c.dom.all, other, flags)
		if errors.Is(err, snapshot.ErrNotFound) || errors.Is(err, errXML) {
			return nil // it has gone, or nobody can read it
		}
		if err != nil {
			return err
		}
		for _, d := range def.disks {
			has, _ := d.over(files...) // what nobody can read nobody starts from
			if has || slices.ContainsFunc(files, func(f string) bool { return sameFile(d.source, f) }) {
				return snapshot.WithHint(fmt.Errorf("%s, which the domain %s has for its disk %s, needs an image of the checkpoints: %w", d.source, other.Name, d.target, snapshot.ErrBusy),
					"give it an image of its own (shut it down; qemu-img convert -O qcow2 "+snapshot.ShellWord(d.source)+" NEW; virsh edit "+snapshot.ShellWord(other.Name)+"), and run lull again")
			}
		}
	}
	return nil
}

// runs tells whether a domain that is on writes to these images, and starts whether it does at
// its next start.
func (c *checkpointing) runs(s sight, images []string) bool {
	return s.on && c.hasAll(s.now, images)
}

func (c *checkpointing) starts(s sight, images []string) bool { return c.hasAll(s.next, images) }

func (c *checkpointing) hasAll(def diskList, images []string) bool {
	for i, d := range c.tree.Disks {
		if i >= len(images) || !sameFile(def.source(d.Name), images[i]) {
			return false
		}
	}
	return true
}

// atHome fails where the domain does not have the images that its tree says.
func (c *checkpointing) atHome(s sight) error {
	for i, d := range c.tree.Disks {
		own := c.tree.Own[i]
		if now, _ := s.now.disk(d.Name); s.on && slices.ContainsFunc(now.backing, func(b string) bool { return sameFile(b, own) }) {
			return snapshot.WithHint(fmt.Errorf("another layer, %s, lies on the domain's image %s: %w", now.source, own, snapshot.ErrBusy),
				"merge it with the tool that made it, or: virsh blockcommit "+snapshot.ShellWord(c.id.name)+" "+snapshot.ShellWord(d.Name)+" --active --shallow --pivot")
		}
		if s.on && !sameFile(s.now.source(d.Name), own) {
			return c.strayed(s.now.source(d.Name), fmt.Errorf("its disk %s is on %s, and not on %s", d.Name, s.now.source(d.Name), own))
		}
		if !sameFile(s.next.source(d.Name), own) {
			return c.strayed(s.next.source(d.Name), fmt.Errorf("its definition has %s for the disk %s, and not %s", s.next.source(d.Name), d.Name, own))
		}
	}
	return nil
}

// clear fails where what libvirt itself keeps of the domain would not outlive an exchange of
// its images: snapshots and checkpoints of its user, a memory, a block job, or what it is at, such
// as a migration or a backup; and where a domain that is off runs elsewhere.
func (c *checkpointing) clear(ctx context.Context, s sight) error {
	var snapshots, checkpoints []string
	var saved bool
	var state rpc.State
	var why int
	err := c.dom.link.ask(ctx, func(conn *rpc.Conn) (err error) {
		if state, why, err = conn.State(ctx, s.dom); err != nil {
			return err
		}
		if snapshots, err = conn.Snapshots(ctx, s.dom); err != nil {
			return err
		}
		if checkpoints, err = conn.Checkpoints(ctx, s.dom); err != nil {
			return err
		}
		if saved, err = conn.HasManagedSave(ctx, s.dom); err != nil || !s.on {
			return err
		}
		kind, _, err := conn.Job(ctx, s.dom)
		if err == nil && (kind == rpc.JobBounded || kind == rpc.JobUnbounded) {
			err = c.otherJob()
		}
		return err
	})
	name := snapshot.ShellWord(c.id.name)
	switch {
	case err != nil:
		return err
	case len(snapshots) > 0:
		return snapshot.WithHint(fmt.Errorf("the domain has snapshots of libvirt's (%s), which would name images that are not its own any more: %w", some(snapshots), snapshot.ErrBusy),
			"remove them first (virsh snapshot-delete "+name+" NAME; with --metadata one whose images you have merged yourself), or go on with virsh alone")
	case len(checkpoints) > 0:
		return snapshot.WithHint(fmt.Errorf("the domain has checkpoints of libvirt's (%s), whose records of changes lie in its images: %w", some(checkpoints), snapshot.ErrBusy),
			"remove them first (virsh checkpoint-delete "+name+" NAME), or go on with virsh alone")
	case saved:
		return snapshot.WithHint(fmt.Errorf("the domain was saved with its memory, which goes on with the images that it has: %w", snapshot.ErrBusy),
			"start it (virsh start "+name+"), or throw that memory away (virsh managedsave-remove "+name+")")
	case state == rpc.StateShutoff && why == shutoffSaved:
		return snapshot.WithHint(fmt.Errorf("the domain was saved into a file with its memory, which goes on with the images that it has: %w", snapshot.ErrBusy),
			"restore it (virsh restore FILE), or, without that memory, start it (virsh start "+name+"); then run lull again")
	case state == rpc.StateShutoff && why == shutoffMigrated:
		return snapshot.WithHint(fmt.Errorf("the domain was migrated away, and runs there from its images: %w", snapshot.ErrBusy),
			"migrate it back, then run lull again; where it ended there, start it here once (virsh start "+name+")")
	}
	for _, d := range c.tree.Disks {
		if s.now.mirrored(d.Name) && c.tree.Op == nil {
			return snapshot.WithHint(fmt.Errorf("libvirt has a job on the disk %s: %w", d.Name, snapshot.ErrBusy), "wait for its end (virsh blockjob), or end it")
		}
	}
	return nil
}

// otherJob is the error for a domain that libvirt is at something else with.
func (c *checkpointing) otherJob() error {
	return snapshot.WithHint(fmt.Errorf("libvirt is at something else with the domain, such as a migration or a backup: %w", snapshot.ErrBusy),
		"wait for its end (virsh domjobinfo "+snapshot.ShellWord(c.id.name)+"), and run lull again")
}

// some are the first of a list of names.
func some(names []string) string {
	const few = 3
	if len(names) > few {
		return strings.Join(names[:few], ", ") + ", ..."
	}
	return strings.Join(names, ", ")
}

// define has the domain start from these images the next time. What its definition says of
// those below goes: the images name them.
func (c *checkpointing) define(ctx context.Context, s sight, images []string) error {
	layered := slices.ContainsFunc(s.next.disks, func(d listed) bool {
		return len(d.backing) > 0 && slices.ContainsFunc(c.tree.Disks, func(x checkpoint.Disk) bool { return x.Name == d.target })
	})
	if c.starts(s, images) && !layered {
		return nil
	}
	return c.defineAs(ctx, s.next.text, images)
}

// defineAs defines the domain by a definition of it, upon these images.
func (c *checkpointing) defineAs(ctx context.Context, text string, images []string) error {
	moved, err := c.moved(text, images)
	if err != nil {
		return err
	}
	return c.dom.link.order(ctx, func(conn *rpc.Conn) error {
		_, err := conn.Define(ctx, moved)
		return err
	})
}

// moved is a definition of the domain upon other images, under the name that it has now.
func (c *checkpointing) moved(text string, images []string) (string, error) {
	def, err := domainxml.Parse(text)
	if err != nil {
		return "", err
	}
	def.Move(c.targets(images))
	def.Rename(c.id.name)
	return def.String(), nil
}

// await waits until the domain is as it should be.
func (c *checkpointing) await(ctx context.Context, what string, is func(sight) bool) (s sight, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, settle, fmt.Errorf("libvirt does not say that %s: %w", what, snapshot.ErrBusy))
	defer cancel()
	again := time.NewTicker(tick)
	defer again.Stop()
	for {
		if s, err = c.look(ctx); err != nil || is(s) {
			return s, err
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return s, context.Cause(ctx)
		}
	}
}

// fits fails where a backup of the domain would read what is not its own: an operation on its
// checkpoints was cut off, or it is on the image of a checkpoint.
func (h *Host) fits(d rpc.Domain, p snapshot.Plan) error {
	c := &checkpointing{Host: h, id: identity{d.UUID, d.Name}, path: h.treePath(d.UUID)}
	if err := c.load(); err != nil {
		return err
	}
	if op := c.tree.Op; op != nil {
		return snapshot.WithHint(fmt.Errorf("%s of the checkpoint %s was interrupted: %w", op.Kind, op.Node, snapshot.ErrMergePending),
			"let lull recover: lull checkpoint list "+snapshot.ShellWord(d.Name)+" --recover")
	}
	for i, x := range c.tree.Disks {
		j := slices.IndexFunc(p.Disks, func(y snapshot.DiskPlan) bool { return y.Name == x.Name })
		if j >= 0 && len(c.tree.Nodes) > 0 && !sameFile(p.Disks[j].Path, c.tree.Own[i]) {
			return c.strange(fmt.Errorf("its disk %s is %s, and not %s", x.Name, p.Disks[j].Path, c.tree.Own[i]))
		}
	}
	return nil
}
