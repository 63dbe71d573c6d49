package quiesce

import (
	"context"
	"errors"
	"fmt"
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
	w.take(ctx, r, r.Saved.Take)
	err := w.await(ctx, r)
	w.closed = time.Now()
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
