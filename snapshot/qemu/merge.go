package qemu

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/qmp"
)

// exitTimeout is how long a QEMU that closed its monitor may take to let go of
// its images.
const exitTimeout = 30 * time.Second

// mergeTries bounds how often a merge starts over because QEMU went away under
// it, or came back.
const mergeTries = 3

// Merge looks at what is there and does what is left to do; see the package's
// table. The connection that Prepare kept is given up.
func (h *Host) Merge(ctx context.Context, p snapshot.Plan) error { return h.MergeTelling(ctx, p, nil) }

// MergeTelling is Merge that says how far it is.
func (h *Host) MergeTelling(ctx context.Context, p snapshot.Plan, tell func(snapshot.Merging)) error {
	l, err := h.line(p.VM)
	if err != nil {
		return snapshot.WithHint(fmt.Errorf("merge: %w", err),
			"put the VM back into the configuration until what a run left of it is merged")
	}
	seen := l.isHeld() // since Prepare, by the run whose end this is
	for range mergeTries {
		err = l.use(ctx, func(m *monitor) error {
			seen = p.Instance != "" && m.proc.instance == p.Instance
			err := h.resumeStopped(ctx, m, p)
			if err == nil {
				err = h.mergeLive(ctx, m, h.newTelling(p, tell))
			}
			if err == nil {
				err = h.untuneAgain(ctx, m, p)
			}
			if errors.Is(err, qmp.ErrClosed) {
				err = errors.Join(err, m.awaitExit(ctx))
			}
			return err
		})
		if l.off(err) {
			err = nil
			if !living(p.Instance) { // else the marker stays: the VM may stand still
				err = dropState(p)
			}
			if err == nil {
				err = h.mergeOffline(ctx, p, seen)
			}
			break
		}
		if !errors.Is(err, qmp.ErrClosed) && !errors.Is(err, ErrLost) {
			break
		}
	}
	l.hold(false)
	h.keep(p, nil)
	if err == nil {
		err = h.wipeLeft(ctx, p)
	}
	if err != nil {
		return fmt.Errorf("merge %s: %w", p.VM, err)
	}
	h.opt.Ledger.Merged(runName(p.VM, p.Run))
	return nil
}

// mergeLive merges with QEMU there, this one or another than the plan's.
func (h *Host) mergeLive(ctx context.Context, m *monitor, t *telling) error {
	if err := m.leaving(t.plan, m.movedAway(ctx, t.plan)); err != nil {
		return err
	}
	return h.mergeDisks(ctx, m, t)
}

// awaitExit waits until a process that closed its monitor has ended.
func (m *monitor) awaitExit(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, exitTimeout)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for m.proc.alive() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil // alive without our connection: dial again
		}
	}
	return nil
}

func (h *Host) mergeDisks(ctx context.Context, m *monitor, t *telling) error {
	p := t.plan
	if err := h.unserve(ctx, m, p); err != nil {
		return err
	}
	same := p.Instance != "" && m.proc.instance == p.Instance
	var errs []error
	for i, d := range p.Disks {
		t.begin(i)
		if err := m.mergeDisk(ctx, d, same, t); err != nil {
			errs = append(errs, fmt.Errorf("disk %s: %w", d.Name, err))
		}
	}
	errs = append(errs, m.unslow(ctx, p))
	if err := errors.Join(errs...); err != nil {
		return h.stopped(ctx, m, p, err)
	}
	if err := m.weighAnchor(ctx, p); err != nil {
		return err
	}
	// Only now: it may have happened while the delta was committed.
	full, err := m.outOfSpace(ctx, p)
	if err != nil {
		return err
	}
	if full != nil {
		h.opt.Log.Info("resuming a VM that was out of space", "vm", p.VM)
		return m.goOn(ctx)
	}
	return nil
}

// stopped adds to the error of a merge for which there is no room that the VM waits
// for it too. Where its deltas have room again it goes on upon them.
func (h *Host) stopped(ctx context.Context, m *monitor, p snapshot.Plan, err error) error {
	if !errors.Is(err, snapshot.ErrNoSpace) {
		return err
	}
	full, lookErr := m.outOfSpace(ctx, p)
	if lookErr != nil || full == nil {
		return err // the error that matters
	}
	dir := filepath.Dir(cmp.Or(full.Path, full.Delta))
	if h.roomToGoOn(p) {
		h.opt.Log.Info("resuming a VM that was out of space; it cannot be merged yet", "vm", p.VM)
		return snapshot.WithHint(errors.Join(err, m.goOn(ctx)),
			fmt.Sprintf("make room in %s and run again: until its delta is merged the VM runs upon it", dir))
	}
	return snapshot.WithHint(err, fmt.Sprintf("make room in %s and run again: the VM stays stopped until its delta is merged", dir))
}

// roomToGoOn tells whether every delta of a plan can grow for a while.
func (h *Host) roomToGoOn(p snapshot.Plan) bool {
	const while = 16 << 20 // bytes
	for _, d := range p.Disks {
		r, err := h.opt.Space.At(filepath.Dir(d.Delta))
		if err != nil || r.Free < max(r.Hard, while) {
			return false
		}
	}
	return true
}

