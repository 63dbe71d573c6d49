package journal

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// maxResult, maxMessage and maxWarning bound a result's file, the error and each
// warning in it, in bytes; maxWarnings how many of these are kept.
const (
	maxResult   = 256 << 10
	maxMessage  = 4 << 10
	maxWarning  = 512
	maxWarnings = 8
)

// Result is how the last runs of a VM ended. The zero Result: it never ran.
type Result struct {
	Start   time.Time `json:"start,omitzero"`   // of the last run
	Success time.Time `json:"success,omitzero"` // when a run last ended well
	Error   string    `json:"error,omitempty"`  // of the last run; empty when it ended well
	Point   string    `json:"point,omitempty"`  // id of the last restore point

	// Of the last restore point: what it was worth, how many warnings came with it,
	// and the first of them.
	Level    string   `json:"level,omitempty"`
	Warned   int      `json:"warned,omitempty"`
	Warnings []string `json:"warnings,omitempty"`
	// Tracking says what was read of the disks, and why.
	Tracking string `json:"tracking,omitempty"`
	// Room is what the last runs took; nil in a Result to record: nothing new.
	Room *Room `json:"room,omitempty"`
}

// Room is what runs of a VM took of the room for deltas.
type Room struct {
	Nights  []Night `json:"nights,omitempty"`  // oldest first
	Refused int     `json:"refused,omitempty"` // runs since, as they would not have fitted
}

// Night is one run.
type Night struct {
	Took   time.Duration    `json:"took"`             // from the freeze to the merge
	Deltas map[string]int64 `json:"deltas,omitempty"` // bytes by disk, where there were some
}

// stored is a Result with the VM that it is about.
type stored struct {
	VM string `json:"vm"`
	Result
}

// Record notes how a run of the VM ended. A run that failed has no Success and
// perhaps no Point: those of the runs before it stay, with what is known of them. On
// return it is durable. An error text longer than 4 KiB is cut, and so is a warning of
// more than 512 bytes; 8 of them are kept.
func (j *Journal) Record(vm string, r Result) error {
	before, err := j.Last(vm)
	// A damaged result is replaced: nothing but the display depends on it.
	if err != nil && !errors.Is(err, ErrDamaged) {
		return err
	}
	if r.Success.IsZero() {
		r.Success = before.Success
	}
	if r.Room == nil {
		r.Room = before.Room
	}
	if r.Point == "" {
		r.Point, r.Level, r.Warned, r.Warnings = before.Point, before.Level, before.Warned, before.Warnings
		r.Tracking = before.Tracking
	}
	r.Error, r.Tracking = cut(r.Error, maxMessage), cut(r.Tracking, maxMessage)
	r.Warnings = slices.Clone(r.Warnings[:min(len(r.Warnings), maxWarnings)])
	for i, w := range r.Warnings {
		r.Warnings[i] = cut(w, maxWarning)
	}
	path, err := j.path(results, vm)
	if err == nil {
		err = j.save(path, kindResult, stored{vm, r}, maxResult)
	}
	if err != nil {
		return fmt.Errorf("write last result: %w", err)
	}
	return nil
}

// cut keeps the start of a text.
func cut(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	return strings.ToValidUTF8(text[:limit], "")
}

// Last returns how the VM's last runs ended.
func (j *Journal) Last(vm string) (Result, error) {
	path, err := j.path(results, vm)
	if err != nil {
		return Result{}, fmt.Errorf("read last result: %w", err)
	}
	var s stored
	found, err := load(path, kindResult, &s, maxResult)
	if found {
		err = belongs(path, s.VM)
	}
	if err != nil {
		return Result{}, fmt.Errorf("read last result: %w", err)
	}
	return s.Result, nil
}
