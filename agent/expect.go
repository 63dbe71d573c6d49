package agent

import (
	"cmp"
	"slices"
	"time"

	"github.com/lull-backup/lull/agent/journal"
	"github.com/lull-backup/lull/snapshot"
)

const (
	// nightsKept is how many runs an expectation is made of.
	nightsKept = 5
	// assumedRate is how fast a VM is read that was never read before, in bytes a second.
	assumedRate = 64 << 20
	// settledAfter is how long a VM runs until what it writes tells something: while it
	// starts it writes more.
	settledAfter = 10 * time.Minute
)

// writes is what a guest has written to its disks since it was started.
type writes struct {
	bytes map[string]int64 // by disk
	over  time.Duration
}

// expect estimates what the delta of each disk comes to take: as much as in the nights
// before, or as the guest writes on the average in the time that a run takes, if that is
// more; never more than the disk. An expectation by which runs were refused counts half
// for each: it may have been a bad night, and no other would ever be seen.
func expect(disks []snapshot.DiskPlan, past journal.Room, w writes) map[string]int64 {
	var total int64
	for _, d := range disks {
		total += d.Size
	}
	var took []time.Duration
	for _, n := range past.Nights {
		took = append(took, n.Took)
	}
	lasts := usual(took)
	if len(took) == 0 {
		lasts = time.Duration(float64(total) / assumedRate * float64(time.Second))
	}
	out := map[string]int64{}
	for _, d := range disks {
		var grew []int64
		for _, n := range past.Nights {
			grew = append(grew, n.Deltas[d.Name])
		}
		bytes := usual(grew)
		if w.over >= settledAfter {
			bytes = max(bytes, int64(float64(w.bytes[d.Name])*float64(lasts)/float64(w.over)))
		}
		bytes = min(bytes, d.Size) >> min(past.Refused, 62)
		if bytes > 0 {
			out[d.Name] = bytes
		}
	}
	return out
}

// usual is the largest of a few values, and the second largest of more: one that stands
// out alone does not count.
func usual[T cmp.Ordered](values []T) T {
	var none T
	values = slices.Sorted(slices.Values(values))
	switch n := len(values); {
	case n == 0:
		return none
	case n < 3:
		return values[n-1]
	default:
		return values[n-2]
	}
}
