package snapshot

import (
	"context"
	"time"
)

// Reserver is a Host that keeps account of the room that deltas take, so that the runs of
// several VMs on one file system fit beside each other.
type Reserver interface {
	Host

	// Reserve sets the room aside that a run is expected to take. After Plan, before
	// Prepare. Where it is lacking and other runs of this process have it, Reserve tells
	// waiting once why, and waits for their end. waited: the VM may have changed since the
	// plan was made; plan again, and reserve again. ErrNoSpace: it does not fit, and
	// nothing was set aside. It changes nothing outside this process.
	Reserve(ctx context.Context, p Plan, want Want, waiting func(why string)) (waited bool, err error)

	// Release gives back what of it the run has not taken, at its end, after Merge. It
	// may be called without Reserve.
	Release(p Plan)

	// Deltas tells what the deltas of a plan take now, in bytes by disk.
	Deltas(p Plan) map[string]int64

	// Written tells how many bytes the guest has written to each disk of a plan since the
	// hypervisor started it, and how long that is.
	Written(ctx context.Context, p Plan) (bytes map[string]int64, over time.Duration, err error)
}

// Want is what a run is expected to take.
type Want struct {
	Deltas map[string]int64 // bytes by disk; a disk that is not there: not known
	State  bool             // the VM's memory is to be saved, too
}
