package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/lull-backup/lull/snapshot"
)

// mergeLogged is how often the log tells of a merge that takes long.
const mergeLogged = time.Minute

// heard is what a merge tells of the run.
func (b *backup) heard(e Event) {
	if e.Step == StepWarning {
		b.warn(e.Message)
		return
	}
	b.emit(e)
}

// A merge may take as long as it gets somewhere: one that is given up leaves the VM on its
// delta until the next start, however near its end it was.
const (
	// mergePatience is how long a merge may get nowhere, and in how long it does what it tells
	// nothing of, such as to wipe a delta, at slowestMerge.
	mergePatience = time.Hour
	slowestMerge  = 8 << 20 // bytes a second
)

// errMergeStuck: a merge was given up. The next run, or the next start, goes on with it.
var errMergeStuck = errors.New("the merge gets nowhere")

// patience gives a merge up that gets nowhere: where what is left does not get a tenth less.
type patience struct {
	limit time.Duration
	timer *time.Timer
	left  int64 // bytes, when it was last seen to get on; negative: nothing is known yet
}

// impatient is ctx with an end to a merge that gets nowhere.
func impatient(ctx context.Context, host snapshot.Host, p snapshot.Plan) (context.Context, *patience, func()) {
	limit := mergePatience
	if r, ok := host.(snapshot.Reserver); ok {
		for _, size := range r.Deltas(p) {
			limit += time.Duration(size/slowestMerge) * time.Second
		}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	w := &patience{limit: limit, left: -1}
	w.timer = time.AfterFunc(limit, func() { cancel(fmt.Errorf("%w for %s", errMergeStuck, limit.Round(time.Minute))) })
	return ctx, w, func() {
		w.timer.Stop()
		cancel(nil)
	}
}

func (w *patience) heard(now snapshot.Merging) {
	if left := now.Total - now.Done; w.left < 0 || left < w.left-w.left/10 {
		w.left = left
		w.timer.Reset(w.limit)
	}
}

// mergeTelling merges, and tells how far that is.
func (r *Runner) mergeTelling(ctx context.Context, host snapshot.Host, p snapshot.Plan, emit func(Event)) error {
	ctx, watch, end := impatient(ctx, host, p)
	defer end()
	var err error
	if m, ok := host.(snapshot.Merger); ok {
		tell := r.telling(p, emit)
		err = m.MergeTelling(ctx, p, func(now snapshot.Merging) {
			watch.heard(now)
			tell(now)
		})
	} else {
		err = host.Merge(ctx, p)
	}
	if cause := context.Cause(ctx); err != nil && errors.Is(cause, errMergeStuck) && !errors.Is(err, errMergeStuck) {
		return fmt.Errorf("%w: %w", cause, err)
	}
	return err
}

// telling makes events, and lines of the log, of what a merge tells.
func (r *Runner) telling(p snapshot.Plan, emit func(Event)) func(snapshot.Merging) {
	begun := r.Now()
	told, logged := begun, begun
	return func(now snapshot.Merging) {
		at := r.Now()
		if now.Slowed != "" {
			emit(Event{Step: StepWarning, Message: now.Slowed})
		}
		if at.Sub(logged) >= mergeLogged {
			logged = at
			r.Log.Info("merging", "vm", p.VM, "run", p.Run, "done", humanize.IBytes(uint64(now.Done)),
				"total", humanize.IBytes(uint64(now.Total)), "took", at.Sub(begun).Round(time.Second))
		}
		if at.Sub(told) >= progressEvery && now.Total > 0 {
			told = at
			emit(Event{Step: StepMerging, Done: now.Done, Total: now.Total})
		}
	}
}