// mergeDisk brings one disk back to its chain.
func (m *monitor) mergeDisk(ctx context.Context, d snapshot.DiskPlan, same bool, t *telling) error {
	if err := ignoreRefused(m.finish(ctx, createJob(d.DeltaNode))); err != nil {
		return err // of a Prepare that was given up; how it ended does not matter
	}
	if err := m.closeMap(ctx, d); err != nil {
		return err
	}
	v, err := m.look(ctx, d)
	if err != nil {
		return err
	}
	seen := same && v.onDevice
	if v.buried && !v.committing {
		return snapshot.WithHint(fmt.Errorf("another layer lies on the delta %s: %w", d.Delta, snapshot.ErrBusy),
			"merge the upper layer with the tool that made it")
	}
	committed := v.committing || v.top != ""
	if committed {
		if err := unshot(d); err != nil {
			return err
		}
		if v, err = m.commit(ctx, d, v, t.commit(d)); err != nil {
			return err
		}
		seen = true
	}
	if m.vm.Manager != nil {
		return m.dropManaged(ctx, d, committed)
	}
	if err := m.closeNodes(ctx, d, v); err != nil {
		return err
	}
	return dropFile(d, seen)
}

// ignoreRefused keeps only the errors of the connection.
func ignoreRefused(err error) error {
	if errors.Is(err, qmp.ErrClosed) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return nil
}

// view is how a disk of a plan lies in QEMU.
type view struct {
	committing bool     // there is a commit job of ours, in whatever state
	top        string   // node of the delta, when it is on the device
	below      string   // node of the image, when the delta is on the device
	onDevice   bool     // the image itself is on a device, or counts as being in use
	buried     bool     // another layer lies on the delta
	open       []string // nodes of the delta, top first
}

func (m *monitor) look(ctx context.Context, d snapshot.DiskPlan) (view, error) {
	j, err := m.findJob(ctx, commitJob(d.DeltaNode))
	if err != nil {
		return view{}, err
	}
	nodes, err := m.nodes(ctx, false)
	if err != nil {
		return view{}, err
	}
	v := view{committing: j != nil}
	if err := m.lookAtDrives(ctx, d, nodes, &v); err != nil {
		return view{}, err
	}
	loose := ""
	for i := range nodes {
		switch n := &nodes[i]; {
		case m.isDelta(d, n):
			if n.Depth == 0 { // the file below the image: closed last
				v.open = append(v.open, n.Node)
			} else {
				v.open, loose = slices.Insert(v.open, 0, n.Node), n.Node
			}
		case n.Depth > 0:
			path, ok := m.path(n.BackingFile)
			v.buried = v.buried || ok && path == d.Delta
		}
	}
	if loose == "" || v.top != "" || v.onDevice {
		return v, nil
	}
	// No device shows which of the two is in use: it was unplugged, or this is
	// a storage daemon. Then the file's name tells.
	_, v.onDevice, err = fileOf(d).exists()
	if !v.onDevice || v.committing {
		v.onDevice, v.top, v.below = false, loose, m.imageNode(d, nodes)
	}
	return v, err
}

// lookAtDrives finds out what is on the disk's device. A storage daemon has none.
func (m *monitor) lookAtDrives(ctx context.Context, d snapshot.DiskPlan, nodes []inserted, v *view) error {
	if len(m.vm.Nodes) > 0 {
		return nil
	}
	drives, err := m.drives(ctx)
	if err != nil {
		return err
	}
	for _, b := range drives {
		switch in := b.Inserted; {
		case in == nil:
		case m.isDelta(d, in):
			v.top, v.below = in.Node, m.imageNode(d, nodes)
		case m.isImage(d, in):
			v.onDevice = true
		}
	}
	return nil
}

// isDelta tells whether a node is of the delta: the one that Prepare made, or
// one by which the VM was started from the delta.
func (m *monitor) isDelta(d snapshot.DiskPlan, n *inserted) bool {
	if n.Node == d.DeltaNode || n.Node == fileNode(d.DeltaNode) {
		return true
	}
	path, ok := m.path(n.File)
	return ok && (path == d.Delta || path == d.Delta+mergedSuffix)
}

// isImage tells whether a node is the image: by its file, as after a restart of
// QEMU it may have another name, and its name may be the delta's.
func (m *monitor) isImage(d snapshot.DiskPlan, n *inserted) bool {
	if d.Path == "" {
		return n.Node == d.Node
	}
	path, ok := m.path(n.File)
	return ok && path == d.Path && formatOf(n.Driver) == imageFormat(d)
}

// imageFormat is the format of the image, which for a LUKS container is not what its guest
// sees.
func imageFormat(d snapshot.DiskPlan) snapshot.Format {
	if d.Key != "" && d.Chain[0].Format == formatLUKS {
		return formatLUKS
	}
	return d.Format
}

