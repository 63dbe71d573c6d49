package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/lull-backup/lull/quiesce"
	"github.com/lull-backup/lull/snapshot"
)

// errPaused: nothing is asked of the guest of a VM that was paused before the run,
// and it stays paused.
var errPaused = errors.New("the VM is paused: nothing in it can answer")

// hold makes the guest hold still, takes the snapshot, and lets the guest go on.
func (b *backup) hold(ctx context.Context) error {
	if b.plan.State == snapshot.StateOff {
		return b.holdOff(ctx)
	}
	guest, writers, err := b.guest(ctx)
	var noGuest error
	if errors.Is(err, snapshot.ErrNoGuest) { // the ladder says what that means
		noGuest, err = err, nil
	}
	if err != nil {
		return err
	}
	if b.plan.State == snapshot.StatePaused {
		noGuest = errPaused
	}
	job := quiesce.Job{
		Run: b.run, VM: b.job.Name, Policy: b.job.Policy, Writers: writers, NoGuest: noGuest, Log: b.Log,
		Disks: disksOf(b.plan), Take: b.take, Saved: b.saved(), Step: b.heldStep,
		Progress: func(p quiesce.Progress) { b.emit(writerEvent(p)) }, Rest: b.job.Rest,
	}
	if guest != nil {
		job.Guest, job.Guards = guest, b.guards(guest)
	}
	b.held, err = quiesce.Do(ctx, job)
	b.instant, b.result.Memory = b.taken.told()
	b.owed = errors.Is(err, quiesce.ErrStillFrozen)
	if err != nil {
		return fmt.Errorf("hold still: %w", err)
	}
	b.report = b.held.Report()
	if b.report.Level < b.report.Asked {
		b.warn(fmt.Sprintf("%s consistency was asked for, %s was reached", b.report.Asked, b.report.Level))
	}
	for _, reason := range slices.Concat(b.report.Reasons, b.report.Warnings) {
		b.warn(reason)
	}
	return nil
}

// writerEvent is what a writer tells of itself.
func writerEvent(p quiesce.Progress) Event {
	return Event{Step: StepWriter, Writer: p.Writer, Message: p.What, Done: p.Done, Total: p.Total}
}

// disksOf are the disks of a plan as writers know them. One that no device serves is none
// that the guest could see.
func disksOf(p snapshot.Plan) []quiesce.Disk {
	var all []quiesce.Disk
	add := func(d snapshot.Disk, leftOut string) (served bool) {
		i := slices.IndexFunc(p.Hardware.Devices, func(v snapshot.Device) bool { return v.Disk == d.Name || v.Disk == "" && v.ID == d.Name })
		disk := quiesce.Disk{Name: d.Name, Size: d.Size, LeftOut: leftOut}
		if i >= 0 {
			disk.Serial, disk.Address = p.Hardware.Devices[i].Serial, p.Hardware.Devices[i].Address
		}
		all = append(all, disk)
		return i >= 0
	}
	for _, d := range p.Disks {
		add(d.Disk, "")
	}
	for _, x := range p.Excluded {
		if served := add(x.Disk, x.Reason); x.Expected && (!served || x.Disk.Size == 0) {
			all = all[:len(all)-1] // an empty drive, or nothing that the guest has
		}
	}
	return all
}

// holdOff takes the snapshot of a VM that does not run: nothing in it is in
// flight, so its disks are all that there is and the point is as good as asked.
func (b *backup) holdOff(ctx context.Context) error {
	asked := b.job.Policy.Ladder[0]
	b.report = quiesce.Report{Asked: asked, Level: asked}
	if err := b.take(ctx); err != nil {
		return err
	}
	b.instant, _ = b.taken.told()
	b.step(StepTaken, "")
	return nil
}

// taken is what a Take tells. It may do that at a time when nobody waits for it any more.
type taken struct {
	mu      sync.Mutex
	instant time.Time // when the disks froze
	memory  string    // how it was written
}

func (t *taken) froze(at time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.instant = at
}

