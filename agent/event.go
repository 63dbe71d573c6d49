package agent

import (
	"time"

	"github.com/lull-backup/lull/transport/repo"
)

// Step names a moment of a run. The names are stable: they appear in --json
// output, in logs and in the crash tests, which kill the agent at each of them.
type Step string

const (
	StepStarted    Step = "started"    // the VM is locked, nothing has happened yet
	StepWaiting    Step = "waiting"    // for the room that other runs take; Message says which
	StepPlanned    Step = "planned"    // the plan is made
	StepJournaled  Step = "journaled"  // the plan is durable
	StepPrepared   Step = "prepared"   // deltas are open
	StepFreezing   Step = "freezing"   // the first writer is about to freeze
	StepFrozen     Step = "frozen"     // everything holds still
	StepTaken      Step = "taken"      // the disks are frozen
	StepThawed     Step = "thawed"     // the guest goes on
	StepRetrying   Step = "retrying"   // it did not hold still; the level is tried again later
	StepWriter     Step = "writer"     // a writer tells how far its call is, beside any other step; repeated
	StepReading    Step = "reading"    // progress; repeated
	StepRead       Step = "read"       // every byte is in the session
	StepMerging    Step = "merging"    // readers are closed
	StepMerged     Step = "merged"     // the chain is as before
	StepCommitted  Step = "committed"  // the restore point is durable
	StepForgotten  Step = "forgotten"  // the journal entry is gone
	StepDone       Step = "done"       // the run ended well; Result is set
	StepFailed     Step = "failed"     // the run ended with Error
	StepRecovering Step = "recovering" // an earlier run's leftovers are being repaired
	StepRecovered  Step = "recovered"
	StepWriting    Step = "writing" // progress of a restore; repeated
	StepWarning    Step = "warning" // Message says what
)

// Event is one line of a run's story, and one JSON line of --json.
type Event struct {
	Time    time.Time `json:"time"`
	Run     string    `json:"run,omitempty"`
	VM      string    `json:"vm,omitempty"`    // host/name
	Group   string    `json:"group,omitempty"` // of what is no single VM's
	Step    Step      `json:"step"`
	Writer  string    `json:"writer,omitempty"`  // with StepWriter
	Message string    `json:"message,omitempty"` // plain words
	Done    int64     `json:"done,omitempty"`    // bytes, with progress; of a writer in whatever Message says
	Total   int64     `json:"total,omitempty"`   // bytes, with progress; likewise
	Error   string    `json:"error,omitempty"`
	Result  *Result   `json:"result,omitempty"`
}

// Observer hears every event of a run, in order, on the run's goroutine or on
// one of its readers; it is safe for concurrent use and does not block.
type Observer func(Event)

// Result is how a backup ended.
type Result struct {
	Run      string        `json:"run"`
	VM       string        `json:"vm"`
	Point    repo.Point    `json:"point"`
	Warnings []string      `json:"warnings,omitempty"` // below the asked level, a disk left out
	Started  time.Time     `json:"started"`
	Took     time.Duration `json:"took"`
	// Memory is how the guest's memory was saved; empty where it was not.
	Memory string `json:"memory,omitempty"`
	// Requests to the store, from the session's first to its last.
	Requests int64 `json:"requests"`
}
