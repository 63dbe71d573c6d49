package quiesce

import (
	"context"
	"fmt"
	"log/slog"
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
