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
	"github.com/lull-backup/lull/snapshot/qmp"
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
	identity
	link *link // its own
	all  *link // that all share, for a look at other domains
}

var _ qemu.Manager = (*domain)(nil)

// find looks the domain up. qemu.ErrOff: it does not run.
func (d *domain) find(ctx context.Context) (found rpc.Domain, on bool, err error) {
	err = d.link.ask(ctx, func(c *rpc.Conn) error {
		if found, err = d.lookUp(ctx, c); err != nil {
			return err
		}
		state, _, err := c.State(ctx, found)
		on = !slices.Contains([]rpc.State{rpc.StateNone, rpc.StateShutoff, rpc.StateCrashed}, state) && found.ID >= 0
		return err
	})
	return found, on, err
}

// lookUp asks for the domain, whatever its name is by now.
func (d *domain) lookUp(ctx context.Context, c *rpc.Conn) (rpc.Domain, error) {
	if d.uuid == (rpc.UUID{}) {
		return c.Lookup(ctx, d.name)
	}
	found, err := c.LookupUUID(ctx, d.uuid)
	if err != nil {
		err = fmt.Errorf("domain %s: %w", d.name, err)
	}
	return found, err
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
	return qemu.Managed{Monitor: p, PID: pid, Targets: xml.targets(), LeftOut: xml.leftOut()}, nil
}

// process waits until libvirt and /proc agree: right after the end of QEMU libvirt may not
// know of it yet.
func (d *domain) process(ctx context.Context) (rpc.Domain, int, error) {
	ctx, cancel := context.WithTimeout(ctx, settle)
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
			if errors.Is(ctx.Err(), context.Canceled) {
				return found, 0, context.Cause(ctx)
			}
			return found, 0, snapshot.WithHint(fmt.Errorf("domain %s runs, but its QEMU cannot be seen in /proc: %w", d.name, snapshot.ErrUnsupported),
				"run lull as root on the host itself, not in a container with processes of its own")
		}
	}
}

// xml is a definition of the domain: flags are rpc's XML constants.
func (d *domain) xml(ctx context.Context, found rpc.Domain, flags uint32) (diskList, error) {
	return d.xmlOf(ctx, d.link, found, flags)
}

