package agent

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/durable"
	"github.com/lull-backup/lull/transport/repo"
)

// Endings of what a best-effort restore writes beside, or in place of, a disk that is
// not whole. The script that starts the VM names the whole disk and so refuses until
// somebody has looked at the list and renamed the disk by hand.
const (
	incompleteEnding = ".incomplete"
	holesEnding      = ".holes.json"
)

// Incomplete is a disk or file that a best-effort restore could not bring back whole.
type Incomplete struct {
	Disk string            `json:"disk,omitempty"` // its name; or
	Role snapshot.FileRole `json:"role,omitempty"` // of a small file, which is left out
	// Path is the disk under the name that says that it is not whole, List the
	// file that tells its holes as well.
	Path  string      `json:"path,omitempty"`
	List  string      `json:"list,omitempty"`
	Size  int64       `json:"size"` // bytes, of the whole
	Lost  int64       `json:"lost"` // bytes, of all holes
	Holes []repo.Hole `json:"holes"`
}

func lost(holes []repo.Hole) (n int64) {
	for _, h := range holes {
		n += h.Length
	}
	return n
}

// leaveHoles takes down what a disk has lost, and stages the list of it.
func (r *restore) leaveHoles(d *restoreDisk, holes []repo.Hole) error {
	if len(holes) == 0 {
		return nil
	}
	d.incomplete = true
	in := Incomplete{
		Disk: d.Name, Path: d.path + incompleteEnding, List: d.path + holesEnding,
		Size: d.Root.Size, Lost: lost(holes), Holes: holes,
	}
	r.result.Incomplete = append(r.result.Incomplete, in)
	text, err := json.MarshalIndent(struct {
		VM    string `json:"vm"`
		Point string `json:"point"`
		Incomplete
	}{r.Point.VM, r.Point.ID, in}, "", "  ")
	if err != nil {
		return fmt.Errorf("list holes of disk %s: %w", d.Name, err)
	}
	s, err := r.stageBytes(in.List, append(text, '\n'))
	if err != nil {
		return fmt.Errorf("list holes of disk %s: %w", d.Name, err)
	}
	r.staged = append(r.staged, s)
	return nil
}

// dropFile takes down a small file that cannot be read, and leaves it out: half of an
// NVRAM or of a saved memory is worse than none.
func (r *restore) dropFile(f repo.File, err error) bool {
	if !r.BestEffort || !errors.Is(err, repo.ErrCorrupt) && !errors.Is(err, repo.ErrVersion) {
		return false
	}
	whole := repo.Hole{Length: f.Root.Size, Err: err.Error()}
	r.result.Incomplete = append(r.result.Incomplete, Incomplete{
		Role: f.Role, Size: f.Root.Size, Lost: f.Root.Size, Holes: []repo.Hole{whole},
	})
	return true
}

// reveal gives a disk that turned out to be whole its own name. It replaces nothing: a
// best-effort restore never overwrites.
func (r *restore) reveal(d *restoreDisk) error {
	from := d.path + incompleteEnding
	if err := durable.Rename(from, d.path, false); err != nil {
		return fmt.Errorf("finish disk %s: %w", d.Name, err)
	}
	return nil
}
