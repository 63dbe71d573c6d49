package journal

import (
	"fmt"
	"strings"
	"time"
)

// maxResult and maxMessage bound a result's file and the error in it, in bytes.
const (
	maxResult  = 64 << 10
	maxMessage = 4 << 10
)

// Result is how the last runs of a VM ended.
type Result struct {
	VM          string    `json:"vm"` // host/name
	LastStart   time.Time `json:"last_start,omitzero"`
	LastSuccess time.Time `json:"last_success,omitzero"` // when the run that made LastPoint ended
	LastError   string    `json:"last_error,omitempty"`  // of the last run; empty when it went well
	LastPoint   string    `json:"last_point,omitempty"`  // id
}

// SaveResult replaces the VM's result. On return it is durable. An error text
// longer than 4 KiB is cut.
func (j *Journal) SaveResult(r Result) error {
	path, err := j.path(results, r.VM)
	if err == nil {
		if len(r.LastError) > maxMessage {
			r.LastError = strings.ToValidUTF8(r.LastError[:maxMessage], "")
		}
		err = j.save(path, kindResult, r, maxResult)
	}
	if err != nil {
		return fmt.Errorf("write last result: %w", err)
	}
	return nil
}

// Result returns the VM's last result. ErrNone: it never ran.
func (j *Journal) Result(vm string) (Result, error) {
	path, err := j.path(results, vm)
	if err != nil {
		return Result{}, fmt.Errorf("read last result: %w", err)
	}
	r, err := readResult(path)
	if err != nil {
		return Result{}, fmt.Errorf("read last result: %w", err)
	}
	return r, nil
}

// Results returns the last result of every VM that ever ran, sorted by VM. Those
// that cannot be read are joined into the error.
func (j *Journal) Results() ([]Result, error) {
	return each(j.folder(results), readResult)
}

func readResult(path string) (Result, error) {
	var r Result
	if err := load(path, kindResult, &r, maxResult); err != nil {
		return Result{}, err
	}
	return r, belongs(path, r.VM)
}
