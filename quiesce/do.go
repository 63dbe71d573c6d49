package quiesce

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
)

// run is one Do.
type run struct {
	Job
	members []*member
	unknown []string // writers that could not say who they are, and why
	report  Report
	taken   bool
	armed   inForce // the Guards
	passing bool    // why the rung failed may pass
	// following, where not nil, gets the end of a thaw of the guest that runs
	// beside the writers'.
	following <-chan error
	told      <-chan struct{} // the caller has heard of the last step; nil: there was none
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
	r := &run{Job: job, armed: inForce{guards: job.Guards}, report: Report{Asked: job.Policy.Ladder[0]}}
	defer r.heard()
	defer func() { r.disarm(ctx, err) }()
	r.identify(ctx)
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

// identify asks every writer who it is. Those that fail take no part.
func (r *run) identify(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, r.Limits.Identify)
	defer cancel()
	members := make([]*member, len(r.Writers))
	errs := make([]error, len(r.Writers))
	var wg sync.WaitGroup
	for i, w := range r.Writers {
		m := &member{w: w, id: Identity{Name: fmt.Sprint(i + 1)}, log: r.Log}
		members[i] = m
		wg.Go(func() {
			id, err := call(ctx, m, "identify", w.Identify)
			if err == nil {
				err = m.failure(ctx, "identify", id.Check())
			}
			if errs[i] = err; err == nil {
				m.id, m.log = id, r.Log.With("writer", id.Name)
			}
		})
	}
	wg.Wait()
	r.admit(members, errs)
}

func (r *run) admit(members []*member, errs []error) {
	names := map[string]bool{}
	for i, m := range members {
		switch {
		case errs[i] != nil && class(errs[i]) == NotPresent:
		case errs[i] != nil:
			r.unknown = append(r.unknown, errs[i].Error())
		case names[m.id.Name]:
			r.unknown = append(r.unknown, fmt.Sprintf("two writers are named %s", m.id.Name))
		default:
			names[m.id.Name] = true
			r.members = append(r.members, m)
		}
	}
}

// choose returns the writers of a rung; none, and a reason, when the level
// cannot be reached with those there are.
func (r *run) choose(level Level) []*member {
	if level == LevelApplication && len(r.unknown) > 0 {
		r.reason(level, strings.Join(r.unknown, "; "))
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
	r.reason(level, strings.Join(append([]string{"no writer for it is in this guest"}, r.unknown...), "; "))
	return nil
}

func (r *run) reason(level Level, why string) {
	r.Log.Info("consistency level not reached", "level", level.String(), "reason", clip(why))
	r.report.Reasons = append(r.report.Reasons, level.String()+": "+clip(why))
}

func (r *run) belowFloor() error {
	return fmt.Errorf("%w of %v: %s", ErrBelowFloor, r.Policy.Floor, strings.Join(r.report.Reasons, "; "))
}
