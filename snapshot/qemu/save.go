package qemu

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/image"
)

// A saved state is taken in this order, and no other works with QEMU 7.2:
//
//	marker   the file that will hold the state, durable under a name that says
//	         that the VM may be stopped
//	stop     the guest stands still
//	freeze   the transaction of Take, while QEMU still has the images open: at the
//	         end of a migration it lets go of them
//	migrate  into a pipe, from which lull fills the file up to its limit
//	cont     opens the images again, and the guest goes on; then the limit of a
//	         migration, which was lifted before, is the plan's again
//	rename   the file is whole, and nothing is owed to the guest
//
// Whoever finds the marker resumes the VM, if it is the process that was stopped, and
// sets that limit.
//
// In the background (background.go) the guest goes on in the middle of the fourth step.

const (
	// stateSlack is what a state holds beside the guest's RAM: its video memory,
	// its devices, and the heads of its pages.
	stateSlack     = 128 << 20
	stateHeadShare = 64 // of the RAM
	// resumeTimeout bounds how long a VM is tried to be resumed.
	resumeTimeout = 30 * time.Second
	// stateTick is how often a migration is looked at.
	stateTick = 5 * time.Millisecond
	// stateBandwidth is no limit, in bytes a second.
	stateBandwidth = 64 << 30
	// savingSuffix marks the state of a VM that may be stopped.
	savingSuffix = ".saving"
)

var _ snapshot.Saver = (*Host)(nil)

// planSaved names the file of a VM's state. A storage daemon has none, and of a VM
// that does not say how much memory it has nobody knows how much room it takes.
func planSaved(ctx context.Context, m *monitor, p snapshot.Plan) (snapshot.SavedPlan, error) {
	if len(m.vm.Nodes) > 0 || p.Hardware.Memory <= 0 {
		return snapshot.SavedPlan{}, nil
	}
	bandwidth, err := m.bandwidth(ctx)
	if err != nil {
		return snapshot.SavedPlan{}, err
	}
	ram := p.Hardware.Memory
	return snapshot.SavedPlan{Path: statePath(p), Limit: ram + ram/stateHeadShare + stateSlack, Bandwidth: bandwidth, Wipe: m.vm.Wipe}, nil
}

// CanSave looks at the VM, and at the room for its state.
func (h *Host) CanSave(ctx context.Context, p snapshot.Plan) error {
	if p.Saved.Path == "" {
		return fmt.Errorf("save state of %s: it has no memory that could be saved: %w", p.VM, snapshot.ErrUnsupported)
	}
	err := recreatable(p)
	if err == nil {
		err = h.roomForState(p)
	}
	if err == nil {
		err = h.during(ctx, p, func(m *monitor) error { return m.migratable(ctx) })
	}
	if err != nil {
		return fmt.Errorf("save state of %s: %w", p.VM, err)
	}
	return nil
}

// migratable fails where the VM does not run, cannot be migrated, or would be in
// another way than into a file.
func (m *monitor) migratable(ctx context.Context) error {
	status, err := m.status(ctx)
	if err != nil {
		return err
	}
	if status != "running" {
		return fmt.Errorf("the VM does not run, it is %s: %w", status, snapshot.ErrUnsupported)
	}
	var now struct {
		Blocked []string `json:"blocked-reasons"`
	}
	if err := m.ask(ctx, "query-migrate", nil, &now); err != nil {
		return err
	}
	if blocked := withoutAnchor(now.Blocked); len(blocked) > 0 {
		return fmt.Errorf("QEMU cannot: %s: %w", strings.Join(blocked, "; "), snapshot.ErrUnsupported)
	}
	abilities, err := m.abilities(ctx)
	if err != nil {
		return err
	}
	for _, name := range abilities {
		// These change nothing in a file; the last is lull's own.
		if !slices.Contains([]string{"events", "auto-converge", "xbzrle", "zero-blocks", "release-ram", backgroundSnapshot}, name) {
			return snapshot.WithHint(fmt.Errorf("the migration capability %s is on: %w", name, snapshot.ErrUnsupported),
				"turn it off with migrate-set-capabilities")
		}
	}
	return nil
}

