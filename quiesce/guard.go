package quiesce

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Guard lets the guest go on when this process no longer can.
type Guard interface {
	// Arm comes before the first Freeze of a rung, or before the guest is stopped for
	// its memory to be saved, once more after each Disarm. On
	// return without error the guard is in force; after an error the guest is not
	// frozen.
	Arm(ctx context.Context) error
	// Disarm ends what Arm began, once. thawed says that the guest is proven to
	// go on; else the guard sees to that at once.
	Disarm(ctx context.Context, thawed bool) error
}

// inForce is a list of guards, of which the first so many are armed.
type inForce struct {
	guards []Guard
	armed  int
}

// arm puts every guard in force that is not yet. With one that fails the guest may
// not be held: nobody would let it go if this process died.
func (f *inForce) arm(ctx context.Context, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for _, g := range f.guards[f.armed:] {
		if err := g.Arm(ctx); err != nil {
			return fmt.Errorf("arm guard: %w", err)
		}
		f.armed++
	}
	return nil
}

// disarm ends the guards, the last one first.
func (f *inForce) disarm(ctx context.Context, r *run, goesOn bool) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.Limits.Arm)
	defer cancel()
	for f.armed > 0 {
		f.armed--
		if err := f.guards[f.armed].Disarm(ctx, goesOn); err != nil {
			r.Log.Warn("disarm guard", "vm", r.VM, "run", r.Run, "error", err)
		}
	}
}

// arm puts the guards of the rungs with writers in force.
func (r *run) arm(ctx context.Context) error { return r.armed.arm(ctx, r.Limits.Arm) }

// disarm ends them once the run is over with err.
func (r *run) disarm(ctx context.Context, err error) {
	r.armed.disarm(ctx, r, !errors.Is(err, ErrStillFrozen))
}