func (d *domain) xmlOf(ctx context.Context, l *link, found rpc.Domain, flags uint32) (diskList, error) {
	var text string
	err := l.ask(ctx, func(c *rpc.Conn) (err error) {
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

// Noted are the disks by the definitions of now and of the next start. A transient domain has
// the former alone, or is not there.
func (d *domain) Noted(ctx context.Context) (now, next []snapshot.Disk, err error) {
	found, on, err := d.find(ctx)
	if err != nil {
		return nil, nil, err
	}
	if on {
		def, err := d.xml(ctx, found, 0)
		if err != nil {
			return nil, nil, err
		}
		now = def.files()
	}
	def, err := d.xml(ctx, found, rpc.XMLInactive|rpc.XMLSecure)
	return now, def.files(), err
}

// Limit has libvirt limit what a disk does, and note that.
func (d *domain) Limit(ctx context.Context, disk string, l snapshot.Limits) error {
	found, err := d.running(ctx)
	if err != nil {
		return err
	}
	params := rpc.Params{}
	for qemus, name := range limitNames() {
		params[name] = uint64(max(l.Values[qemus], 0))
	}
	if l.Group != "" && len(l.Values) > 0 {
		params["group_name"] = l.Group
	}
	err = d.link.order(ctx, func(c *rpc.Conn) error { return c.SetBlockIoTune(ctx, found, disk, params, rpc.AffectLive) })
	if refused, ok := errors.AsType[*rpc.Error](err); ok {
		return &qmp.Error{Command: "limit disk", Class: qmp.ClassGeneric, Desc: refused.Message}
	}
	return err
}

// limitNames are libvirt's names of limits by QEMU's.
func limitNames() map[string]string {
	names := map[string]string{"iops_size": "size_iops_sec"}
	for short, long := range map[string]string{"bps": "total_bytes_sec", "bps_rd": "read_bytes_sec", "bps_wr": "write_bytes_sec",
		"iops": "total_iops_sec", "iops_rd": "read_iops_sec", "iops_wr": "write_iops_sec"} {
		for _, of := range []string{"", "_max", "_max_length"} {
			names[short+of] = long + of
		}
	}
	return names
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
// A definition that names other images than the run's is no record of it.
func (d *domain) Names(ctx context.Context, p snapshot.DiskPlan) (named, known bool, err error) {
	found, _, err := d.find(ctx)
	if errors.Is(err, snapshot.ErrNotFound) {
		return false, false, d.nobodyElse(ctx, p)
	}
	if err == nil {
		err = d.elsewhere(ctx, found, p)
	}
	if err != nil {
		return false, false, err
	}
	xml, err := d.xml(ctx, found, rpc.XMLInactive|rpc.XMLSecure)
	if err == nil {
		err = buried(found.Name, xml, p)
	}
	if err != nil {
		return false, false, err
	}
	source := xml.source(p.Name)
	named = sameFile(source, p.Delta)
	return named, named || sameFile(source, p.Path), nil
}

// elsewhere fails where a domain that is off goes on with its delta later, or does so elsewhere.
func (d *domain) elsewhere(ctx context.Context, found rpc.Domain, p snapshot.DiskPlan) error {
	var state rpc.State
	var why int
	var saved bool
	err := d.link.ask(ctx, func(c *rpc.Conn) (err error) {
		if state, why, err = c.State(ctx, found); err != nil {
			return err
		}
		saved, err = c.HasManagedSave(ctx, found)
		return err
	})
	name := snapshot.ShellWord(found.Name)
	refuse := func(how, next string, is ...error) error {
		err := fmt.Errorf("domain %s was %s while it ran from the delta %s: %w", found.Name, how, p.Delta, errors.Join(append(is, snapshot.ErrBusy)...))
		return snapshot.WithHint(err, next)
	}
	switch {
	case err != nil:
		return err
	case state == rpc.StateShutoff && why == shutoffMigrated:
		return refuse("migrated away", "migrate it back, then run lull again; or commit the delta where it runs: virsh blockcommit "+name+" "+p.Name+" --active --shallow --pivot",
			qemu.ErrMoved)
	case saved:
		return refuse("saved with its memory", "start it (virsh start "+name+"), then run lull again")
	case state == rpc.StateShutoff && why == shutoffSaved:
		return refuse("saved into a file with its memory", "restore it (virsh restore FILE), or, without that memory, start it (virsh start "+name+"); then run lull again")
	}
	return nil
}

// Settled looks at both definitions. That of a domain that runs is libvirt's affair,
// which may be a moment behind QEMU; of that for the next start it does not think where it was
// not there when the disk moved back.
func (d *domain) Settled(ctx context.Context, p snapshot.DiskPlan) error {
	found, on, err := d.find(ctx)
	if errors.Is(err, snapshot.ErrNotFound) {
		return d.nobodyElse(ctx, p)
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
	if err != nil {
		return err
	}
	if !sameFile(xml.source(p.Name), p.Delta) {
		return buried(found.Name, xml, p)
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

// nobodyElse fails where another domain names the delta of one that is there no more: it was
// defined by a copy of its definition, and is not lull's to change.
func (d *domain) nobodyElse(ctx context.Context, p snapshot.DiskPlan) error {
	var list []rpc.Domain
	err := d.all.ask(ctx, func(c *rpc.Conn) (err error) {
		list, err = c.Domains(ctx)
		return err
	})
	for _, other := range list {
		if err != nil {
			return err
		}
		err = d.apart(ctx, other, p)
	}
	return err
}

// apart fails where a domain names the delta, or a layer upon it.
func (d *domain) apart(ctx context.Context, other rpc.Domain, p snapshot.DiskPlan) error {
	for _, flags := range []uint32{0, rpc.XMLInactive} {
		xml, err := d.xmlOf(ctx, d.all, other, flags)
		if errors.Is(err, snapshot.ErrNotFound) || errors.Is(err, errXML) {
			return nil // it has gone, or nobody can read it
		}
		if err != nil {
			return err
		}
		if slices.ContainsFunc(xml.disks, func(x listed) bool {
			over, _ := x.over(p.Delta) // what nobody can read nobody starts from
			return over
		}) {
			return snapshot.WithHint(fmt.Errorf("a layer of the domain %s lies on the delta %s of %s, which is there no more: %w", other.Name, p.Delta, d.name, snapshot.ErrBusy),
				fmt.Sprintf("merge that layer with the tool that made it, shut %s down, put %s in the place of the delta (virsh edit %[1]s), and run lull again", snapshot.ShellWord(other.Name), p.Path))
		}
		if !slices.ContainsFunc(xml.disks, func(x listed) bool { return sameFile(x.source, p.Delta) }) {
			continue
		}
		return snapshot.WithHint(fmt.Errorf("the domain %s names the delta %s of %s, which is there no more: %w", other.Name, p.Delta, d.name, snapshot.ErrBusy),
			fmt.Sprintf("shut %s down, put %s in the place of the delta (virsh edit %[1]s), and run lull again: it merges then", snapshot.ShellWord(other.Name), p.Path))
	}
	return nil
}
