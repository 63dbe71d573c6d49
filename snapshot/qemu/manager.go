package qemu

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/qmp"
)

// Manager is the program that started a VM's QEMU and keeps a record of its disks, such
// as libvirt. What changes a chain, or whether the VM runs, goes through it, so that its
// record stays right; all else goes to QEMU's monitor, to which it passes commands on.
//
// Its record is more than QEMU tells: it says from which file the VM will be started.
// So with a Manager a delta is never renamed; its stamp says instead that its pivot was
// ordered, and that it has become true shows in the record. While the record names the
// delta, no VM can have run from the image alone.
//
// All methods are of one VM and safe for concurrent use. They outlive a restart of the
// manager, which they wait for.
type Manager interface {
	// Dial makes a road to the monitor. ErrOff: the VM does not run.
	Dial(ctx context.Context) (Managed, error)

	// Record is what it has noted of each disk for the VM's next start, by name.
	Record(ctx context.Context) (map[string]string, error)

	// Freeze moves all disks of the plan to their deltas, which exist and are empty
	// qcow2 images: at one instant, or none.
	Freeze(ctx context.Context, p snapshot.Plan) error

	// Commit merges the delta that is the disk's top layer into the layer below and
	// moves the VM back to that. ErrLost: the manager went away over it, or fell silent.
	// ErrUnaware: it takes the image for the top layer, and has done nothing. It goes on with
	// such a job that is under way.
	Commit(ctx context.Context, m qmp.Monitor, d snapshot.DiskPlan, c Committing) error

	// Settled makes sure that the record of the VM does not name the disk's delta: it
	// puts back the image for the next start where it has to. Not called while the VM runs
	// from the delta; where it has been started from it meanwhile, ErrBusy.
	Settled(ctx context.Context, d snapshot.DiskPlan) error

	// Names tells whether the record names the delta for the next start of a VM that is
	// off. known is false where there is no such record. ErrBusy: the VM goes on upon the delta
	// some other way, with ErrMoved on another host.
	Names(ctx context.Context, d snapshot.DiskPlan) (named, known bool, err error)

	// Noted is what the record says of the disks, each with its name and the file and format
	// of its top layer: as the VM runs now, nothing where it does not, and as it starts the
	// next time.
	Noted(ctx context.Context) (now, next []snapshot.Disk, err error)

	// Limit sets what a disk of the VM may do while it runs. One that the manager refuses is
	// a *qmp.Error.
	Limit(ctx context.Context, disk string, l snapshot.Limits) error

	// Stop lets the VM stand still, and Continue go on.
	Stop(ctx context.Context) error
	Continue(ctx context.Context) error

	// Guest makes the channel to the agent in the guest. snapshot.ErrNoGuest: there is none.
	Guest(ctx context.Context) (snapshot.Guest, error)
}

// Managed is a VM that runs, as its manager sees it.
type Managed struct {
	Monitor qmp.Monitor
	PID     int // of QEMU; 0: not known
	// Targets are the manager's names of the disks, by the ids of their devices.
	Targets map[string]string
	// LeftOut are the disks that no snapshot may be made of, or no point is to have, by the
	// ids of their devices: Reason and Expected count.
	LeftOut map[string]snapshot.Excluded
}

// Committing is what a Manager tells of a commit. Where one of the two fails, so does Commit.
type Committing struct {
	// Pivot is called right before the VM is moved, when both layers say the same but for
	// the guest's latest writes.
	Pivot func() error
	// Progress is told now and then how much of how many bytes is merged.
	Progress func(done, total int64) error
}

// ErrOff: a managed VM does not run. ErrMoved: it goes on elsewhere, with its deltas.
// ErrLost: its manager went away over an order, or fell silent, and nobody knows whether that
// was carried out. ErrUnaware: it died after QEMU had moved the VM to a delta and before it
// noted that; once QEMU has moved the VM back it is right again.
var (
	ErrOff     = errors.New("the VM does not run")
	ErrMoved   = errors.New("the VM runs on another host")
	ErrLost    = errors.New("the VM's manager went away")
	ErrUnaware = errors.New("the VM's manager does not know of the delta")
)

