package agent

import (
	"context"
	"errors"
	"maps"

	"github.com/lull-backup/lull/agent/journal"
	"github.com/lull-backup/lull/quiesce"
	"github.com/lull-backup/lull/snapshot"
)

// room is what a run knows of the room that it takes.
type room struct {
	known   bool // past was read
	past    journal.Room
	refused bool             // the run does not fit
	deltas  map[string]int64 // what they came to take; nil: there were none
}

// makePlan makes the plan of the run once there is room for its deltas. What a host keeps
// no account of has room.
func (b *backup) makePlan(ctx context.Context) (err error) {
	for {
		if b.plan, err = b.job.Host.Plan(ctx, b.job.VM, b.run); err != nil {
			return err // a host's errors say what it did to which VM
		}
		waited, err := b.reserve(ctx)
		if err != nil || !waited {
			return err
		}
	}
}

// reserve has the host set the room aside that the run is expected to take.
func (b *backup) reserve(ctx context.Context) (waited bool, err error) {
	host, ok := b.job.Host.(snapshot.Reserver)
	if !ok {
		return false, nil
	}
	last, err := b.Journal.Last(b.job.Name)
	if err != nil && !errors.Is(err, journal.ErrDamaged) {
		return false, err
	}
	b.room.known = true
	if last.Room != nil {
		b.room.past = *last.Room
	}
	var w writes
	if w.bytes, w.over, err = host.Written(ctx, b.plan); err != nil {
		return false, err
	}
	want := snapshot.Want{
		Deltas: expect(b.plan.Disks, b.room.past, w),
		State:  b.job.Policy.Ladder[0] == quiesce.LevelSavedState,
	}
	waited, err = host.Reserve(ctx, b.plan, want, func(why string) { b.step(StepWaiting, why) })
	b.room.refused = errors.Is(err, snapshot.ErrNoSpace)
	return waited, err
}

// release gives back what the run did not take.
func (b *backup) release() {
	if host, ok := b.job.Host.(snapshot.Reserver); ok && b.plan.Run != "" {
		host.Release(b.plan)
	}
}

// measure looks at the deltas before they are merged.
func (b *backup) measure() {
	if host, ok := b.job.Host.(snapshot.Reserver); ok && !b.instant.IsZero() {
		b.room.deltas = host.Deltas(b.plan)
	}
}

// account is what the next runs are to know of the room that this one took; nil: nothing
// new.
func (b *backup) account() *journal.Room {
	past := b.room.past
	switch {
	case !b.room.known:
		return nil
	case b.room.refused:
		past.Refused++
	case b.room.deltas == nil:
		return nil
	default:
		night := journal.Night{Took: b.Now().Sub(b.instant), Deltas: maps.Clone(b.room.deltas)}
		nights := append(append([]journal.Night(nil), past.Nights...), night)
		past = journal.Room{Nights: nights[max(0, len(nights)-nightsKept):]}
	}
	return &past
}
