package quiesce

import (
	"context"
	"errors"
	"fmt"
)

// Guard thaws the guest when this process no longer can.
type Guard interface {
	// Arm comes before the first Freeze of a rung, once more after each Disarm. On
	// return without error the guard is in force; after an error the guest is not
	// frozen.
	Arm(ctx context.Context) error
	// Disarm ends what Arm began, once. thawed says that the guest is proven to
	// go on; else the guard sees to that at once.
	Disarm(ctx context.Context, thawed bool) error
}

// arm puts every guard in force that is not yet. With one that fails the guest may
// not be frozen: nobody would thaw it if this process died.
func (r *run) arm(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, r.Limits.Arm)
	defer cancel()
	for _, g := range r.Guards[r.armed:] {
		if err := g.Arm(ctx); err != nil {
			return fmt.Errorf("arm guard: %w", err)
		}
		r.armed++
	}
	return nil
}

// disarm ends the guards once the run is over with err, the last one first.
func (r *run) disarm(ctx context.Context, err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.Limits.Arm)
	defer cancel()
	thawed := !errors.Is(err, ErrStillFrozen)
	for r.armed > 0 {
		r.armed--
		if err := r.Guards[r.armed].Disarm(ctx, thawed); err != nil {
			r.Log.Warn("disarm guard", "vm", r.VM, "run", r.Run, "error", err)
		}
	}
}
