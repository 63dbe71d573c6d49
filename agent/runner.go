package agent

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/lull-backup/lull/agent/journal"
	"github.com/lull-backup/lull/quiesce"
	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/transport/repo"
)

// abortTimeout bounds the clean-up in the guest that follows a run, however the run ended.
const abortTimeout = 6 * time.Minute

// Writers starts the writers that speak for one guest. stop ends them.
type Writers func(ctx context.Context, guest snapshot.Guest) (writers []quiesce.Writer, stop func() error, err error)

// Job is one VM to back up.
type Job struct {
	Name       string // host/vm: the name of its restore points and of its journal entry
	VM         string // its name on the host
	Host       snapshot.Host
	Repository *repo.Repository
	Policy     quiesce.Policy
	Writers    Writers // nil: none
	// DeadMan makes the guard in a process of its own that thaws or resumes the guest if this
	// one dies. Nil: none.
	DeadMan func(snapshot.Plan) quiesce.Guard
	// Tracking says how far the run relies on what the host knows of changes.
	Tracking Tracking
	// Slowdown is when the merge may slow the guest down.
	Slowdown snapshot.Slowdown
	// Rest is that of quiesce.Job. May be nil.
	Rest func(ctx context.Context, wait func(context.Context) error) error
}

// Runner backs up VMs and repairs what an interrupted run left. Its methods are
// safe for concurrent use; the journal lets one run a VM happen at a time, on
// the whole machine. Within one Runner a second one waits.
type Runner struct {
	Journal *journal.Journal
	Log     *slog.Logger
	Observe Observer // may be nil
	Version string   // of lull, recorded in every point
	Now     func() time.Time
	// Writers are those of a VM, by the name of its journal entry: recovery has them undo
	// what an interrupted run may have left frozen. May be nil.
	Writers func(vm string) Writers
	// DeadMan makes the guard in a process of its own that lets the guest of a VM go if this
	// process dies while it recovers the VM from what a run with that plan has left; nil for
	// one that has none. May be nil.
	DeadMan func(vm string, p snapshot.Plan) quiesce.Guard
	// Workers is handed to the transfer; 0: its default.
	Workers int

	turns turns
}

// Backup makes one restore point of one VM. Whatever happens, on return the
// guest runs and its chain is as before, or the error says what is left to do
// and the journal remembers it.
func (r *Runner) Backup(ctx context.Context, job Job) (Result, error) {
	started := r.Now()
	b := &backup{Runner: r, job: job, run: newRun(started), result: Result{VM: job.Name, Started: started}}
	b.result.Run = b.run
	done, err := r.turns.wait(ctx, job.Name)
	if err != nil {
		return b.end(fmt.Errorf("back up %s: %w", job.Name, err))
	}
	defer done()
	lock, err := r.Journal.Lock(job.Name)
	if err != nil {
		return b.end(fmt.Errorf("back up %s: %w", job.Name, err))
	}
	defer lock.Unlock()
	b.step(StepStarted, "")
	if err := b.do(ctx); err != nil {
		return b.finish(fmt.Errorf("back up %s: %w", job.Name, err))
	}
	return b.finish(nil)
}

// backup is the state of one run.
type backup struct {
	*Runner
	job     Job
	run     string
	plan    snapshot.Plan
	entry   journal.Entry
	session *repo.Session
	held    *quiesce.Held
	report  quiesce.Report
	frozen  snapshot.Frozen
	taken   taken
	instant time.Time // when the disks froze, as taken has told
	room    room
	result  Result
	owed    bool           // the guest is not proven thawed; the journal keeps the entry
	open    []func() error // what letGo ends, last first
}

func (b *backup) do(ctx context.Context) (err error) {
	if err := b.recoverEntry(ctx, b.job.Name, b.job.Host, b.job.VM); err != nil {
		return Interrupted(ctx, err)
	}
	if err := b.recoverCheckpoints(ctx, b.job.Host, b.job.VM); err != nil {
		return Interrupted(ctx, err)
	}
	if err := b.compareBefore(ctx); err != nil {
		return err
	}
	defer b.release()
	if err := b.makePlan(ctx); err != nil {
		return Interrupted(ctx, err)
	}
	b.plan.Slowdown = b.job.Slowdown
	b.step(StepPlanned, fmt.Sprintf("%d disks", len(b.plan.Disks)))
	// The repository is met before the guest: one that is out of reach costs
	// the guest nothing.
	if b.session, err = b.job.Repository.Begin(ctx, b.job.Name, b.Now()); err != nil {
		return fmt.Errorf("begin session: %w", Interrupted(ctx, err))
	}
	defer func() { err = errors.Join(err, b.session.Close()) }()
	if err := b.track(ctx); err != nil {
		return Interrupted(ctx, err)
	}

	b.entry = journal.Entry{Run: b.run, VM: b.job.Name, Plan: b.plan, Started: b.result.Started}
	if err := b.Journal.Write(b.entry); err != nil {
		return fmt.Errorf("write journal: %w", err)
	}
	b.step(StepJournaled, "")

	defer b.letGo()
	point, readErr := b.snapshotAndRead(ctx)
	mergeErr := b.merge(ctx)
	if mergeErr == nil {
		b.compareAfter(ctx)
	}
	if readErr == nil {
		// A point whose every byte is stored is worth keeping even when the
		// merge must be tried again later.
		readErr = b.commit(ctx, point)
	}
	b.settle(ctx, mergeErr == nil)
	if readErr != nil && b.held != nil {
		b.abort(ctx)
	}
	return errors.Join(Interrupted(ctx, readErr), mergeErr, b.forget(mergeErr), b.proven())
}

