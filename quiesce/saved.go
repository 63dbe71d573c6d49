package quiesce

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/lull-backup/lull/snapshot"
)

var errCannotSave = errors.New("this host does not save the memory of a guest")

// takeSaved tries the rung that needs nothing of the guest: it stands still while
// its memory is saved with its disks.
func (r *run) takeSaved(ctx context.Context) error {
	if err := r.canSave(ctx); err != nil {
		r.reason(LevelSavedState, describe(err))
		return context.Cause(ctx)
	}
	in := inForce{guards: r.Saved.Guards}
	if err := in.arm(ctx, r.Limits.Arm); err != nil {
		r.reason(LevelSavedState, describe(err))
		in.disarm(ctx, r, true)
		return context.Cause(ctx)
	}
	w := r.open(nil)
	err := w.save(ctx, r)
	notSaved, notTaken := errors.Is(err, snapshot.ErrNotSaved), errors.Is(err, snapshot.ErrNotTaken)
	in.disarm(ctx, r, err == nil || notSaved || notTaken) // else nobody knows that the guest goes on
	switch {
	case notTaken:
		r.reason(LevelSavedState, describe(err))
		return context.Cause(ctx)
	case err != nil && !notSaved:
		return err
	}
	r.taken = true
	r.report.Window = w.closed.Sub(w.opened)
	r.report.Level = LevelSavedState
	if err != nil {
		r.reason(LevelSavedState, describe(err))
		r.report.Level = LevelCrash
	}
	return nil
}

var errWindowOver = fmt.Errorf("the guest has stood still for as long as it may: %w", context.DeadlineExceeded)

// save calls Saved.Take. The window's end is the deadline of it only until the guest
// goes on: nothing waits for what is written then.
func (w *window) save(ctx context.Context, r *run) error {
	ctx, cancel := context.WithCancelCause(ctx)
	w.stop = func() { cancel(nil) }
	goesOn := make(chan time.Time, 1) // since when; a Take that nobody waits for any more may say it
	w.taking, _ = ask(ctx, r.Log, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, r.Saved.Take(ctx, sync.OnceFunc(func() { goesOn <- time.Now() }))
	})
	limit := time.NewTimer(time.Until(w.freezeBy))
	defer limit.Stop()
	select {
	case a := <-w.taking:
		w.answered(r, a)
	case w.closed = <-goesOn:
		w.finish(ctx, r)
	case <-limit.C:
		cancel(errWindowOver)
	case <-ctx.Done():
	}
	err := w.await(ctx, r)
	if w.closed.IsZero() {
		select {
		case w.closed = <-goesOn:
		default:
			w.closed = time.Now()
		}
	}
	if errors.Is(err, context.Canceled) && ctx.Err() != nil {
		err = fmt.Errorf("%w: %w", context.Cause(ctx), err) // why it was cancelled, not only that it was
	}
	return err
}

// finish waits for a Take whose guest goes on already.
func (w *window) finish(ctx context.Context, r *run) {
	select {
	case a := <-w.taking:
		w.answered(r, a)
	case <-ctx.Done():
	}
}

func (r *run) canSave(ctx context.Context) error {
	if r.Saved == nil {
		return errCannotSave
	}
	_, err := askWithin(ctx, r.Log, r.Limits.CheckSaved, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, r.Saved.Check(ctx)
	})
	if err != nil && (ctx.Err() != nil || errors.Is(err, context.DeadlineExceeded)) {
		return fmt.Errorf("no answer whether the memory can be saved: %w", err)
	}
	return err
}
