package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/lull-backup/lull/agent/retention"
	"github.com/lull-backup/lull/transport/repo"
)

// Verdict is what becomes of one restore point, and why.
type Verdict struct {
	Point   repo.Point
	Keep    bool
	Reasons []string
}

// Judge applies rules to the restore points of one VM, oldest first. Points that are held
// stay whatever the rules say, and the newest always does.
func Judge(keep retention.Keep, points []repo.Point, held map[string]repo.Held, loc *time.Location) []Verdict {
	times := make([]time.Time, len(points))
	for i := range points {
		times[i] = points[i].Frozen
	}
	out := make([]Verdict, len(points))
	for i, d := range retention.Decide(keep, times, loc) {
		out[i] = Verdict{Point: points[i], Keep: d.Keep, Reasons: d.Reasons}
		h, is := held[points[i].ID]
		if !is {
			continue
		}
		if !d.Keep {
			out[i].Reasons = nil
		}
		reason := "held"
		if h.Reason != "" {
			reason += ": " + h.Reason
		}
		out[i].Keep, out[i].Reasons = true, append(slices.Clip(out[i].Reasons), reason)
	}
	return out
}

// Going are the points that do not stay.
func Going(verdicts []Verdict) (points []repo.Point) {
	for _, v := range verdicts {
		if !v.Keep {
			points = append(points, v.Point)
		}
	}
	return points
}

// Retain forgets the restore points of a VM that no rule wants. Where one cannot be read
// nothing is forgotten: the rules would count wrong.
func Retain(ctx context.Context, r *repo.Repository, vm string, keep retention.Keep, loc *time.Location) ([]Verdict, error) {
	if keep.IsZero() {
		return nil, nil
	}
	if err := r.Allow(repo.RoleMaintain, "forget restore points"); err != nil {
		return nil, err
	}
	points, err := r.Points(ctx, vm)
	if err != nil {
		return nil, fmt.Errorf("keep points of %s: %w", vm, err)
	}
	held, err := r.Holds(ctx)
	if err != nil {
		return nil, fmt.Errorf("keep points of %s: %w", vm, err)
	}
	verdicts := Judge(keep, points, held, loc)
	if err := Forget(ctx, r, verdicts); err != nil && !errors.As(err, new(*repo.LockedError)) {
		return nil, fmt.Errorf("keep points of %s: %w", vm, err)
	}
	return verdicts, nil
}

// Forget forgets the points that do not stay. Those that the store keeps locked stay after
// all, which is in their verdicts then, and in the error, a repo.LockedError.
func Forget(ctx context.Context, r *repo.Repository, verdicts []Verdict) error {
	going := Going(verdicts)
	if len(going) == 0 {
		return nil
	}
	err := r.Forget(ctx, going)
	var locked *repo.LockedError
	if !errors.As(err, &locked) {
		return err
	}
	reason := "locked by the store"
	if !locked.Until.IsZero() {
		reason += ", the first until " + locked.Until.UTC().Format(time.RFC3339)
	}
	for i := range verdicts {
		v := &verdicts[i]
		if !v.Keep && slices.Contains(locked.Points, v.Point.ID) {
			v.Keep, v.Reasons = true, []string{reason}
		}
	}
	return err
}

// retain applies the group's rules after a run of a VM. A host whose key may not forget
// leaves that to one that may.
func (d *Daemon) retain(ctx context.Context, g Group, job Job) {
	verdicts, err := Retain(ctx, job.Repository, job.Name, g.Keep, time.Local)
	switch {
	case errors.Is(err, repo.ErrRole):
		d.leftKeep.Do(func() {
			d.Log.Info("keep is left to a host whose key may forget", "group", g.Name, "why", err)
		})
	case err != nil && ctx.Err() == nil:
		d.Log.Error("forget restore points", "vm", job.Name, "error", err)
	}
	for _, p := range Going(verdicts) {
		d.Log.Info("restore point forgotten", "vm", job.Name, "point", p.ID, "why", "no rule of keep wants it")
	}
}