// snapshotAndRead freezes the VM's disks and stores them; the frozen disks are
// closed on return.
func (b *backup) snapshotAndRead(ctx context.Context) (point repo.Point, err error) {
	if err := b.job.Host.Prepare(ctx, b.plan); err != nil {
		return point, err
	}
	b.step(StepPrepared, "")
	if err := b.hold(ctx); err != nil {
		return point, err
	}
	if b.frozen, err = b.job.Host.Open(ctx, b.plan); err != nil {
		return point, err
	}
	defer func() { err = errors.Join(err, b.frozen.Close()) }()
	return b.read(ctx)
}

// merge brings the chain back. It takes its own time: a cancelled run merges too.
func (b *backup) merge(ctx context.Context) error {
	ctx = context.WithoutCancel(ctx)
	b.step(StepMerging, "")
	b.measure()
	if err := b.mergeTelling(ctx, b.job.Host, b.plan, b.heard); err != nil {
		return err
	}
	b.step(StepMerged, "")
	return nil
}

// commit makes the restore point, the one write that counts.
func (b *backup) commit(ctx context.Context, point repo.Point) error {
	point, err := b.session.Commit(ctx, point)
	if err != nil {
		return err
	}
	b.result.Point, b.result.Requests = point, b.session.Stats().Requests
	b.step(StepCommitted, point.ID)
	if b.held == nil {
		return nil
	}
	if err := b.held.Complete(ctx, point.ID); err != nil {
		b.warn(fmt.Sprintf("writers could not complete: %v", err))
	}
	return nil
}

func (b *backup) abort(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), abortTimeout)
	defer cancel()
	if err := b.held.Abort(ctx); err != nil {
		b.Log.Warn("abort writers", "vm", b.job.Name, "run", b.run, "error", err)
	}
}

// forget drops the journal entry of a run that owes nothing any more, and notes in
// one that owes a merge that it owes no more than that.
func (b *backup) forget(mergeErr error) error {
	if b.owed {
		return nil
	}
	if mergeErr != nil {
		return b.thawed(b.entry)
	}
	if err := b.Journal.Remove(b.job.Name); err != nil {
		return fmt.Errorf("remove journal entry: %w", err)
	}
	b.step(StepForgotten, "")
	return nil
}

// finish notes how the run ended where status and catch-up look for it.
func (b *backup) finish(err error) (Result, error) {
	res := journal.Result{Start: b.result.Started, Point: b.result.Point.ID, Room: b.account()}
	if res.Point != "" {
		res.Level = b.result.Point.Quiesce.Level.String()
		res.Warned, res.Warnings = len(b.result.Warnings), b.result.Warnings
		res.Tracking = tracked(b.result.Point)
	}
	return b.end(errors.Join(err, b.record(b.job.Name, res, err)))
}

// record keeps how a run of a VM ended.
func (r *Runner) record(vm string, res journal.Result, err error) error {
	if err != nil {
		res.Error = err.Error()
	} else {
		res.Success = r.Now()
	}
	if err := r.Journal.Record(vm, res); err != nil {
		return fmt.Errorf("record result: %w", err)
	}
	return nil
}

// end tells how the run ended.
func (b *backup) end(err error) (Result, error) {
	b.result.Took = b.Now().Sub(b.result.Started)
	if err != nil {
		b.emit(Event{Step: StepFailed, Error: err.Error()})
		return b.result, err
	}
	b.emit(Event{Step: StepDone, Result: &b.result})
	return b.result, nil
}

func (b *backup) step(s Step, message string) { b.emit(Event{Step: s, Message: message}) }

func (b *backup) warn(message string) {
	b.result.Warnings = append(b.result.Warnings, message)
	b.emit(Event{Step: StepWarning, Message: message})
}

func (b *backup) emit(e Event) {
	e.Run, e.VM = b.run, b.job.Name
	b.Runner.emit(e)
}

func (r *Runner) emit(e Event) {
	e.Time = r.Now()
	if r.Observe != nil {
		r.Observe(e)
	}
}

// newRun names a run: its start to the second, and enough randomness that two
// machines do not meet.
func newRun(start time.Time) string {
	var b [4]byte
	rand.Read(b[:]) // never fails
	return start.UTC().Format("20060102T150405Z") + "-" + hex.EncodeToString(b[:])
}