// closeWait is how long a manager may take to close what it has opened, once its record
// is settled.
const closeWait = 2 * time.Second

// dial makes a road to the VM's monitor.
func (v VM) dial(ctx context.Context, opt qmp.Options) (*monitor, error) {
	if v.Manager == nil {
		return dialMonitor(ctx, v, opt)
	}
	got, err := v.Manager.Dial(ctx)
	if err != nil {
		return nil, err
	}
	return &monitor{Monitor: got.Monitor, vm: v, proc: findProcess(got.PID), targets: got.Targets, leftOut: got.LeftOut}, nil
}

// addRecords notes what the manager will have to put back.
func (m *monitor) addRecords(ctx context.Context, disks []snapshot.DiskPlan) error {
	if m.vm.Manager == nil {
		return nil
	}
	records, err := m.vm.Manager.Record(ctx)
	for i := range disks {
		disks[i].Record = records[disks[i].Name]
	}
	return err
}

// stop and goOn change whether the VM runs.
func (m *monitor) stop(ctx context.Context) error {
	if m.vm.Manager != nil {
		return m.vm.Manager.Stop(ctx)
	}
	return m.Execute(ctx, "stop", nil, nil)
}

func (m *monitor) goOn(ctx context.Context) error {
	if m.vm.Manager != nil {
		return m.vm.Manager.Continue(ctx)
	}
	return m.Execute(ctx, "cont", nil, nil)
}

// freezeManaged begins the records, which takes a moment, and has the manager do the
// rest: it cannot do both in one transaction. So a record may tell of a little more than
// what changed since.
func (h *Host) freezeManaged(ctx context.Context, m *monitor, p snapshot.Plan, records []args) error {
	if len(records) > 0 {
		err := m.Execute(ctx, "transaction", args{"actions": records}, nil)
		if err != nil && !refused(err) {
			return err
		}
		if err != nil {
			h.opt.Log.Warn("freeze without records of changes", "vm", p.VM, "error", err)
		}
	}
	return m.vm.Manager.Freeze(ctx, p)
}

// commitManaged has the manager do it, or QEMU what the manager does not know of, and looks.
func (m *monitor) commitManaged(ctx context.Context, d snapshot.DiskPlan, v view, w *commitWatch) (view, error) {
	if v.top != "" && !v.committing {
		if err := m.unread(ctx, v.below); err != nil {
			return v, err
		}
	}
	c := Committing{
		Pivot:    func() error { return note(d, stampPivot) },
		Progress: func(done, total int64) error { return w.look(ctx, m, &job{Current: done, Total: total}) },
	}
	for range mergeTries {
		// A pivot that was ordered may yet happen while its job is there.
		if !v.committing || !pivoted(d) {
			if err := note(d, stampCommit); err != nil && !errors.Is(err, snapshot.ErrNoSpace) {
				return v, err // without room the commit, which makes some, matters more
			}
		}
		err := m.vm.Manager.Commit(ctx, m.Monitor, d, c)
		if errors.Is(err, ErrUnaware) {
			err = m.commitOnce(ctx, d, v, w)
		}
		var lookErr error
		if v, lookErr = m.look(ctx, d); lookErr != nil {
			return v, errors.Join(err, lookErr)
		}
		if v.top == "" && v.onDevice {
			return v, nil
		}
		if err != nil {
			err = fmt.Errorf("commit delta %s: %w", d.Delta, err)
			if ctx.Err() == nil && !errors.Is(err, ErrLost) { // else the pivot may come yet
				err = errors.Join(err, note(d, stampCommit))
			}
			return v, err
		}
	}
	return v, fmt.Errorf("commit delta %s: its job ends without moving the disk back: %w", d.Delta, snapshot.ErrBusy)
}