// abilities are the capabilities of QEMU's migrations that are on.
func (m *monitor) abilities(ctx context.Context) (on []string, err error) {
	var all []struct {
		Name string `json:"capability"`
		On   bool   `json:"state"`
	}
	err = m.ask(ctx, "query-migrate-capabilities", nil, &all)
	for _, a := range all {
		if a.On {
			on = append(on, a.Name)
		}
	}
	return on, err
}

// TakeSaved stops the VM, takes its disks and its state, and resumes it.
func (h *Host) TakeSaved(ctx context.Context, p snapshot.Plan, reached func(snapshot.Moment)) (snapshot.Saving, error) {
	s := h.newSaving(ctx, p, reached)
	err := h.CanSave(ctx, p)
	giveBack := func() {}
	if err == nil {
		giveBack, err = h.claimState(p)
	}
	if err != nil {
		err = fmt.Errorf("%w: %w", snapshot.ErrNotTaken, err)
	} else {
		err = h.saveInto(ctx, p, s)
	}
	if err != nil {
		giveBack()
		return snapshot.Saving{}, fmt.Errorf("take %s with its memory: %w", p.VM, err)
	}
	return s.how(), nil
}

// saveInto stops the VM, freezes its disks, saves its state and resumes it.
func (h *Host) saveInto(ctx context.Context, p snapshot.Plan, s *saving) error {
	f, err := createState(p.Saved)
	if err != nil {
		return fmt.Errorf("%w: %w", snapshot.ErrNotTaken, err)
	}
	s.f = f
	defer f.Close() // what was not written shows in the copy
	if s.leave {
		if err := reserve(f, p.Saved.Limit); err != nil {
			return fmt.Errorf("%w: %w", snapshot.ErrNotTaken, err)
		}
	}
	done, err := h.whileStopped(ctx, p, s)
	if s.mayGoOn != nil && done != diskUntouched {
		if mayErr := s.mayGoOn(); mayErr != nil {
			s.writer.Wait()
			return errors.Join(err, mayErr) // the marker stays
		}
	}
	resumeErr := h.goOn(ctx, p, s, done)
	s.writer.Wait()
	if resumeErr != nil {
		return errors.Join(fmt.Errorf("resume: %w", resumeErr), err) // the marker stays
	}
	if err != nil && !s.leave { // first: that there is no room may be why
		err = errors.Join(err, dropState(p))
	}
	h.untune(ctx, p)
	s.resumed()
	if err == nil {
		err = keepState(p.Saved)
	}
	switch {
	case err != nil && done == diskFrozen:
		return fmt.Errorf("%w: %w", snapshot.ErrNotSaved, err)
	case err != nil && done == diskUntouched:
		return fmt.Errorf("%w: %w", snapshot.ErrNotTaken, err)
	}
	return err
}

// newSaving is one for a backup. What the disks are like is noted as soon as the guest goes
// on, and its deltas are guarded from then on.
func (h *Host) newSaving(ctx context.Context, p snapshot.Plan, reached func(snapshot.Moment)) *saving {
	return &saving{
		lay: layState, alive: true,
		frozen:  func() error { reached(snapshot.MomentFrozen); return nil },
		resumed: func() { h.anchorAgain(ctx, p) },
		settled: func() { reached(snapshot.MomentGoesOn) },
		noted:   func() { h.stampFrozen(p) },
		guarded: func(ctx context.Context) error { return h.guardDeltas(ctx, p) },
	}
}

// goOn lets the guest go on, if it does not already, with no migration under way.
func (h *Host) goOn(ctx context.Context, p snapshot.Plan, s *saving, done diskState) error {
	if s.wentOn {
		return h.repeat(ctx, p, nil, (*monitor).cancelStep)
	}
	err := h.resume(ctx, p, nil)
	if err == nil && done == diskFrozen {
		s.goesOn()
	}
	return err
}

// diskState is how far the disks of a VM that stands still have come.
type diskState int

const (
	diskUntouched diskState = iota
	diskAsked               // to freeze: they may be frozen
	diskFrozen
)

