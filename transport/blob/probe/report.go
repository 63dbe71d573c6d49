package probe

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// ErrUnfit is what Report.Err wraps.
var ErrUnfit = errors.New("the store is not fit for a repository")

// Verdict is what became of one question.
type Verdict string

const (
	OK      Verdict = "ok"
	Missing Verdict = "missing"
	Unknown Verdict = "unknown" // the key lacks the right to find out, or there is no way to
)

// Weight is how much it matters when something is missing.
type Weight string

const (
	Essential Weight = "essential" // nothing works safely without it
	Useful    Weight = "useful"    // it will be missed
	Optional  Weight = "optional"  // good to have
)

// Finding is the answer to one question.
type Finding struct {
	Name        string  `json:"name"`
	Verdict     Verdict `json:"verdict"`
	Weight      Weight  `json:"weight"`
	Detail      string  `json:"detail,omitempty"`      // what was seen
	Consequence string  `json:"consequence,omitempty"` // of its absence, when it is missing
}

// Report is what a probe found.
type Report struct {
	Store    string    `json:"store"`
	Findings []Finding `json:"findings"`
	// Clock is how far the store's clock is ahead of this host's, ClockError how
	// far that may be wrong; meaningless unless the finding "clock" is OK or Missing.
	Clock      time.Duration `json:"clock"`
	ClockError time.Duration `json:"clock_error"`
	// Left is the probe's objects that could not be deleted.
	Left []string `json:"left,omitempty"`
}

// missing are the findings of a weight that are missing.
func (r Report) missing(w Weight) []Finding {
	var out []Finding
	for _, f := range r.Findings {
		if f.Verdict == Missing && f.Weight == w {
			out = append(out, f)
		}
	}
	return out
}

// Err is ErrUnfit with all that is essential and missing, or nil.
func (r Report) Err() error {
	var parts []string
	for _, f := range r.missing(Essential) {
		parts = append(parts, fmt.Sprintf("%s: %s (%s)", f.Name, f.Detail, f.Consequence))
	}
	if parts == nil {
		return nil
	}
	return fmt.Errorf("%w: %s: %s", ErrUnfit, r.Store, strings.Join(parts, "; "))
}

// Warnings are what is useful and missing.
func (r Report) Warnings() []Finding { return r.missing(Useful) }

// Finding is the one of a name.
func (r Report) Finding(name string) (Finding, bool) {
	for _, f := range r.Findings {
		if f.Name == name {
			return f, true
		}
	}
	return Finding{}, false
}