// closeLeft makes sure that no node of a delta is open that is in no chain any more. The
// manager closes what it has opened; what one that died between opening and using it has
// left, nobody knows but QEMU.
func (m *monitor) closeLeft(ctx context.Context, d snapshot.DiskPlan) error {
	wait, cancel := context.WithTimeout(ctx, closeWait)
	defer cancel()
	var v view
	err := m.await(wait, func() (bool, error) {
		var err error
		v, err = m.look(wait, d)
		return len(v.open) == 0, err
	}, "BLOCK_JOB_COMPLETED", "JOB_STATUS_CHANGE")
	if err == nil || wait.Err() == nil || ctx.Err() != nil {
		return err
	}
	for range 2 { // whichever of the two is first: the one below can be closed last
		err = nil
		for _, node := range v.open {
			err = errors.Join(err, m.Execute(ctx, "blockdev-del", args{"node-name": node}, nil))
		}
		var lookErr error
		if v, lookErr = m.look(ctx, d); lookErr != nil || len(v.open) == 0 {
			return lookErr
		}
	}
	return fmt.Errorf("close delta: %w", err)
}

// dropManaged removes the file of a delta that is not in the VM's chain, once the
// manager does not name it any more. committed: it was merged right now.
func (m *monitor) dropManaged(ctx context.Context, d snapshot.DiskPlan, committed bool) error {
	there, err := exists(d.Delta)
	if err != nil {
		return err
	}
	if there && !committed && !pivoted(d) {
		empty, err := untouched(d.Delta)
		if err != nil {
			return err
		}
		if !empty {
			return diverged(d, d.Delta)
		}
	}
	if err := m.vm.Manager.Settled(ctx, d); err != nil {
		return err
	}
	if err := m.closeLeft(ctx, d); err != nil {
		return err
	}
	return fileOf(d).removeHeld()
}

// pivoted tells whether the pivot of a delta was ordered, or all of it is in the image.
func pivoted(d snapshot.DiskPlan) bool {
	s, err := readStamp(d)
	return err == nil && slices.Contains([]string{stampPivot, stampMerged}, s.state)
}

// mergeManaged merges the delta of a VM that is off. The record tells what the VM runs
// from next, so nobody has run it from the image as long as that names the delta.
func (h *Host) mergeManaged(ctx context.Context, mgr Manager, d snapshot.DiskPlan, seen bool) error {
	there, err := exists(d.Delta)
	if err != nil {
		return err
	}
	named, known, err := mgr.Names(ctx, d)
	if err != nil {
		return err
	}
	if there {
		if err := h.commitManagedFile(ctx, d, named, known, seen); err != nil {
			return err
		}
	} else if named {
		return vanished(d)
	}
	release, err := hold(d.Delta)
	if err != nil {
		return err
	}
	return errors.Join(settleAndRemove(ctx, mgr, d), release())
}

// settleAndRemove removes a delta once the VM is not started from it any more.
func settleAndRemove(ctx context.Context, mgr Manager, d snapshot.DiskPlan) error {
	if err := mgr.Settled(ctx, d); err != nil {
		return err
	}
	return fileOf(d).remove()
}

// commitManagedFile brings what a delta holds into the image, where it may be missing.
func (h *Host) commitManagedFile(ctx context.Context, d snapshot.DiskPlan, named, known, seen bool) error {
	if err := closed(d.Delta); err != nil {
		return err
	}
	empty, err := untouched(d.Delta)
	if err != nil || empty {
		return err
	}
	s, err := readStamp(d)
	if err != nil && !errors.Is(err, errNoStamp) {
		return err
	}
	switch {
	case known && !named && (s.state == stampPivot || s.state == stampMerged):
		return nil // the record has moved on to the image: the pivot was seen
	case s.state == stampPivot:
		same, err := sameContent(ctx, d, d.Delta)
		if err != nil || !same {
			return errors.Join(halfway(d, d.Delta), err)
		}
	default:
		if err := h.mergeFile(ctx, d, seen || named); err != nil {
			return err
		}
	}
	return note(d, stampMerged)
}

// vanished: the record of a VM names a delta that somebody has removed.
func vanished(d snapshot.DiskPlan) error {
	err := fmt.Errorf("the VM's configuration names %s, which is not there: %w", d.Delta, snapshot.ErrUncertain)
	return snapshot.WithHint(err, "look whether the file was moved; where it is lost, put "+d.Path+" back into the configuration (virsh edit)")
}
