package snapshot

import "context"

// Comparer is a Host that holds what it sees of a VM against what is on record: the
// hypervisor's chain, the files beside the disks, and the journal.
type Comparer interface {
	Host

	// Compare looks at a VM. owned is the plan of the run that the journal has of it, under
	// way or cut off; nil: none. It changes nothing, and tells what it would not expect:
	// nothing of a VM between two runs. A VM that cannot be reached is looked at as far as
	// the plan leads.
	Compare(ctx context.Context, vm string, owned *Plan) ([]Finding, error)
}

// FindingKind says what a Finding is. The words are stable.
type FindingKind string

const (
	// FindingOwed: a run was cut off, and the next one, or the agent, merges its delta.
	FindingOwed FindingKind = "owed"
	// FindingHalf: the commit of a delta was cut off, and the image alone is half of what
	// it was and half of what it will be. Nobody may start the VM from it. The delta over it
	// still says everything.
	FindingHalf FindingKind = "half-merged"
	// FindingRefused: what a run left cannot be merged without an administrator.
	FindingRefused FindingKind = "refused"
	// FindingOrphan: a delta that no run on record owns.
	FindingOrphan FindingKind = "orphan"
	// FindingStray: something of lull that no run on record owns, and that holds no data.
	FindingStray FindingKind = "stray"
	// FindingMoved: the VM was migrated away under its delta.
	FindingMoved FindingKind = "moved"
	// FindingAdded and FindingRemoved: disks of the VM that the plan does not have, or that
	// the VM does not have any more.
	FindingAdded   FindingKind = "added"
	FindingRemoved FindingKind = "removed"
)

// Finding is one thing that does not fit.
type Finding struct {
	Kind FindingKind `json:"kind"`
	Disk string      `json:"disk,omitempty"`
	Path string      `json:"path,omitempty"`
	Run  string      `json:"run,omitempty"` // that it is of
	Text string      `json:"text"`          // what it is, in words
	// Next is what an administrator does, with the commands; empty: nothing is to be done.
	Next string `json:"next,omitempty"`
	// Adopt is the plan by which Merge puts it right, although no journal has it; nil: it
	// does not.
	Adopt *Plan `json:"-"`
}

// Blocks tells whether nothing may be backed up before the finding is dealt with.
func (f Finding) Blocks() bool {
	switch f.Kind {
	case FindingStray, FindingAdded, FindingRemoved:
		return false
	}
	return true
}
