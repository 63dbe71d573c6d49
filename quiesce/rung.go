package quiesce

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// freezeAndTake tries a rung that needs writers. Whatever happens, on return the
// guest goes on and every writer that took no part to the end was aborted.
func (r *run) freezeAndTake(ctx context.Context, level Level, all []*member) ([]*member, error) {
	members, ok := r.prepare(ctx, level, all)
	if !ok {
		return nil, r.giveUp(ctx, all)
	}
	if err := r.arm(ctx); err != nil {
		r.reason(level, describe(err))
		return nil, r.giveUp(ctx, all)
	}
	w := r.open(members)
	freezeErr := r.freeze(ctx, w, members)
	if freezeErr == nil {
		r.step(StepFrozen)
		w.take(ctx, r, r.Take)
	}
	r.thaw(ctx, w, members)
	r.step(StepThawed)
	if freezeErr != nil {
		r.passing = class(freezeErr) == Retryable
		r.reason(level, describe(freezeErr))
		err := r.giveUp(ctx, all)
		if err == nil { // the next rung arms them anew: a timer runs from when it is armed
			r.disarm(ctx, nil)
		}
		return nil, err
	}
	if err := w.await(ctx, r); err != nil {
		return nil, errors.Join(err, r.giveUp(ctx, all))
	}
	r.taken = true
	return r.conclude(ctx, level, w, members, all)
}

// conclude settles the writers after a snapshot and finds the level that is true
// of it.
func (r *run) conclude(ctx context.Context, level Level, w *window, members, all []*member) ([]*member, error) {
	r.report.Window = w.closed.Sub(w.opened)
	for _, m := range members {
		m.failed = m.failed || !m.held
		if m.thawErr != nil {
			r.reason(level, describe(m.thawErr))
			m.blame(m.thawErr)
		}
	}
	rest, err := r.settle(ctx, all)
	if err != nil {
		return nil, errors.Join(err, r.giveUp(ctx, rest))
	}
	r.postSnapshot(ctx, level, rest)
	r.report.Level = r.truth(level, w, members)
	return rest, nil
}

// truth is the highest level that the snapshot has, whatever was tried.
func (r *run) truth(level Level, w *window, members []*member) Level {
	if w.overran() {
		r.reason(level, fmt.Sprintf("the freeze window took %v, its budget is %v", w.closed.Sub(w.opened).Round(time.Millisecond), w.budget))
		return LevelCrash
	}
	held := map[Level]int{}
	broken := map[Level]int{}
	for _, m := range members {
		if m.held {
			held[m.id.Level]++
		} else {
			broken[m.id.Level]++
		}
	}
	switch {
	case broken[LevelFilesystem] > 0:
		return LevelCrash
	case level == LevelApplication && held[LevelApplication] > 0 && broken[LevelApplication] == 0:
		return LevelApplication
	case held[LevelFilesystem] > 0:
		return LevelFilesystem
	}
	return LevelCrash
}

// takeUnfrozen is the lowest rung.
func (r *run) takeUnfrozen(ctx context.Context) error {
	w := r.open(nil)
	w.take(ctx, r, r.Take)
	if err := w.await(ctx, r); err != nil {
		return err
	}
	r.taken = true
	r.report.Level = LevelCrash
	return nil
}

// prepare runs Prepare for all. It returns those that take part, and whether the
// level is still in reach.
func (r *run) prepare(ctx context.Context, level Level, members []*member) ([]*member, bool) {
	ctx, cancel := context.WithTimeout(ctx, r.Limits.Prepare)
	defer cancel()
	errs := each(members, func(m *member) error {
		m.started = true
		return r.prepareOne(ctx, m)
	})
	var present []*member
	reached, top := true, 0
	passing := true
	for i, m := range members {
		switch err := errs[i]; {
		case err == nil:
			present = append(present, m)
			if m.id.Level == level {
				top++
			}
		case class(err) == NotPresent && m.application():
			m.absent, m.failed = true, true
		default:
			m.failed = true
			m.blame(err)
			r.reason(level, describe(err))
			reached = false
			passing = passing && class(err) == Retryable
		}
	}
	r.passing = !reached && passing
	if reached && top == 0 {
		r.reason(level, "no application of a writer is in this guest")
		reached = false
	}
	return present, reached
}

// prepareOne prepares a writer, and keeps what it speaks for.
func (r *run) prepareOne(ctx context.Context, m *member) error {
	m.components = named(m.id.Components)
	found, err := call(ctx, m, "prepare", func(ctx context.Context) ([]Component, error) {
		return m.w.Prepare(ctx, PrepareRequest{Request: r.request(), Disks: r.Disks})
	})
	if err == nil {
		err = m.failure(ctx, "prepare", CheckComponents(found, r.Disks))
	}
	if err == nil && len(found) > 0 {
		m.components = found
	}
	return err
}

// postSnapshot collects the documents. A writer that fails here has no part in
// the restore point.
func (r *run) postSnapshot(ctx context.Context, level Level, members []*member) {
	ctx, cancel := context.WithTimeout(ctx, r.Limits.PostSnapshot)
	defer cancel()
	errs := each(members, func(m *member) error {
		doc, err := call(ctx, m, "post-snapshot", func(ctx context.Context) ([]byte, error) {
			return m.w.PostSnapshot(ctx, r.request())
		})
		if err == nil && len(doc) > MaxDocument {
			err = m.failure(ctx, "post-snapshot", fmt.Errorf("document of %d bytes is larger than %d", len(doc), MaxDocument))
		}
		if err == nil {
			m.document = doc
		}
		return err
	})
	for i, m := range members {
		switch {
		case errs[i] == nil:
		case advisory(errs[i]):
			r.report.Warnings = append(r.report.Warnings, clip(describe(errs[i])))
		default:
			m.failed, m.held = true, false
			m.blame(errs[i])
			r.reason(level, describe(errs[i]))
		}
	}
}

func advisory(err error) bool {
	var f *Failure
	return errors.As(err, &f) && f.Advisory
}

// describe is an error with its hint.
func describe(err error) string {
	s := err.Error()
	var h interface{ Hint() string }
	if errors.As(err, &h) && h.Hint() != "" {
		s += " (" + h.Hint() + ")"
	}
	return s
}
