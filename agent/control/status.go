package control

import "time"

// Status is what an agent says of itself.
type Status struct {
	Version string      `json:"version,omitempty"`
	PID     int         `json:"pid,omitempty"`
	Started time.Time   `json:"started,omitzero"`
	Runs    []RunStatus `json:"runs"` // under way, sorted by VM
	VMs     []VMStatus  `json:"vms"`  // one for each VM of each group
	// Repairs is what earlier runs still owe, sorted by VM.
	Repairs []RepairStatus `json:"repairs,omitempty"`
	// Found is what the agent found at its start that should not be there, sorted by VM.
	Found []Finding `json:"found,omitempty"`
	// Upkeep is the maintenance of repositories, sorted by their names.
	Upkeep []UpkeepStatus `json:"upkeep,omitempty"`
	// Groups are those of which not all VMs are known, sorted by their names.
	Groups []GroupTrouble `json:"groups,omitempty"`
}

// GroupTrouble is why not all VMs of a group are known: a host did not answer when it was asked
// for them last.
type GroupTrouble struct {
	Group     string `json:"group"`
	LastError string `json:"last_error"`
}

// UpkeepStatus is how the maintenance of a repository goes, by this agent since it started:
// locks are renewed, and what nothing needs is pruned.
type UpkeepStatus struct {
	Repository string    `json:"repository"`
	LastStart  time.Time `json:"last_start,omitzero"`
	LastError  string    `json:"last_error,omitempty"` // empty when it ended well, or was left to another host
	Next       time.Time `json:"next,omitzero"`
}

// Finding is something that lull left beside or in a VM, as `lull doctor` shows it.
type Finding struct {
	VM   string `json:"vm"`   // host/name
	Kind string `json:"kind"` // snapshot.FindingKind
	Disk string `json:"disk,omitempty"`
	Path string `json:"path,omitempty"`
	Text string `json:"text"`
	Next string `json:"next,omitempty"` // what to do
}

// RunStatus is a run under way.
type RunStatus struct {
	VM    string    `json:"vm"` // host/name
	Run   string    `json:"run"`
	Group string    `json:"group,omitempty"`
	Step  string    `json:"step"`            // agent.Step
	Done  int64     `json:"done,omitempty"`  // bytes
	Total int64     `json:"total,omitempty"` // bytes
	Since time.Time `json:"since"`
	// Writers is how far they say their calls in this step are, sorted by name.
	Writers []WriterStatus `json:"writers,omitempty"`
}

// WriterStatus is how far a call of a writer is, by its own word and in its own units.
type WriterStatus struct {
	Writer string `json:"writer"`
	What   string `json:"what"`
	Done   int64  `json:"done,omitempty"`
	Total  int64  `json:"total,omitempty"` // 0: not known
}

// RepairStatus is a VM that an earlier run has left with a delta, or perhaps
// frozen, and that could not be repaired yet.
type RepairStatus struct {
	VM        string    `json:"vm"` // host/name
	Run       string    `json:"run"`
	Since     time.Time `json:"since"`                // when that run began
	Tries     int       `json:"tries"`                // of this agent, all in vain
	LastError string    `json:"last_error,omitempty"` // of the last try
	Next      time.Time `json:"next,omitzero"`        // when it is tried again, unless a run comes first
}

// VMStatus is how a VM's backups go in one of its groups.
type VMStatus struct {
	VM          string    `json:"vm"` // host/name
	Group       string    `json:"group"`
	LastStart   time.Time `json:"last_start,omitzero"`
	LastSuccess time.Time `json:"last_success,omitzero"`
	LastError   string    `json:"last_error,omitempty"` // of the last run; empty when it ended well
	LastPoint   string    `json:"last_point,omitempty"`
	LastLevel   string    `json:"last_level,omitempty"` // of the last point
	// LastWarned is how many warnings came with the last point, LastWarnings the
	// first of them.
	LastWarned   int      `json:"last_warned,omitempty"`
	LastWarnings []string `json:"last_warnings,omitempty"`
	// LastTracking says what was read for the last point, and why.
	LastTracking string    `json:"last_tracking,omitempty"`
	Next         time.Time `json:"next,omitzero"`
	Running      bool      `json:"running"`
}
