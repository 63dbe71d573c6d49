package libvirt

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/libvirt/rpc"
	"github.com/lull-backup/lull/snapshot/qemu"
)

// errLost: libvirt's daemon went away over an order, and nobody knows whether it was
// carried out.
var errLost = qemu.ErrLost

// settle bounds a wait for libvirt to notice what has happened in QEMU.
const (
	settle = 30 * time.Second
	tick   = 100 * time.Millisecond
)

// domain is one domain of libvirt. It implements qemu.Manager.
type domain struct {
	link *link
	name string
}

var _ qemu.Manager = (*domain)(nil)

// find looks the domain up. qemu.ErrOff: it does not run.
func (d *domain) find(ctx context.Context) (found rpc.Domain, on bool, err error) {
	err = d.link.ask(ctx, func(c *rpc.Conn) error {
		if found, err = c.Lookup(ctx, d.name); err != nil {
			return err
		}
		state, _, err := c.State(ctx, found)
		on = !slices.Contains([]rpc.State{rpc.StateNone, rpc.StateShutoff, rpc.StateCrashed}, state) && found.ID >= 0
		return err
	})
	return found, on, err
}

// running is find for what needs a domain that runs.
func (d *domain) running(ctx context.Context) (rpc.Domain, error) {
	found, on, err := d.find(ctx)
	if errors.Is(err, snapshot.ErrNotFound) { // a transient one is gone with its QEMU
		return found, fmt.Errorf("%w: %w", qemu.ErrOff, err)
	}
	if err == nil && !on {
		err = fmt.Errorf("domain %s: %w", d.name, qemu.ErrOff)
	}
	return found, err
}

// Dial finds the domain's QEMU and passes commands on to it.
func (d *domain) Dial(ctx context.Context) (qemu.Managed, error) {
	found, pid, err := d.process(ctx)
	if err != nil {
		return qemu.Managed{}, err
	}
	xml, err := d.xml(ctx, found, 0)
	if err != nil {
		return qemu.Managed{}, err
	}
	p, err := d.pass(ctx, found, pid)
	if err != nil {
		return qemu.Managed{}, err
	}
	return qemu.Managed{Monitor: p, PID: pid, Targets: xml.targets()}, nil
}

// process waits until libvirt and /proc agree: right after the end of QEMU libvirt may not
// know of it yet.
func (d *domain) process(ctx context.Context) (rpc.Domain, int, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, settle, snapshot.WithHint(
		fmt.Errorf("domain %s runs, but its QEMU cannot be seen in /proc: %w", d.name, snapshot.ErrUnsupported),
		"run lull as root on the host itself, not in a container with processes of its own"))
	defer cancel()
	again := time.NewTicker(tick)
	defer again.Stop()
	for {
		found, err := d.running(ctx)
		if err != nil {
			return found, 0, err
		}
		pid, err := findPID(found)
		if err != nil || pid != 0 {
			return found, pid, err
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return found, 0, context.Cause(ctx)
		}
	}
}

// xml is a definition of the domain: flags are rpc's XML constants.
func (d *domain) xml(ctx context.Context, found rpc.Domain, flags uint32) (diskList, error) {
	var text string
	err := d.link.ask(ctx, func(c *rpc.Conn) (err error) {
		text, err = c.XML(ctx, found, flags)
		return err
	})
	if err != nil {
		return diskList{}, err
	}
	return parseDisks(text)
}

// Record is the persistent definition of each disk. A transient domain has none: it will
// not start again.
func (d *domain) Record(ctx context.Context) (map[string]string, error) {
	found, err := d.running(ctx)
	if err != nil {
		return nil, err
	}
	def, err := d.xml(ctx, found, rpc.XMLInactive|rpc.XMLSecure)
	records := map[string]string{}
	for _, disk := range def.disks {
		records[disk.target] = def.record(disk.target)
	}
	return records, err
}

// Freeze is one external snapshot of all disks, which libvirt forgets at once.
func (d *domain) Freeze(ctx context.Context, p snapshot.Plan) error {
	found, err := d.running(ctx)
	if err != nil {
		return err
	}
	xml, err := d.xml(ctx, found, 0)
	if err != nil {
		return err
	}
	text, err := snapshotXML(xml, p)
	if err != nil {
		return err
	}
	const flags = rpc.SnapshotDiskOnly | rpc.SnapshotReuse | rpc.SnapshotAtomic | rpc.SnapshotNoMetadata
	return d.link.order(ctx, func(c *rpc.Conn) error {
		_, err := c.SnapshotCreate(ctx, found, text, flags)
		return err
	})
}