// imageNode finds the image under a delta. Of a raw image and the file node below
// it, which say the same, it is the upper one.
func (m *monitor) imageNode(d snapshot.DiskPlan, nodes []inserted) string {
	name := ""
	for i := range nodes {
		n := &nodes[i]
		if !m.isImage(d, n) {
			continue
		}
		if n.Node == d.Node {
			return n.Node
		}
		if name == "" || n.Driver == string(imageFormat(d)) {
			name = n.Node
		}
	}
	return name
}

// closeNodes closes the nodes of a delta that is not in any chain. Those by
// which an administrator started the VM from it go away by themselves.
func (m *monitor) closeNodes(ctx context.Context, d snapshot.DiskPlan, v view) error {
	for _, node := range v.open {
		err := m.Execute(ctx, "blockdev-del", args{"node-name": node}, nil)
		ours := node == d.DeltaNode || node == fileNode(d.DeltaNode)
		var refused *qmp.Error
		if err != nil && (ours || !errors.As(err, &refused)) {
			return fmt.Errorf("close delta: %w", err)
		}
	}
	return nil
}

// dropFile removes the file of a delta that is open nowhere in this QEMU, if
// nothing in it can be missing from the image. seen says that the image was seen
// on the device by the process in which the delta was there too.
func dropFile(d snapshot.DiskPlan, seen bool) error {
	f := fileOf(d)
	plain, merged, err := f.exists()
	if err != nil {
		return err
	}
	if merged && !plain && seen { // the pivot has happened: nothing else moves a disk back
		if err := closed(f.merged); err != nil {
			return err
		}
		return f.remove()
	}
	for path, there := range map[string]bool{f.path: plain, f.merged: merged} {
		if !there {
			continue
		}
		if err := closed(path); err != nil {
			return err
		}
		empty, err := untouched(path)
		if err != nil {
			return err
		}
		if !empty {
			return diverged(d, path)
		}
	}
	return f.remove()
}

// closed fails while a process has the image open.
func closed(path string) error {
	used, err := inUse(path)
	if err != nil {
		return err
	}
	if used {
		return snapshot.WithHint(fmt.Errorf("%s is open in another process: %w", path, snapshot.ErrBusy),
			"find it with lsof; if it is the VM's QEMU, make its QMP socket reachable again")
	}
	return nil
}

// uncertain says what an administrator can do who knows more.
func uncertain(d snapshot.DiskPlan) error {
	err := fmt.Errorf("%s holds writes, and its VM ended while they were merged, or before it was noted what the disk was like: %w",
		d.Delta, snapshot.ErrUncertain)
	return snapshot.WithHint(err, fmt.Sprintf("if the VM has not run since, finish it: %s; if it ran, to keep the disk as it is now: rm %s",
		commitCommand(d, d.Delta), snapshot.ShellWord(d.Delta)))
}

// diverged: the VM of a delta runs, or ran, from the image alone. Never is the advice
// to commit it over an image that has changed: its clusters belong to the old content.
func diverged(d snapshot.DiskPlan, delta string) error {
	err := fmt.Errorf("%s holds writes, but the VM does not run from it: %w", delta, snapshot.ErrDiverged)
	return snapshot.WithHint(err, fmt.Sprintf("to keep the disk as it is now, rm %s; "+
		"or stop the VM and run lull again: it merges the delta if nothing was written to %s meanwhile",
		snapshot.ShellWord(delta), snapshot.ShellWord(d.Path)))
}

// leftBehind: the VM was migrated away from its delta, or was about to be, and its QEMU has
// gone since. A VM that stands still elsewhere may have its disks without their locks.
func leftBehind(d snapshot.DiskPlan) error {
	err := fmt.Errorf("%s holds writes, and its VM was last seen being migrated to another host, where it has %s without them: %w", d.Delta, d.Path, snapshot.ErrUncertain)
	return snapshot.WithHint(err, fmt.Sprintf("if it arrived there, running or not, to keep the disk as it is: rm %s; if the migration failed and the VM has run nowhere since, finish it: %s",
		snapshot.ShellWord(d.Delta), commitCommand(d, d.Delta)))
}

// overwritten: the image has changed under a delta, so the two fit no more.
func overwritten(d snapshot.DiskPlan) error {
	err := fmt.Errorf("%s holds writes, but %s was written to without it: %w", d.Delta, d.Path, snapshot.ErrDiverged)
	return snapshot.WithHint(err, fmt.Sprintf("to keep the disk as it is now, rm %s; do not commit it, the two fit no more: "+
		"to go back, restore a point of the VM", snapshot.ShellWord(d.Delta)))
}

// halfway: the pivot of a delta was ordered, and the image is not the same.
func halfway(d snapshot.DiskPlan, delta string) error {
	err := fmt.Errorf("%s says other than %s, and QEMU ended as it moved from one to the other: %w", delta, d.Path, snapshot.ErrUncertain)
	return snapshot.WithHint(err, fmt.Sprintf("if the VM has not run since, finish it: %s; if it ran, to keep the disk as it is now: rm %s",
		commitCommand(d, delta), snapshot.ShellWord(delta)))
}
