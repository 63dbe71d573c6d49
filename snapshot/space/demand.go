package space

import (
	"fmt"
	"path/filepath"
	"slices"

	"github.com/lull-backup/lull/snapshot"
)

// Demands looks at the file systems of a plan: what its deltas and its saved state take
// of each, what its images would take to merge them, and what all that may come to.
func (l Limits) Demands(p snapshot.Plan, want snapshot.Want) ([]Demand, error) {
	if l.Unguarded {
		return nil, nil
	}
	list := demands{limits: l}
	for _, d := range p.Disks {
		if d.Delta == "" {
			continue
		}
		if err := list.disk(d, want.Deltas[d.Name]); err != nil {
			return nil, fmt.Errorf("look for room for the delta of disk %s: %w", d.Name, err)
		}
	}
	if p.Saved.Path != "" {
		on, err := list.at(filepath.Dir(p.Saved.Path))
		if err != nil {
			return nil, fmt.Errorf("look for room for the memory: %w", err)
		}
		on.Taken += FileTakes(p.Saved.Path)
		if want.State {
			on.Expected += p.Saved.Limit
		}
	}
	return list.all, nil
}

// demands are those of one run, one for each file system.
type demands struct {
	limits Limits
	all    []Demand
}

// at finds the demand on the file system of a folder. It is good until the next call.
func (l *demands) at(dir string) (*Demand, error) {
	r, err := l.limits.At(dir)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(l.all, func(d Demand) bool { return d.Device == r.Device })
	if i < 0 {
		i, l.all = len(l.all), append(l.all, Demand{Room: r})
	}
	return &l.all[i], nil
}

// disk adds a disk's part: on the file system of its delta, and on that of its image,
// which grows when the delta is merged and cannot be removed before.
func (l *demands) disk(d snapshot.DiskPlan, expected int64) error {
	taken := FileTakes(d.Delta)
	on, err := l.at(filepath.Dir(d.Delta))
	if err != nil {
		return err
	}
	on.Taken += taken
	on.Expected += expected
	holes := FileGrows(d.Path, d.Size)
	if holes == 0 {
		return nil
	}
	real, err := filepath.EvalSymlinks(d.Path)
	if err != nil {
		return err
	}
	image, err := l.at(filepath.Dir(real))
	if err != nil {
		return err
	}
	image.Merge += min(taken, holes)
	image.Expected += min(expected, holes)
	return nil
}
