package snapshot

import "context"

// Tracker is a Host that can tell what changed on a disk since an earlier snapshot.
// A record is what it keeps for that, one for each disk and snapshot: it says of every
// range of the disk that has changed since then that it may have.
type Tracker interface {
	Host

	// Track names in a plan the records that Take will begin, and those that say what
	// changed since the restore point before: since, by disk, as Changes.Record was
	// then. series tells the points that are made one upon the other from all other
	// points of the VM. It changes nothing. After Plan, before Prepare.
	Track(ctx context.Context, p Plan, series string, since map[string]string) (Plan, error)

	// Settle removes all records of the series that nobody needs any more, after Merge:
	// all but keep, by disk. It may be called any number of times; what it leaves, a
	// later run of the series removes.
	Settle(ctx context.Context, p Plan, keep map[string]string) error
}

// FrozenChanges is a Frozen of a Tracker.
type FrozenChanges interface {
	Frozen

	// Changes tells what changed on a disk. That it is not known, for whatever reason,
	// is no error.
	Changes(ctx context.Context, disk string) (Changes, error)
}

// Changes is what a Tracker knows of a frozen disk.
type Changes struct {
	// Record says what changes from this snapshot on; empty: nothing does.
	Record string
	// Since is what may have changed since the record that Track was given; nil: all
	// of the disk.
	Since *ChangeSet
	// Reason is why Since is nil, in a few words.
	Reason string
}

// TrackPlan names the records of one disk. Empty: its changes are not tracked.
type TrackPlan struct {
	Record string `json:"record,omitempty"` // begun by Take
	Since  string `json:"since,omitempty"`  // says what changed since the point before
	// Stem is what the names of all records of the disk in this series begin with.
	Stem string `json:"stem,omitempty"`
	// Grain is how much of the disk is told apart, in bytes.
	Grain int64 `json:"grain,omitempty"`
	// Persistent records are kept in the image, and outlive the hypervisor's process.
	Persistent bool `json:"persistent,omitempty"`
	// Map is a file for a moment, by which a record is read.
	Map string `json:"map,omitempty"`
	// Reason is why there is no Record, or no Since.
	Reason string `json:"reason,omitempty"`
}
