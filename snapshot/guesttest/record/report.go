package record

import (
	"fmt"
	"strings"
)

// Report is what Verify found.
type Report struct {
	Logs []LogReport `json:"logs"` // one for each disk, in the order of writing
	// Problems are the broken promises, in plain words; none: the log is whole.
	Problems []string `json:"problems,omitempty"`
}

// LogReport is what one disk's log holds.
type LogReport struct {
	Path    string `json:"path"`
	Records int    `json:"records"` // whole ones
	First   uint64 `json:"first"`
	Last    uint64 `json:"last"`
	// Torn counts slots without a whole record, the one being written included.
	Torn int   `json:"torn"`
	Gaps []Gap `json:"gaps,omitempty"`
	// Boots tells which start of the recorder wrote what, oldest first.
	Boots []Boot `json:"boots,omitempty"`
}

// Gap is a run of missing numbers.
type Gap struct {
	From uint64 `json:"from"`
	To   uint64 `json:"to"` // inclusive
}

// Boot is the run of records that one start of the recorder wrote.
type Boot struct {
	Boot  uint32 `json:"boot"`
	First uint64 `json:"first"`
	Last  uint64 `json:"last"`
}

// Whole says that no promise is broken.
func (r Report) Whole() bool { return len(r.Problems) == 0 }

// Last is the last number that every disk holds.
func (r Report) Last() uint64 {
	if len(r.Logs) == 0 {
		return 0
	}
	last := r.Logs[0].Last
	for _, l := range r.Logs[1:] {
		last = min(last, l.Last)
	}
	return last
}

// Err is nil for a whole log, and else names every problem.
func (r Report) Err() error {
	if r.Whole() {
		return nil
	}
	return fmt.Errorf("check records: %s", strings.Join(r.Problems, "; "))
}