// whileStopped does all that the guest must not see.
func (h *Host) whileStopped(ctx context.Context, p snapshot.Plan, s *saving) (diskState, error) {
	err := h.during(ctx, p, func(m *monitor) error {
		if err := h.tune(ctx, m, p, s); err != nil {
			return err
		}
		if err := m.weighAnchor(ctx, p); err != nil {
			return err
		}
		if err := m.stop(ctx); err != nil {
			return err
		}
		if status, err := m.status(ctx); err != nil || status != "paused" {
			return errors.Join(fmt.Errorf("the VM is %q when it was stopped: %w", status, snapshot.ErrBusy), err)
		}
		return nil
	})
	if err != nil {
		return diskUntouched, err
	}
	if err := h.freeze(ctx, p); err != nil {
		return diskAsked, err
	}
	if err := s.frozen(); err != nil {
		return diskFrozen, err
	}
	return diskFrozen, h.during(ctx, p, func(m *monitor) error { return h.writeState(ctx, m, p, s) })
}

// tune sets QEMU's migrations up for this one: without a limit, and in the background
// where that can be.
func (h *Host) tune(ctx context.Context, m *monitor, p snapshot.Plan, s *saving) error {
	if err := m.setBandwidth(ctx, p, stateBandwidth); err != nil {
		return err
	}
	if !s.alive {
		return m.noBackground(ctx)
	}
	return h.inBackground(ctx, m, p, s)
}

func (m *monitor) setBandwidth(ctx context.Context, p snapshot.Plan, limit int64) error {
	if p.Saved.Bandwidth == 0 { // there was none
		return nil
	}
	return m.Execute(ctx, "migrate-set-parameters", args{"max-bandwidth": limit}, nil)
}

// untune takes back what tune did, here or in a process that has died. The guest goes
// on already: it does not wait for this. What fails is Merge's to do again.
func (h *Host) untune(ctx context.Context, p snapshot.Plan) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), resumeTimeout)
	defer cancel()
	h.notUntuned(p, h.during(ctx, p, func(m *monitor) error { return m.untune(ctx, p) }))
}

func (h *Host) notUntuned(p snapshot.Plan, err error) {
	if err != nil {
		h.opt.Log.Warn("migrations of the VM are not set up as before", "vm", p.VM, "bandwidth", p.Saved.Bandwidth, "error", err)
	}
}

// untune sets the bandwidth last: as long as it is lull's, the rest may be to do. A pipe that
// QEMU was given and has not begun to write into would stay open for good.
func (m *monitor) untune(ctx context.Context, p snapshot.Plan) error {
	err := errors.Join(m.ask(ctx, "closefd", args{"fdname": pipeName(p)}, nil), m.noBackground(ctx))
	if err != nil {
		return err
	}
	return m.setBandwidth(ctx, p, p.Saved.Bandwidth)
}

// untuneAgain is Merge's part: it does what untune could not.
func (h *Host) untuneAgain(ctx context.Context, m *monitor, p snapshot.Plan) error {
	if p.Saved.Path == "" || m.proc.instance != p.Instance {
		return nil
	}
	now, err := m.bandwidth(ctx)
	if err != nil || now != stateBandwidth || now == p.Saved.Bandwidth {
		return err
	}
	err = m.untune(ctx, p)
	if ignoreRefused(err) == nil {
		h.notUntuned(p, err) // and never will be
		return nil
	}
	return err
}

// bandwidth is the limit of migrations, in bytes a second; 0: QEMU has none.
func (m *monitor) bandwidth(ctx context.Context) (int64, error) {
	var now struct {
		Bandwidth int64 `json:"max-bandwidth"`
	}
	err := m.ask(ctx, "query-migrate-parameters", nil, &now)
	return now.Bandwidth, err
}

// anchorAgain drops the anchor that a VM cannot have while its memory is saved. The guest
// goes on already, and the run with it.
func (h *Host) anchorAgain(ctx context.Context, p snapshot.Plan) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), resumeTimeout)
	defer cancel()
	if err := h.during(ctx, p, func(m *monitor) error { return h.dropAnchor(ctx, m, p) }); err != nil {
		h.opt.Log.Warn("anchor against migration", "vm", p.VM, "error", err)
	}
}

// SavedState opens the state that TakeSaved left.
func (f *frozen) SavedState(ctx context.Context) (snapshot.Source, error) {
	src, err := image.OpenChain(ctx, []snapshot.Layer{{Path: f.plan.Saved.Path, Format: snapshot.FormatRaw}})
	if err != nil {
		return nil, fmt.Errorf("open saved state: %w", err)
	}
	return src, nil
}
