package journal

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// maxResult and maxMessage bound a result's file and the error in it, in bytes.
const (
	maxResult  = 64 << 10
	maxMessage = 4 << 10
)

// Result is how the last runs of a VM ended. The zero Result: it never ran.
type Result struct {
	Start   time.Time `json:"start,omitzero"`   // of the last run
	Success time.Time `json:"success,omitzero"` // when a run last ended well
	Error   string    `json:"error,omitempty"`  // of the last run; empty when it ended well
	Point   string    `json:"point,omitempty"`  // id of the last restore point
}

// stored is a Result with the VM that it is about.
type stored struct {
	VM string `json:"vm"`
	Result
}

// Record notes how a run of the VM ended. A run that failed has no Success and
// perhaps no Point: those of the runs before it stay. On return it is durable.
// An error text longer than 4 KiB is cut.
func (j *Journal) Record(vm string, r Result) error {
	before, err := j.Last(vm)
	// A damaged result is replaced: nothing but the display depends on it.
	if err != nil && !errors.Is(err, ErrDamaged) {
		return err
	}
	if r.Success.IsZero() {
		r.Success = before.Success
	}
	if r.Point == "" {
		r.Point = before.Point
	}
	if len(r.Error) > maxMessage {
		r.Error = strings.ToValidUTF8(r.Error[:maxMessage], "")
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
