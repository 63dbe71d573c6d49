package snapshottest

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/lull-backup/lull/snapshot"
)

var (
	_ snapshot.Saver       = (*fakeHost)(nil)
	_ snapshot.FrozenState = (*fakeFrozen)(nil)
)

func (h *fakeHost) CanSave(ctx context.Context, p snapshot.Plan) error {
	return h.fake.lock(ctx, p.VM, "CanSave", func(v *fakeVM) error { return v.savable(p) })
}

// savable says why the VM's memory cannot be saved.
func (v *fakeVM) savable(p snapshot.Plan) error {
	if err := v.gone(p); err != nil {
		return fmt.Errorf("save: %w", err)
	}
	if v.Memory == nil || v.State != snapshot.StateRunning {
		return fmt.Errorf("save: VM %s is %s and has %d bytes of memory: %w", v.Name, v.State, len(v.Memory), snapshot.ErrUnsupported)
	}
	return nil
}

// TakeSaved takes disks and memory at one instant: a Fake's guest never stands still.
func (h *fakeHost) TakeSaved(ctx context.Context, p snapshot.Plan, reached func(snapshot.Moment)) (snapshot.Saving, error) {
	err := h.fake.lock(ctx, p.VM, "TakeSaved", func(v *fakeVM) error {
		if err := v.savable(p); err != nil {
			return fmt.Errorf("%w: %w", snapshot.ErrNotTaken, err)
		}
		if err := v.take(p); err != nil {
			return err
		}
		reached(snapshot.MomentFrozen)
		reached(snapshot.MomentGoesOn)
		v.saved = bytes.Clone(v.Memory)
		return nil
	})
	return snapshot.Saving{Background: err == nil}, err
}

func (h *fakeHost) Resume(ctx context.Context, p snapshot.Plan) error {
	return h.fake.lock(ctx, p.VM, "Resume", func(*fakeVM) error { return nil })
}

var errNoState = errors.New("the VM's memory was not saved")

func (f *fakeFrozen) SavedState(ctx context.Context) (snapshot.Source, error) {
	var s fakeState
	err := f.use(ctx, "SavedState", func(v *fakeVM) error {
		if s = v.saved; s == nil {
			return errNoState
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return s, nil
}

// fakeState is a saved state that is open.
type fakeState []byte

func (s fakeState) Size() int64  { return int64(len(s)) }
func (s fakeState) Close() error { return nil }

func (s fakeState) Extents(_ context.Context, off, length int64) ([]snapshot.Extent, error) {
	return extents(s[off:off+length], off), nil
}

func (s fakeState) ReadAt(ctx context.Context, p []byte, off int64) error {
	if off < 0 || off > s.Size() || int64(len(p)) > s.Size()-off {
		return fmt.Errorf("read %d bytes at %d of a state of %d", len(p), off, len(s))
	}
	copy(p, s[off:])
	return ctx.Err()
}
