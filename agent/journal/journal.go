package journal

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/lull-backup/lull/snapshot"
)

// Errors to test for with errors.Is.
var (
	ErrLocked  = errors.New("another process works on this VM")
	ErrDamaged = errors.New("damaged state file")
)

// maxEntry bounds a run's file, in bytes; a plan with hundreds of disks is far
// below it.
const maxEntry = 4 << 20

// Entry is a run under way.
type Entry struct {
	Run  string        `json:"run"`
	VM   string        `json:"vm"` // host/name
	Plan snapshot.Plan `json:"plan"`
	// Phase is the step that the run has reached, in the agent's words, where
	// the agent notes it; recovery works from the plan alone.
	Phase string `json:"phase,omitempty"`
	// FreezeSent is set before the first freeze, once the guest's agent was reached:
	// recovery thaws the guest.
	FreezeSent bool      `json:"freeze_sent,omitempty"`
	Started    time.Time `json:"started"`
}

// Journal is the state folder. Its methods are safe for concurrent use on
// different VMs, by several processes.
type Journal struct {
	dir   string
	files files
}

// Open makes the state folder where it is missing.
func Open(dir string) (*Journal, error) { return open(dir, osFiles{}) }

func open(dir string, f files) (*Journal, error) {
	j := &Journal{dir: dir, files: f}
	for _, d := range []string{j.dir, j.folder(runs), j.folder(results), j.folder(locks)} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			if errors.Is(err, fs.ErrPermission) {
				err = snapshot.WithHint(err, "run lull as root, or set another state_dir")
			}
			return nil, fmt.Errorf("open state folder: %w", err)
		}
	}
	for _, d := range []string{filepath.Dir(j.dir), j.dir} {
		if err := f.syncDir(d); err != nil {
			return nil, fmt.Errorf("open state folder: %w", err)
		}
	}
	return j, nil
}

// The folders inside the state folder.
const (
	runs    = "runs"
	results = "results"
	locks   = "locks"
)

func (j *Journal) folder(name string) string { return filepath.Join(j.dir, name) }

func (j *Journal) path(folder, vm string) (string, error) {
	name, err := fileName(vm)
	if err != nil {
		return "", err
	}
	return filepath.Join(j.folder(folder), name+ending), nil
}

const ending = ".json"

// Write makes e the run under way of its VM. On return it is durable.
func (j *Journal) Write(e Entry) error {
	path, err := j.path(runs, e.VM)
	if err == nil {
		err = j.save(path, kindRun, e, maxEntry)
	}
	if err != nil {
		return fmt.Errorf("write journal: %w", err)
	}
	return nil
}

// Read returns the run under way, if there is one. ErrDamaged: there is one, but
// it cannot be read.
func (j *Journal) Read(vm string) (e Entry, found bool, err error) {
	path, err := j.path(runs, vm)
	if err == nil {
		e, found, err = readEntry(path)
	}
	if err != nil {
		return Entry{}, false, fmt.Errorf("read journal: %w", err)
	}
	return e, found, nil
}

func readEntry(path string) (e Entry, found bool, err error) {
	found, err = load(path, kindRun, &e, maxEntry)
	if found {
		err = belongs(path, e.VM)
	}
	return e, found, err
}

// belongs finds a file that was copied over that of another VM.
func belongs(path, vm string) error {
	if name, err := fileName(vm); err != nil || name+ending != filepath.Base(path) {
		return damaged(path, fmt.Errorf("it is about VM %q", vm))
	}
	return nil
}

// Remove forgets the run under way. It is no error when there is none. On return
// it is durable.
func (j *Journal) Remove(vm string) error {
	path, err := j.path(runs, vm)
	if err == nil {
		err = j.files.remove(path)
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if err == nil {
		// Also when the file was gone: a crash may have come between the two.
		err = j.files.syncDir(j.folder(runs))
	}
	if err != nil {
		return fmt.Errorf("remove journal: %w", err)
	}
	return nil
}

// Pending returns every run under way, sorted by VM. Entries that cannot be read
// are joined into the error; the others are returned beside it.
func (j *Journal) Pending() ([]Entry, error) {
	folder := j.folder(runs)
	found, err := os.ReadDir(folder) // sorted by name
	if err != nil {
		return nil, fmt.Errorf("list journal: %w", err)
	}
	var out []Entry
	var bad []error
	for _, f := range found {
		if !strings.HasSuffix(f.Name(), ending) {
			continue // temporary files: a Write that did not come to its end
		}
		e, there, err := readEntry(filepath.Join(folder, f.Name()))
		switch {
		case err != nil:
			bad = append(bad, fmt.Errorf("read journal: %w", err))
		case there: // else it was removed meanwhile
			out = append(out, e)
		}
	}
	return out, errors.Join(bad...)
}
