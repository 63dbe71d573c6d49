package qemu

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/space"
)

var _ snapshot.Reserver = (*Host)(nil)

// Reserve enters the run into the ledger.
func (h *Host) Reserve(ctx context.Context, p snapshot.Plan, want snapshot.Want, waiting func(string)) (bool, error) {
	look := func() ([]space.Demand, error) { return h.opt.Space.Demands(p, want) }
	waited, err := h.opt.Ledger.Begin(ctx, runName(p.VM, p.Run), look, waiting)
	if err != nil {
		return waited, fmt.Errorf("reserve room for %s: %w", p.VM, err)
	}
	return waited, nil
}

// Release is the end of the run in the ledger. Merge has taken it out of there, if the
// deltas are merged.
func (h *Host) Release(p snapshot.Plan) { h.opt.Ledger.End(runName(p.VM, p.Run)) }

// Deltas looks at the files.
func (h *Host) Deltas(p snapshot.Plan) map[string]int64 {
	takes := map[string]int64{}
	for _, d := range p.Disks {
		if n := space.FileTakes(d.Delta); n > 0 {
			takes[d.Name] = n
		}
	}
	return takes
}

// enough lets a run begin only where it will not have to end at once.
func (h *Host) enough(p snapshot.Plan) error {
	demands, err := h.opt.Space.Demands(p, snapshot.Want{})
	if err != nil {
		return err
	}
	return h.opt.Ledger.Fits(runName(p.VM, p.Run), demands)
}

// roomForState makes sure that the state could be as large as it may, and a run could
// still begin beside it.
func (h *Host) roomForState(p snapshot.Plan) error {
	r, err := h.opt.Space.At(filepath.Dir(p.Saved.Path))
	if err != nil {
		return fmt.Errorf("look for room: %w", err)
	}
	need := p.Saved.Limit + r.Soft + h.opt.Ledger.Due(runName(p.VM, p.Run), r.Device)
	if r.Free >= need {
		return nil
	}
	return noRoomForState(r, need)
}

func noRoomForState(r space.Room, need int64) error {
	return snapshot.WithHint(fmt.Errorf("%s: up to %s are needed, and %s are free: %w", r.Dir,
		space.Bytes(need), space.Bytes(r.Free), snapshot.ErrNoSpace),
		"make room there")
}

// claimState sets the room of the state aside, if it is there: where saving is not the first
// thing that a run tries, Reserve did not. giveBack is for a state that there is not.
func (h *Host) claimState(p snapshot.Plan) (giveBack func(), err error) {
	r, err := h.opt.Space.At(filepath.Dir(p.Saved.Path))
	if err != nil {
		return nil, fmt.Errorf("look for room: %w", err)
	}
	giveBack, need := h.opt.Ledger.Claim(runName(p.VM, p.Run), r, p.Saved.Limit)
	if giveBack == nil {
		return nil, noRoomForState(r, need)
	}
	return giveBack, nil
}
