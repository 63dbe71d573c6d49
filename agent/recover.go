package agent

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/lull-backup/lull/agent/journal"
	"github.com/lull-backup/lull/quiesce"
	"github.com/lull-backup/lull/snapshot"
)

// thawTimeout bounds how long recovery follows a guest that does not answer.
const thawTimeout = 5 * time.Minute

// guardTimeout bounds how long somebody may take to stand by, and to leave.
const guardTimeout = 30 * time.Second

// Resolve finds the host that serves a VM of the configuration, by the name
// host/vm that the journal knows.
type Resolve func(name string) (host snapshot.Host, vm string, err error)

// recover repairs what an interrupted run left of a VM: its guest is thawed, its deltas
// are merged. Where that fails, the journal keeps the entry.
func (r *Runner) recover(ctx context.Context, e journal.Entry, resolve Resolve) error {
	err := contain(r.Log, e.VM, func() error { return r.recoverLocked(ctx, e.VM, resolve) })
	if err != nil {
		r.emit(Event{Run: e.Run, VM: e.VM, Step: StepFailed, Error: err.Error()})
	}
	return err
}

// recoverLocked recovers one VM unless a live run owns the entry.
func (r *Runner) recoverLocked(ctx context.Context, name string, resolve Resolve) error {
	host, vm, err := resolve(name)
	if err != nil {
		return fmt.Errorf("recover %s: %w", name, err)
	}
	done, ok := r.turns.try(name)
	if !ok {
		return nil
	}
	defer done()
	lock, err := r.Journal.Lock(name)
	if errors.Is(err, journal.ErrLocked) {
		return nil // the run is alive and looks after itself
	}
	if err != nil {
		return fmt.Errorf("recover %s: %w", name, err)
	}
	defer lock.Unlock()
	return r.recoverAny(ctx, name, host, vm)
}

// recoverAny ends what a run has left of a VM, or an operation on its checkpoints. The
// caller holds the VM's lock.
func (r *Runner) recoverAny(ctx context.Context, name string, host snapshot.Host, vm string) error {
	if err := r.recoverEntry(ctx, name, host, vm); err != nil {
		return err
	}
	if err := r.recoverCheckpoints(ctx, host, vm); err != nil {
		return fmt.Errorf("recover %s: %w", name, err)
	}
	return nil
}

// recoverEntry is the tail of a run, run again: thaw, merge, forget. The caller
// holds the VM's lock.
func (r *Runner) recoverEntry(ctx context.Context, name string, host snapshot.Host, vm string) error {
	e, found, err := r.Journal.Read(name)
	if err != nil || !found {
		return err
	}
	tell := func(s Step, msg string) { r.emit(Event{Run: e.Run, VM: name, Step: s, Message: msg}) }
	leave := r.standBy(ctx, e)
	defer leave()
	tell(StepRecovering, "an earlier run was interrupted")
	r.Log.Warn("recover interrupted run", "vm", name, "run", e.Run, "started", e.Started)
	proven, thawErr, mergeErr := r.thawAndMerge(ctx, e, host, vm)
	if err := errors.Join(thawErr, mergeErr); err != nil {
		if proven {
			err = errors.Join(err, r.thawed(e))
		}
		return fmt.Errorf("recover %s: %w", name, err)
	}
	if err := r.Journal.Remove(name); err != nil {
		return fmt.Errorf("recover %s: remove journal entry: %w", name, err)
	}
	tell(StepRecovered, "")
	return nil
}

// standBy has somebody outlive this process until leave, where the guest may be frozen or
// stand still: the dead-man of the run may have died with it. Recovery goes on without one,
// as that alone helps the guest now; and what it could not do it is tried again for.
func (r *Runner) standBy(ctx context.Context, e journal.Entry) (leave func()) {
	leave = func() {}
	if r.DeadMan == nil || e.Plan.State == snapshot.StateOff || !e.FreezeSent && e.Plan.Saved.Path == "" {
		return leave
	}
	guard := r.DeadMan(e.VM, e.Plan)
	if guard == nil {
		return leave
	}
	arming, cancel := context.WithTimeout(ctx, guardTimeout)
	defer cancel()
	if err := guard.Arm(arming); err != nil {
		r.Log.Warn("nobody would let the guest go if lull died now", "vm", e.VM, "run", e.Run, "error", err)
		return leave
	}
	return func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), guardTimeout)
		defer cancel()
		if err := guard.Disarm(ctx, true); err != nil {
			r.Log.Warn("end the guard of a VM", "vm", e.VM, "run", e.Run, "error", err)
		}
	}
}