// Stop and Continue go through libvirt, which gives up its locks meanwhile.
func (d *domain) Stop(ctx context.Context) error {
	return d.change(ctx, (*rpc.Conn).Suspend)
}

// Continue lets the domain go on.
func (d *domain) Continue(ctx context.Context) error {
	return d.change(ctx, (*rpc.Conn).Resume)
}

func (d *domain) change(ctx context.Context, do func(*rpc.Conn, context.Context, rpc.Domain) error) error {
	found, err := d.running(ctx)
	if err != nil {
		return err
	}
	return d.link.order(ctx, func(c *rpc.Conn) error { return do(c, ctx, found) })
}

// libvirt's reasons of a domain that is off.
const (
	shutoffMigrated = 4 // off here: it runs elsewhere
	shutoffSaved    = 5 // into a file, with its memory
)

// Names looks at the domain's persistent definition. A memory image, libvirt's own (managed
// save) or one in a file (virsh save), has a definition of its own, which cannot be seen to fit.
func (d *domain) Names(ctx context.Context, p snapshot.DiskPlan) (named, known bool, err error) {
	found, _, err := d.find(ctx)
	if errors.Is(err, snapshot.ErrNotFound) {
		return false, false, nil
	}
	if err != nil {
		return false, false, err
	}
	var saved, kept, away bool
	err = d.link.ask(ctx, func(c *rpc.Conn) (err error) {
		state, why, err := c.State(ctx, found)
		if err != nil {
			return err
		}
		away = state == rpc.StateShutoff && why == shutoffMigrated
		kept = state == rpc.StateShutoff && why == shutoffSaved
		saved, err = c.HasManagedSave(ctx, found)
		return err
	})
	if err != nil {
		return false, false, err
	}
	if away {
		return false, false, snapshot.WithHint(fmt.Errorf("domain %s was migrated away while it ran from the delta %s: %w", d.name, p.Delta, snapshot.ErrBusy),
			"migrate it back, then run lull again; or commit the delta where it runs: virsh blockcommit "+snapshot.ShellWord(d.name)+" "+p.Name+" --active --shallow --pivot")
	}
	if saved {
		return false, false, snapshot.WithHint(fmt.Errorf("domain %s was saved with its memory while it ran from a delta: %w", d.name, snapshot.ErrBusy),
			"start it (virsh start "+snapshot.ShellWord(d.name)+"), then run lull again")
	}
	if kept {
		return false, false, snapshot.WithHint(fmt.Errorf("domain %s was saved into a file with its memory while it ran from a delta: %w", d.name, snapshot.ErrBusy),
			"restore it (virsh restore FILE), or, without that memory, start it (virsh start "+snapshot.ShellWord(d.name)+"); then run lull again")
	}
	xml, err := d.xml(ctx, found, rpc.XMLInactive|rpc.XMLSecure)
	return xml.source(p.Name) == p.Delta, true, err
}

// Settled looks at both definitions. That of a domain that runs is libvirt's affair,
// which may be a moment behind QEMU; of that for the next start it does not think where it was
// not there when the disk moved back.
func (d *domain) Settled(ctx context.Context, p snapshot.DiskPlan) error {
	found, on, err := d.find(ctx)
	if errors.Is(err, snapshot.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if on {
		if err := d.awaitSource(ctx, found, p); err != nil {
			return err
		}
	}
	xml, err := d.xml(ctx, found, rpc.XMLInactive|rpc.XMLSecure)
	if err != nil || xml.source(p.Name) != p.Delta {
		return err
	}
	text, err := xml.retarget(p)
	if err != nil {
		return fmt.Errorf("put %s back into the domain's definition: %w", filepath.Base(p.Path), err)
	}
	err = d.link.order(ctx, func(c *rpc.Conn) error {
		_, err := c.Define(ctx, text)
		return err
	})
	if err != nil || on {
		return err
	}
	// One that was started in between may run from the delta: the definition came too late.
	if found, on, err = d.find(ctx); err != nil || !on {
		return err
	}
	return d.awaitSource(ctx, found, p)
}

// awaitSource waits until the definition of the running domain has left the delta.
func (d *domain) awaitSource(ctx context.Context, found rpc.Domain, p snapshot.DiskPlan) error {
	ctx, cancel := context.WithTimeoutCause(ctx, settle,
		fmt.Errorf("libvirt takes %s for the disk %s still: %w", p.Delta, p.Name, snapshot.ErrBusy))
	defer cancel()
	again := time.NewTicker(tick)
	defer again.Stop()
	for {
		xml, err := d.xml(ctx, found, 0)
		if err != nil {
			return err
		}
		if xml.source(p.Name) != p.Delta && !xml.mirrored(p.Name) {
			return nil
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
