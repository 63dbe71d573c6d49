package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
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

// Judge applies rules to the restore points of one VM, oldest first: to those of each maker
// on their own. A host that was taken over signs points of any VM, of any day: they take
// no place of another key's, nor do their copies. Points that are held stay whatever the
// rules say, and the newest of each maker always does.
func Judge(keep retention.Keep, points []repo.Point, held map[string]repo.Held, loc *time.Location) []Verdict {
	out := make([]Verdict, len(points))
	makers, of := makersOf(points)
	for _, m := range makers {
		places, times := madeBy(points, of, m)
		for n, d := range retention.Decide(keep, times, loc) {
			i := places[n]
			out[i] = Verdict{Point: points[i], Keep: d.Keep, Reasons: d.Reasons}
			if len(makers) > 1 {
				out[i].Reasons = append(d.Reasons, "counted with those of key "+m.String())
			}
		}
	}
	for i := range out {
		if h, is := held[points[i].ID]; is {
			out[i].hold(h)
		}
	}
	return out
}

// madeBy are the places and times of the points of one maker; of says whose each is.
func madeBy(points []repo.Point, of []maker, m maker) (places []int, times []time.Time) {
	for i := range points {
		if of[i] == m {
			places, times = append(places, i), append(times, points[i].Frozen)
		}
	}
	return places, times
}

// LockUntil says until when the points of one VM, oldest first, are to stay locked so that
// locks follow the rules: as long as the rules are sure to keep them, and the newest of each
// maker, which always stays, for some time from now on.
func LockUntil(keep retention.Keep, points []repo.Point, loc *time.Location, now time.Time, newest time.Duration) []time.Time {
	out := make([]time.Time, len(points))
	makers, of := makersOf(points)
	for _, m := range makers {
		places, times := madeBy(points, of, m)
		for n, until := range retention.Until(keep, times, loc, now) {
			out[places[n]] = until
		}
		last := places[len(places)-1]
		if until := now.Add(newest); until.After(out[last]) {
			out[last] = until
		}
	}
	return out
}

func (v *Verdict) hold(h repo.Held) {
	if !v.Keep {
		v.Reasons = nil
	}
	reason := "held"
	if h.Reason != "" {
		reason += ": " + h.Reason
	}
	v.Keep, v.Reasons = true, append(slices.Clip(v.Reasons), reason)
}

// ManySigners is what the administrator is to know of a VM whose restore points several
// keys made, the newest first; else nothing.
func ManySigners(vm string, signers []string) string {
	if len(signers) < 2 {
		return ""
	}
	return fmt.Sprintf("the newest restore point of %s is of key %q, others are of %s: keep counts each key's on their own; "+
		"if a key was replaced, lull forget --signed-by thins out the old one's; if not, find out who holds key %[2]q",
		vm, signers[0], strings.Join(signers[1:], ", "))
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
	if warning := ManySigners(job.Name, Signers(pointsOf(verdicts))); warning != "" {
		d.Log.Warn("restore points of several keys", "vm", job.Name, "warning", warning)
	}
	for _, p := range Going(verdicts) {
		d.Log.Info("restore point forgotten", "vm", job.Name, "point", p.ID, "why", "no rule of keep wants it")
	}
}

func pointsOf(verdicts []Verdict) []repo.Point {
	points := make([]repo.Point, len(verdicts))
	for i := range verdicts {
		points[i] = verdicts[i].Point
	}
	return points
}
