package quiesce

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
)

// run is one Do.
type run struct {
	Job
	members []*member
	unknown []stranger
	report  Report
	taken   bool
	armed   inForce // the Guards
	passing bool    // why the rung failed may pass
	// following, where not nil, gets the end of a thaw of the guest that runs
	// beside the writers'.
	following <-chan error
	told      <-chan struct{} // the caller has heard of the last step; nil: there was none
	relay     *relay          // of what writers tell
}

// Do makes the guest hold still as well as the policy allows and calls Take at
// that moment. When it returns, the guest goes on.
//
// On an error nothing is owed to the writers, and no restore point may be made;
// a snapshot may have been taken all the same, so the caller merges. Errors:
// ErrBelowFloor; ErrStillFrozen; that of Take; that of ctx.
func Do(ctx context.Context, job Job) (held *Held, err error) {
	if err := job.check(); err != nil {
		return nil, err
	}
	job.Limits = job.Limits.withDefaults()
	if job.Log == nil {
		job.Log = slog.New(slog.DiscardHandler)
	}
	r := &run{Job: job, armed: inForce{guards: job.Guards}, report: Report{Asked: job.Policy.Ladder[0]}, relay: newRelay(job.Progress)}
	defer r.relay.close()
	defer r.heard()
	defer func() { r.disarm(ctx, err) }()
	r.identify(ctx, r.everyone())
	for _, level := range job.Policy.Ladder {
		if level < job.Policy.Floor {
			break
		}
		members, err := r.attempts(ctx, level)
		if err != nil {
			return nil, err
		}
		if r.taken {
			return r.hold(ctx, members)
		}
	}
	return nil, r.belowFloor()
}

// rung tries one level. It returns the writers that took part once the snapshot
// is taken; none and no error when the level is out of reach. An error ends the
// walk.
func (r *run) rung(ctx context.Context, level Level) ([]*member, error) {
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	switch level {
	case LevelCrash:
		return nil, r.takeUnfrozen(ctx)
	case LevelSavedState:
		return nil, r.takeSaved(ctx)
	}
	members := r.choose(level)
	if len(members) == 0 {
		return nil, nil
	}
	return r.freezeAndTake(ctx, level, members)
}

// hold turns a taken snapshot into what the caller gets.
func (r *run) hold(ctx context.Context, members []*member) (*Held, error) {
	for _, m := range members {
		// What a writer did counts only at the level that is reported.
		if m.id.Level > r.report.Level {
			m.failed = true
		}
	}
	rest, err := r.settle(ctx, members)
	held := &Held{job: r.Job, members: rest, report: r.report}
	for _, m := range rest {
		held.report.Writers = append(held.report.Writers, WriterReport{Identity: m.id, Document: m.document})
	}
	held.report.Components = r.outcomes(rest)
	if err == nil {
		err = context.Cause(ctx)
	}
	if err == nil && r.report.Level < r.Policy.Floor {
		err = r.belowFloor()
	}
	if err != nil {
		return nil, errors.Join(err, held.Abort(context.WithoutCancel(ctx)))
	}
	return held, nil
}

// stranger is a writer that has not said who it is.
type stranger struct {
	*member
	err error // why; nil: it was not asked yet
}

// everyone are strangers at first. Until they have a name they have their place.
func (r *run) everyone() []stranger {
	var all []stranger
	for i, w := range r.Writers {
		all = append(all, stranger{member: &member{w: w, id: Identity{Name: fmt.Sprint(i + 1)}, relay: r.relay}})
	}
	return all
}

// identify asks writers who they are. Those that fail take no part.
func (r *run) identify(ctx context.Context, strangers []stranger) {
	ctx, cancel := context.WithTimeout(ctx, r.Limits.Identify)
	defer cancel()
	var wg sync.WaitGroup
	for i := range strangers {
		s := &strangers[i]
		s.log = r.Log
		wg.Go(func() {
			id, err := call(ctx, s.member, "identify", s.w.Identify)
			if err == nil {
				err = s.failure(ctx, "identify", id.Check())
			}
			if s.err = err; err == nil {
				s.id, s.log = id, r.Log.With("writer", id.Name)
			}
		})
	}
	wg.Wait()
	r.admit(strangers)
}

func (r *run) admit(strangers []stranger) {
	r.unknown = nil
	for _, s := range strangers {
		taken := slices.ContainsFunc(r.members, func(m *member) bool { return m.id.Name == s.id.Name })
		switch {
		case s.err != nil && class(s.err) == NotPresent:
		case s.err == nil && taken:
			s.err = fmt.Errorf("two writers are named %s", s.id.Name)
			r.unknown = append(r.unknown, s)
		case s.err != nil:
			r.unknown = append(r.unknown, s)
		default:
			r.members = append(r.members, s.member)
		}
	}
}

// strange is why there are strangers. For a rung that fails for their sake: where all of them
// may say later who they are, it may pass.
func (r *run) strange() []string {
	var why []string
	passing := len(r.unknown) > 0
	for _, s := range r.unknown {
		why = append(why, describe(s.err))
		passing = passing && class(s.err) == Retryable
	}
	r.passing = passing
	return why
}

// choose returns the writers of a rung; none, and a reason, when the level
// cannot be reached with those there are.
func (r *run) choose(level Level) []*member {
	if level == LevelApplication && len(r.unknown) > 0 {
		r.reason(level, strings.Join(r.strange(), "; "))
		return nil
	}
	var chosen []*member
	top := 0
	for _, m := range r.members {
		if m.absent && m.application() || m.id.Level > level {
			continue
		}
		m.attempt = attempt{asked: true}
		chosen = append(chosen, m)
		if m.id.Level == level {
			top++
		}
	}
	if top > 0 {
		return chosen
	}
	if r.NoGuest != nil {
		r.reason(level, describe(r.NoGuest))
		return nil
	}
	r.reason(level, strings.Join(append([]string{"no writer for it is in this guest"}, r.strange()...), "; "))
	return nil
}

func (r *run) reason(level Level, why string) {
	r.Log.Info("consistency level not reached", "level", level.String(), "reason", clip(why))
	r.report.Reasons = append(r.report.Reasons, level.String()+": "+clip(why))
}

func (r *run) belowFloor() error {
	return fmt.Errorf("%w of %v: %s", ErrBelowFloor, r.Policy.Floor, strings.Join(r.report.Reasons, "; "))
}
