package agent

import (
	"context"
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

// mergeTelling merges, and tells how far that is.
func (r *Runner) mergeTelling(ctx context.Context, host snapshot.Host, p snapshot.Plan, emit func(Event)) error {
	m, ok := host.(snapshot.Merger)
	if !ok {
		return host.Merge(ctx, p)
	}
	begun := r.Now()
	told, logged := begun, begun
	return m.MergeTelling(ctx, p, func(now snapshot.Merging) {
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
	})
}
