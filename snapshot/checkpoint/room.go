package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/space"
)

// roomTick is how often WhileRoomy looks.
const roomTick = time.Second

// Tight is a file system of the VM's images in which there is too little room for a backup to
// begin; empty: there is none.
func (t *Tree) Tight(l space.Limits) string {
	for _, d := range t.Disks {
		if r, err := l.At(filepath.Dir(d.Path)); err == nil && r.Free < r.Soft {
			return fmt.Sprintf("%s are free in %s", space.Bytes(r.Free), r.Dir)
		}
	}
	return ""
}

// Roomy fails where there is less room beside the VM's images than has to stay free, as while
// they are merged.
func (t *Tree) Roomy(l space.Limits) error {
	for _, d := range t.Disks {
		r, err := l.At(filepath.Dir(d.Path))
		if err != nil {
			return fmt.Errorf("look for room: %w", err)
		}
		if r.Free < r.Hard {
			return Crowded(r, "others write there, too")
		}
	}
	return nil
}

// RoomFor fails where the file systems of the VM's images do not have room for what each disk
// takes of them until all are done. due is what others may still take of a file system.
func (t *Tree) RoomFor(l space.Limits, due func(device uint64) int64, takes []int64) error {
	together := map[uint64]int64{}
	for i, d := range t.Disks {
		r, err := l.At(filepath.Dir(d.Path))
		if err != nil {
			return fmt.Errorf("look for room: %w", err)
		}
		together[r.Device] += takes[i]
		if r.Free < r.Hard+together[r.Device]+due(r.Device) {
			return Crowded(r, "merging takes up to "+space.Bytes(together[r.Device])+" until it is done")
		}
	}
	return nil
}

// WhileRoomy does work, and ends it where it leaves too little room.
func (t *Tree) WhileRoomy(ctx context.Context, l space.Limits, work func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	done := make(chan error, 1)
	go func() { done <- work(ctx) }()
	tick := time.NewTicker(roomTick)
	defer tick.Stop()
	for {
		select {
		case err := <-done:
			if cause := context.Cause(ctx); err != nil && errors.Is(cause, snapshot.ErrNoSpace) {
				err = errors.Join(cause, err)
			}
			return err
		case <-tick.C:
			if err := t.Roomy(l); err != nil {
				cancel(err)
			}
		}
	}
}

// Crowded is the error for images that cannot be merged for want of room.
func Crowded(r space.Room, why string) error {
	return snapshot.WithHint(fmt.Errorf("%s: %s are free, %s stay free, and %s: %w", r.Dir, space.Bytes(r.Free), space.Bytes(r.Hard), why, snapshot.ErrNoSpace),
		"make room there, or delete a checkpoint that nothing was made upon: its images go at once")
}