func (t *taken) saved(how snapshot.Saving) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.memory = written(how)
}

func (t *taken) told() (instant time.Time, memory string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.instant, t.memory
}

// take is the one call inside the window.
func (b *backup) take(ctx context.Context) error {
	if err := b.job.Host.Take(ctx, b.plan); err != nil {
		return err // it says itself what this was
	}
	b.taken.froze(b.Now())
	return nil
}

// saved is take for a guest whose memory is saved too, where the host can.
func (b *backup) saved() *quiesce.Saved {
	host, ok := b.job.Host.(snapshot.Saver)
	if !ok {
		return nil
	}
	return &quiesce.Saved{
		Guards: b.deadMan(),
		Check:  func(ctx context.Context) error { return host.CanSave(ctx, b.plan) },
		Take: func(ctx context.Context, goesOn func()) error {
			how, err := host.TakeSaved(ctx, b.plan, func(m snapshot.Moment) {
				switch m {
				case snapshot.MomentFrozen: // saving the memory may take seconds more
					b.taken.froze(b.Now())
				case snapshot.MomentGoesOn:
					goesOn()
				}
			})
			if err == nil {
				b.taken.saved(how)
			}
			return err
		},
	}
}

// written says how memory was saved.
func written(how snapshot.Saving) string {
	if how.Background {
		return "its memory was written while the guest went on"
	}
	return "the guest stood still until its memory was written: " + how.Why
}

// heldStep passes on a step of the coordinator.
func (b *backup) heldStep(s quiesce.Step) {
	message := ""
	if s == quiesce.StepTaken {
		_, message = b.taken.told()
	}
	b.step(Step(s), message)
}

// mayFreeze reports whether the run may ask the guest to freeze.
func (b *backup) mayFreeze() bool {
	return b.plan.State != snapshot.StateOff && b.plan.State != snapshot.StatePaused && b.job.Policy.Ladder[0] > quiesce.LevelSavedState
}

// guest opens the way into the guest and starts the writers, where the ladder
// has a rung that needs them. Both stay until letGo: the writers hear of the
// run's end.
func (b *backup) guest(ctx context.Context) (snapshot.Guest, []quiesce.Writer, error) {
	if !b.mayFreeze() {
		return nil, nil, nil
	}
	guest, err := b.job.Host.Guest(ctx, b.job.VM)
	if err != nil {
		return nil, nil, fmt.Errorf("reach guest: %w", err)
	}
	b.open = append(b.open, guest.Close)
	// The journal knows before anything is sent, so that recovery knows to thaw; and
	// not where there is nobody who could be asked to freeze.
	b.entry.FreezeSent = true
	if err := b.Journal.Write(b.entry); err != nil {
		return nil, nil, fmt.Errorf("write journal: %w", err)
	}
	if b.job.Writers == nil {
		return guest, nil, nil
	}
	writers, stop, err := b.job.Writers(ctx, guest)
	if err != nil {
		return nil, nil, fmt.Errorf("start writers: %w", err)
	}
	b.open = append(b.open, stop)
	return guest, writers, nil
}

// guards are what thaws the guest where this process cannot any more: a process
// beside it, and a timer in the guest itself. The timer comes last: it runs from
// when it is armed, and a process may take long to start on a busy host.
func (b *backup) guards(guest snapshot.Guest) []quiesce.Guard {
	return append(b.deadMan(), quiesce.NewTimer(guest, b.job.Policy, b.Log))
}

// deadMan is the process beside this one, where the run has one.
func (b *backup) deadMan() []quiesce.Guard {
	if b.job.DeadMan == nil {
		return nil
	}
	return []quiesce.Guard{b.job.DeadMan(b.plan)}
}

// letGo ends the writers and closes the way into the guest.
func (b *backup) letGo() {
	for _, end := range slices.Backward(b.open) {
		if err := end(); err != nil {
			b.Log.Warn("let go of the guest", "vm", b.job.Name, "run", b.run, "error", err)
		}
	}
	b.open = nil
}
