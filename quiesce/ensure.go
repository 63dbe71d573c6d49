package quiesce

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
)

// EnsureThawed thaws the file systems of a guest that an earlier process may have
// frozen, until the guest says itself that none is. It gives up with
// ErrStillFrozen when ctx ends or after the default of Limits.Follow.
func EnsureThawed(ctx context.Context, guest Thawer, log *slog.Logger) error {
	r := &run{Job: Job{Guest: guest, Log: log, Limits: Limits{}.withDefaults()}}
	if frozen, err := r.guestFrozen(ctx); err == nil && !frozen {
		return nil
	}
	if err := r.thawGuest(ctx); err != nil {
		return fmt.Errorf("%w: %w", ErrStillFrozen, err)
	}
	return nil
}

// AbortAll has writers undo what those of an earlier process may have left frozen, all
// at once. They may have nothing to undo: the contract has it that Abort is called any
// number of times, without a Freeze before. It gives up on who has not answered after the
// default of Limits.Abort, whatever such a writer does meanwhile.
func AbortAll(ctx context.Context, r Request, writers []Writer, log *slog.Logger) error {
	limit := Limits{}.withDefaults().Abort
	errs := make([]error, len(writers))
	var all sync.WaitGroup
	for i, w := range writers {
		all.Go(func() {
			_, errs[i] = askWithin(ctx, log, limit, func(ctx context.Context) (struct{}, error) { return struct{}{}, w.Abort(ctx, r) })
		})
	}
	all.Wait()
	return errors.Join(errs...)
}
