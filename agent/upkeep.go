package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/lull-backup/lull/agent/control"
	"github.com/lull-backup/lull/agent/schedule"
	"github.com/lull-backup/lull/transport/repo"
)

// Upkeep is the maintenance of one repository: what restore points need is locked for
// longer, and what forgotten points alone needed is deleted.
type Upkeep struct {
	Repository string // its name
	Schedule   schedule.Schedule
	Jitter     time.Duration
	// Locks says how the store is to lock what points need; nil: it locks nothing.
	Locks func(r *repo.Repository) repo.LockOptions
	// Prune is for repositories from which points are forgotten.
	Prune bool
	Grace time.Duration // of prunes
	Open  func(ctx context.Context) (r *repo.Repository, close func() error, err error)
}

// keepUp maintains a repository at its times. Hosts that share one may all do so: a lease
// lets one of them prune, and a lock that is there is not made again.
func (d *Daemon) keepUp(ctx context.Context, u Upkeep) {
	var last control.UpkeepStatus
	for {
		due := u.Schedule.Next(d.Runner.Now())
		if due.IsZero() {
			return
		}
		due = due.Add(schedule.Jitter(d.Machine+"/prune "+u.Repository, due, u.Jitter))
		last.Repository, last.Next = u.Repository, due
		d.Board.kept(last)
		if !d.sleepUntil(ctx, due) {
			return
		}
		last.LastStart, last.LastError = d.Runner.Now(), ""
		if err := d.maintain(ctx, u); err != nil && ctx.Err() == nil {
			last.LastError = err.Error()
			d.Log.Error("maintenance", "repository", u.Repository, "error", err)
		}
	}
}

// maintain renews locks and prunes. A prune that fails keeps no lock from being renewed, nor
// the other way round.
func (d *Daemon) maintain(ctx context.Context, u Upkeep) (err error) {
	r, closeRepo, err := u.Open(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeRepo()) }()
	var errs []error
	if u.Locks != nil {
		errs = append(errs, d.leave(u, "renewal of locks", d.renewLocks(ctx, r, u)))
	}
	if u.Prune {
		errs = append(errs, d.leave(u, "prune", d.prune(ctx, r, u)))
	}
	return errors.Join(errs...)
}

// leave takes what another host does, or is to do, for no failure.
func (d *Daemon) leave(u Upkeep, what string, err error) error {
	if errors.Is(err, repo.ErrBusy) || errors.Is(err, repo.ErrRole) {
		d.Log.Info(what+" is left to another host", "repository", u.Repository, "why", err)
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

func (d *Daemon) renewLocks(ctx context.Context, r *repo.Repository, u Upkeep) error {
	report, err := r.RenewLocks(ctx, u.Locks(r))
	if report.Points > 0 { // of which some may be damaged
		d.Log.Info("locks renewed", "repository", u.Repository, "points", report.Points, "objects", report.Objects, "renewed", report.Renewed)
	}
	return err
}

func (d *Daemon) prune(ctx context.Context, r *repo.Repository, u Upkeep) error {
	report, err := r.Prune(ctx, repo.PruneOptions{Grace: u.Grace})
	if err != nil {
		return err
	}
	if len(report.Ignored) > 0 {
		d.Log.Warn("somebody without a key of the repository writes below leases/", "repository", u.Repository, "ignored", report.Ignored)
	}
	d.Log.Info("pruned", "repository", u.Repository, "deleted", report.Deleted, "deleted_bytes", report.DeletedBytes,
		"marked", report.Marked, "rewritten", report.Rewritten, "fenced", report.Fenced, "waiting", report.Waiting)
	return nil
}
