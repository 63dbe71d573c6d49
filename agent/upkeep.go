package agent

import (
	"context"
	"errors"
	"time"

	"github.com/lull-backup/lull/agent/schedule"
	"github.com/lull-backup/lull/transport/repo"
)

// Upkeep is the maintenance of one repository: what forgotten points alone needed is
// deleted.
type Upkeep struct {
	Repository string // its name
	Schedule   schedule.Schedule
	Jitter     time.Duration
	Grace      time.Duration
	Open       func(ctx context.Context) (r *repo.Repository, close func() error, err error)
}

// keepUp prunes a repository at its times. Hosts that share one may all do so: the lease
// lets one of them work.
func (d *Daemon) keepUp(ctx context.Context, u Upkeep) {
	for {
		due := u.Schedule.Next(d.Runner.Now())
		if due.IsZero() {
			return
		}
		due = due.Add(schedule.Jitter(d.Machine+"/prune "+u.Repository, due, u.Jitter))
		if !d.sleepUntil(ctx, due) {
			return
		}
		if err := d.prune(ctx, u); err != nil && ctx.Err() == nil {
			d.Log.Error("prune", "repository", u.Repository, "error", err)
		}
	}
}

func (d *Daemon) prune(ctx context.Context, u Upkeep) (err error) {
	r, closeRepo, err := u.Open(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeRepo()) }()
	report, err := r.Prune(ctx, repo.PruneOptions{Grace: u.Grace})
	if errors.Is(err, repo.ErrBusy) || errors.Is(err, repo.ErrRole) {
		d.Log.Info("prune is left to another host", "repository", u.Repository, "why", err)
		return nil
	}
	if err != nil {
		return err
	}
	d.Log.Info("pruned", "repository", u.Repository, "deleted", report.Deleted, "deleted_bytes", report.DeletedBytes,
		"marked", report.Marked, "rewritten", report.Rewritten, "fenced", report.Fenced, "waiting", report.Waiting)
	return nil
}
