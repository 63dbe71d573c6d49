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
// QEMU's background snapshot (the capability background-snapshot, 6.0 and newer) is not
// used, although it would let the guest go on within milliseconds: in QEMU 7.2 one that
// fails never ends. When nobody reads the pipe any more, as after the death of lull, the
// migration is "failed" but the guest's memory stays protected against writes: the
// main loop waits for ever in the kernel (handle_userfault), and with it the guest and
// the monitor, so that nobody can help. A guest that runs on whatever happens matters more.

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
	var now struct {
		Bandwidth int64 `json:"max-bandwidth"`
	}
	if err := m.ask(ctx, "query-migrate-parameters", nil, &now); err != nil {
		return snapshot.SavedPlan{}, err
	}
	ram := p.Hardware.Memory
	return snapshot.SavedPlan{Path: statePath(p), Limit: ram + ram/stateHeadShare + stateSlack, Bandwidth: now.Bandwidth, Wipe: m.vm.Wipe}, nil
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
	var abilities []struct {
		Name string `json:"capability"`
		On   bool   `json:"state"`
	}
	if err := m.ask(ctx, "query-migrate-capabilities", nil, &abilities); err != nil {
		return err
	}
	for _, a := range abilities {
		// These change nothing in a file.
		harmless := slices.Contains([]string{"events", "auto-converge", "xbzrle", "zero-blocks", "release-ram"}, a.Name)
		if a.On && !harmless {
			return snapshot.WithHint(fmt.Errorf("the migration capability %s is on: %w", a.Name, snapshot.ErrUnsupported),
				"turn it off with migrate-set-capabilities")
		}
	}
	return nil
}

// TakeSaved stops the VM, takes its disks and its state, and resumes it.
func (h *Host) TakeSaved(ctx context.Context, p snapshot.Plan, frozen func()) error {
	if err := h.takeSaved(ctx, p, frozen); err != nil {
		return fmt.Errorf("take %s with its memory: %w", p.VM, err)
	}
	return nil
}

func (h *Host) takeSaved(ctx context.Context, p snapshot.Plan, frozen func()) error {
	if err := h.CanSave(ctx, p); err != nil {
		return fmt.Errorf("%w: %w", snapshot.ErrNotTaken, err)
	}
	return h.saveInto(ctx, p, &saving{lay: layState, frozen: func() error { frozen(); return nil },
		resumed: func() { h.anchorAgain(ctx, p) }, settled: func() { h.stampFrozen(p) }})
}

// saveInto stops the VM, freezes its disks, saves its state and resumes it.
func (h *Host) saveInto(ctx context.Context, p snapshot.Plan, s *saving) error {
	f, err := createState(p.Saved)
	if err != nil {
		return fmt.Errorf("%w: %w", snapshot.ErrNotTaken, err)
	}
	s.f = f
	defer f.Close() // what was not written shows in the copy
	if s.reserve {
		if err := reserve(f, p.Saved.Limit); err != nil {
			return errors.Join(fmt.Errorf("%w: %w", snapshot.ErrNotTaken, err), dropState(p))
		}
	}
	done, err := h.whileStopped(ctx, p, s)
	if s.mayGoOn != nil && done != diskUntouched {
		if mayErr := s.mayGoOn(); mayErr != nil {
			s.writer.Wait()
			return errors.Join(err, mayErr) // the marker stays
		}
	}
	resumeErr := h.resume(ctx, p)
	s.writer.Wait()
	if resumeErr != nil {
		return errors.Join(fmt.Errorf("resume: %w", resumeErr), err) // the marker stays
	}
	h.throttle(ctx, p)
	s.resumed()
	if done == diskFrozen {
		s.settled()
	}
	if err == nil {
		err = keepState(p.Saved)
	} else {
		err = errors.Join(err, dropState(p))
	}
	switch {
	case err != nil && done == diskFrozen:
		return fmt.Errorf("%w: %w", snapshot.ErrNotSaved, err)
	case err != nil && done == diskUntouched:
		return fmt.Errorf("%w: %w", snapshot.ErrNotTaken, err)
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
		if err := m.openThrottle(ctx, p); err != nil {
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
	return diskFrozen, h.during(ctx, p, func(m *monitor) error { return m.migrateInto(ctx, p, s) })
}

// openThrottle lifts the limit of a migration, where there is one.
func (m *monitor) openThrottle(ctx context.Context, p snapshot.Plan) error {
	if p.Saved.Bandwidth == 0 {
		return nil
	}
	return m.Execute(ctx, "migrate-set-parameters", args{"max-bandwidth": int64(stateBandwidth)}, nil)
}

// throttle sets the limit of a migration again that openThrottle lifted, here or in a
// process that has died. The guest goes on already: it does not wait for this.
func (h *Host) throttle(ctx context.Context, p snapshot.Plan) {
	if p.Saved.Bandwidth == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), resumeTimeout)
	defer cancel()
	err := h.during(ctx, p, func(m *monitor) error {
		return m.Execute(ctx, "migrate-set-parameters", args{"max-bandwidth": p.Saved.Bandwidth}, nil)
	})
	if err != nil {
		h.opt.Log.Warn("give back migration bandwidth", "vm", p.VM, "bandwidth", p.Saved.Bandwidth, "error", err)
	}
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