// thawAndMerge does both at once, as neither can wait for the other: a guest may be
// silent because QEMU stopped it, for want of the room that the merge makes.
func (r *Runner) thawAndMerge(ctx context.Context, e journal.Entry, host snapshot.Host, vm string) (proven bool, thawErr, mergeErr error) {
	var thaw sync.WaitGroup
	thaw.Go(func() { proven, thawErr = r.thaw(ctx, e, host, vm) })
	mergeErr = r.mergeTelling(ctx, host, e.Plan, func(told Event) {
		told.Run, told.VM = e.Run, e.VM
		r.emit(told)
	})
	thaw.Wait()
	return proven, thawErr, mergeErr
}

// thawed notes that the guest of an entry is proven to write: who merges later
// need not ask it again.
func (r *Runner) thawed(e journal.Entry) error {
	if !e.FreezeSent {
		return nil
	}
	e.FreezeSent = false
	if err := r.Journal.Write(e); err != nil {
		return fmt.Errorf("write journal: %w", err)
	}
	return nil
}

// anew tells whether the VM was started anew since the run of an entry: then its
// guest cannot be the one that the run froze, and need not prove anything.
func anew(ctx context.Context, e journal.Entry, host snapshot.Host, vm string) bool {
	now, err := host.Instance(ctx, vm)
	return err == nil && now != "" && e.Plan.Instance != "" && now != e.Plan.Instance
}

// thaw follows a guest that an interrupted run may have frozen until it is
// proven to write again. Where nothing answers that could be frozen nothing is proven
// either, and the merge decides: it fails while QEMU still has the disks.
func (r *Runner) thaw(ctx context.Context, e journal.Entry, host snapshot.Host, vm string) (proven bool, err error) {
	if !e.FreezeSent || anew(ctx, e, host, vm) {
		return true, nil
	}
	guest, err := host.Guest(ctx, vm)
	if errors.Is(err, snapshot.ErrNoGuest) && runsOn(ctx, e, host, vm) {
		return false, snapshot.WithHint(fmt.Errorf("the VM runs on and its guest may be frozen: reach guest: %w", err),
			"put the path of its guest-agent socket right, thaw it by hand, or start the VM anew")
	}
	if errors.Is(err, snapshot.ErrNoGuest) || errors.Is(err, snapshot.ErrUnreachable) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("reach guest: %w", err)
	}
	defer guest.Close()
	ctx, cancel := context.WithTimeout(ctx, thawTimeout)
	defer cancel()
	if err := quiesce.EnsureThawed(ctx, guest, r.Log); err != nil {
		return false, err
	}
	if err := r.undo(ctx, e, guest); err != nil {
		r.Log.Warn("applications of an interrupted run may hold still until their own time is up", "vm", e.VM, "run", e.Run, "error", err)
	}
	return true, nil
}

// undo has the writers of a VM let go of their applications. What holds still in the
// guest has a time limit of its own, and is undone before it is frozen again, so that
// one that fails here is in nobody's way.
func (r *Runner) undo(ctx context.Context, e journal.Entry, guest snapshot.Guest) error {
	if r.Writers == nil {
		return nil
	}
	start := r.Writers(e.VM)
	if start == nil {
		return nil
	}
	writers, stop, err := start(ctx, guest)
	if err != nil {
		return fmt.Errorf("start writers: %w", err)
	}
	return errors.Join(quiesce.AbortAll(ctx, quiesce.Request{Run: e.Run, VM: e.VM}, writers, r.Log), stop())
}

// runsOn tells whether the VM still is in the process that the run met.
func runsOn(ctx context.Context, e journal.Entry, host snapshot.Host, vm string) bool {
	now, err := host.Instance(ctx, vm)
	return err == nil && now != "" && now == e.Plan.Instance
}
