package agent

import (
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/lull-backup/lull/agent/control"
	"github.com/lull-backup/lull/agent/journal"
	"github.com/lull-backup/lull/snapshot"
)

// Board is what the daemon shows of itself: it hears the events of the runs and
// answers status questions. Safe for concurrent use.
type Board struct {
	version string
	started time.Time
	pid     int
	journal *journal.Journal

	mu     sync.Mutex
	groups []Group
	due    map[string]time.Time            // by group
	runs   map[string]control.RunStatus    // by VM
	owes   map[string]control.RepairStatus // by VM
	upkeep map[string]control.UpkeepStatus // by repository
	silent map[string]control.GroupTrouble // by group
	found  map[string][]control.Finding    // by VM; as it was when it was looked at last
}

// NewBoard makes the board of a daemon that started now.
func NewBoard(version string, pid int, started time.Time, j *journal.Journal, groups []Group) *Board {
	return &Board{
		version: version, pid: pid, started: started, journal: j, groups: slices.Clone(groups),
		due: map[string]time.Time{}, runs: map[string]control.RunStatus{}, upkeep: map[string]control.UpkeepStatus{},
		found: map[string][]control.Finding{}, silent: map[string]control.GroupTrouble{},
	}
}

// Hear is the Observer that keeps the board current.
func (b *Board) Hear(e Event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if e.Step == StepRecovered {
		delete(b.owes, e.VM)
	}
	if e.Step == StepDone { // it warns of what is there now
		delete(b.found, e.VM)
	}
	switch e.Step {
	case StepDone, StepFailed, StepRecovered:
		delete(b.runs, e.VM)
		return
	case StepWarning:
		return
	}
	r, running := b.runs[e.VM]
	if e.Step == StepWriter {
		if running {
			r.Writers = told(r.Writers, e)
			b.runs[e.VM] = r
		}
		return
	}
	if !running {
		r = control.RunStatus{VM: e.VM, Run: e.Run, Group: b.groupOf(e.VM), Since: e.Time}
	}
	if r.Step != string(e.Step) || e.Total > 0 { // how far a step is says nothing of the next
		r.Done, r.Total = e.Done, e.Total
	}
	if r.Step != string(e.Step) {
		r.Writers = nil // their calls are over
	}
	r.Step = string(e.Step)
	b.runs[e.VM] = r
}

// told is all with the newest word of one writer. Status hands out what it was before.
func told(all []control.WriterStatus, e Event) []control.WriterStatus {
	all = slices.Clone(all)
	w := control.WriterStatus{Writer: e.Writer, What: e.Message, Done: e.Done, Total: e.Total}
	i, known := slices.BinarySearchFunc(all, w.Writer, func(o control.WriterStatus, name string) int { return strings.Compare(o.Writer, name) })
	if known {
		all[i] = w
		return all
	}
	return slices.Insert(all, i, w)
}

func (b *Board) groupOf(vm string) string {
	for _, g := range b.groups {
		if slices.Contains(g.VMs, vm) {
			return g.Name
		}
	}
	return ""
}

// members notes which VMs a group has now, and why there may be more.
func (b *Board) members(g Group, vms []string, trouble error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.silent, g.Name)
	if trouble != nil {
		b.silent[g.Name] = control.GroupTrouble{Group: g.Name, LastError: trouble.Error()}
	}
	for i := range b.groups {
		if b.groups[i].Name == g.Name {
			b.groups[i].VMs = vms
		}
	}
}

func (b *Board) next(g Group, due time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.due[g.Name] = due
}

// owed notes what is still to be repaired.
func (b *Board) owed(owes map[string]control.RepairStatus) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.owes = maps.Clone(owes)
}

// looked notes what was found of a VM.
func (b *Board) looked(vm string, found []snapshot.Finding) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.found, vm)
	for _, f := range found {
		b.found[vm] = append(b.found[vm], control.Finding{VM: vm, Kind: string(f.Kind), Disk: f.Disk, Path: f.Path, Text: f.Text, Next: f.Next})
	}
}

// kept notes how the maintenance of a repository goes.
func (b *Board) kept(u control.UpkeepStatus) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.upkeep[u.Repository] = u
}

// Status answers the control socket; it has no error of its own.
func (b *Board) Status() (control.Status, error) {
	b.mu.Lock()
	s := control.Status{Version: b.version, PID: b.pid, Started: b.started}
	for _, vm := range slices.Sorted(maps.Keys(b.runs)) {
		s.Runs = append(s.Runs, b.runs[vm])
	}
	for _, vm := range slices.Sorted(maps.Keys(b.owes)) {
		s.Repairs = append(s.Repairs, b.owes[vm])
	}
	for _, name := range slices.Sorted(maps.Keys(b.upkeep)) {
		s.Upkeep = append(s.Upkeep, b.upkeep[name])
	}
	for _, name := range slices.Sorted(maps.Keys(b.silent)) {
		s.Groups = append(s.Groups, b.silent[name])
	}
	for _, vm := range slices.Sorted(maps.Keys(b.found)) {
		s.Found = append(s.Found, b.found[vm]...)
	}
	due := maps.Clone(b.due)
	running := maps.Clone(b.runs)
	groups := slices.Clone(b.groups)
	b.mu.Unlock()

	for _, g := range groups {
		for _, vm := range g.VMs {
			last, err := b.journal.Last(vm)
			if err != nil {
				last.Error = err.Error() // one damaged file hides no other VM
			}
			_, now := running[vm]
			s.VMs = append(s.VMs, control.VMStatus{
				VM: vm, Group: g.Name, LastStart: last.Start, LastSuccess: last.Success,
				LastError: last.Error, LastPoint: last.Point, LastLevel: last.Level,
				LastWarned: last.Warned, LastWarnings: last.Warnings, LastTracking: last.Tracking, Next: due[g.Name], Running: now,
			})
		}
	}
	return s, nil
}
