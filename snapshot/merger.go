package snapshot

import (
	"context"
	"time"
)

// Merger is a Host that says how far a merge is, and that can slow a guest down which
// writes faster than its delta is merged.
type Merger interface {
	Host

	// MergeTelling is Merge, and calls tell now and then, on its own goroutine.
	// tell does not block.
	MergeTelling(ctx context.Context, p Plan, tell func(Merging)) error
}

// Merging is how far a merge is.
type Merging struct {
	// Done of Total bytes are merged, of all disks. Total grows while the guest writes.
	Done, Total int64
	// Slowed says, once for each time, that the guest is slowed down.
	Slowed string
}

// Slowdown is when and how a merge may slow the guest's writes down: where what is still
// to be merged does not get a tenth less within After. Zero: never.
type Slowdown struct {
	After time.Duration `json:"after,omitempty"`
	// Rate is what a disk of the guest may write at first, in bytes a second. After each
	// further time in which it does not help it is halved. The merge ends it.
	Rate int64 `json:"rate,omitempty"`
}

// MinRate bounds a Slowdown, in bytes a second: a guest that gets less looks dead.
const MinRate = 64 << 10

// Limits are what a hypervisor lets a disk do, in its own words, at the time of the
// plan: a merge that slowed the guest down sets them again.
type Limits struct {
	Group  string           `json:"group,omitempty"`  // of disks that share them
	Values map[string]int64 `json:"values,omitempty"` // those that are not zero
}
