package quiesce

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/lull-backup/lull/snapshot"
)

// Disk is one disk of a VM, by all that its host and its guest may both know of it.
// What is not known is empty.
type Disk struct {
	Name   string // by the host's word; unique in the VM
	Size   int64  // bytes
	Serial string
	// Address is where the guest finds the disk's own PCI device, such as 0000:00:05.0.
	Address string
	// LeftOut says why the restore point will not have the disk; empty: it will.
	LeftOut string
}

// ErrLeftOut: a disk that an application needs is not in the restore point, or cannot be
// told from one that is not.
var ErrLeftOut = errors.New("the restore point lacks the disk")

// may says whether a disk that a guest sees may be d: nothing that both sides know speaks
// against it.
func (d Disk) may(seen Disk) bool {
	return sameSerial(d.Serial, seen.Serial) &&
		(d.Address == "" || seen.Address == "" || strings.EqualFold(d.Address, seen.Address)) &&
		(d.Size == 0 || seen.Size == 0 || sectors(d.Size) == sectors(seen.Size))
}

// shortSerial is how long a serial number is at least that may have been cut on its way to
// the guest: virtio-blk hands on 20 bytes.
const shortSerial = 16

func sameSerial(a, b string) bool {
	a, b = strings.Join(strings.Fields(a), ""), strings.Join(strings.Fields(b), "")
	if len(a) > len(b) {
		a, b = b, a
	}
	return a == "" || a == b || len(a) >= shortSerial && strings.HasPrefix(b, a)
}

// sectors is a size as a guest sees it, which has no half sectors.
func sectors(size int64) int64 { return (size + 511) / 512 }

// Find says which of the VM's disks it is that a guest sees: the name of the one that it
// must be, or none where several fit and all of them will be in the restore point. A serial
// number or a place that both sides know decides; else the size may. Where
// one that will not be there fits too, or where disks are left out and none fits,
// that is ErrLeftOut. Without disks nothing is known, and nothing is wrong.
func Find(disks []Disk, seen Disk) (name string, err error) {
	var fit, sure []Disk
	for _, d := range disks {
		if d.may(seen) {
			fit = append(fit, d)
		}
		if d.may(seen) && d.known(seen) {
			sure = append(sure, d)
		}
	}
	if len(sure) > 0 {
		fit = sure
	}
	out := slices.IndexFunc(fit, Disk.leftOut)
	switch {
	case out >= 0 && len(fit) == 1:
		return "", fmt.Errorf("%w %s: %s", ErrLeftOut, fit[out].Name, fit[out].LeftOut)
	case out >= 0:
		return "", snapshot.WithHint(fmt.Errorf("%w, or cannot tell it from %s, which it leaves out: %s", ErrLeftOut, fit[out].Name, fit[out].LeftOut),
			"give the VM's disks serial numbers, or ids and a place each on the PCI bus")
	case len(fit) == 0 && slices.ContainsFunc(disks, Disk.leftOut):
		return "", fmt.Errorf("%w, as far as anybody knows: the host names none like it", ErrLeftOut)
	case len(fit) == 1:
		return fit[0].Name, nil
	}
	return "", nil
}

// known says whether a serial number or a place says that a disk that may be d is.
func (d Disk) known(seen Disk) bool {
	return d.Serial != "" && seen.Serial != "" || d.Address != "" && seen.Address != ""
}

func (d Disk) leftOut() bool { return d.LeftOut != "" }

// Component is a part of an application that a writer speaks for: a server, a
// database, a file system.
type Component struct {
	Name  string   `json:"name"`
	Files []string `json:"files,omitempty"` // where it lies in the guest
	Disks []string `json:"disks,omitempty"` // names of those that hold it; empty: not known
}

// Outcome is what became of one component in one restore point.
type Outcome struct {
	Writer    string `json:"writer"`
	Component        // without a name it is the writer as a whole
	// Succeeded: it was held still as its writer promises, while the disks were taken.
	Succeeded bool `json:"succeeded"`
	// Level is how consistent its data in the point is: the writer's where it succeeded,
	// else the point's.
	Level  Level  `json:"level"`
	Reason string `json:"reason,omitempty"` // why it did not succeed
}

// Bounds of what a writer may say of its components.
const (
	maxComponents = 1024
	maxNames      = 1 << 20 // bytes of all names, files and disks together
)

// CheckComponents says what is wrong with the components of a writer: what no report should
// hold, and what no restore point would have.
func CheckComponents(all []Component, disks []Disk) error {
	if len(all) > maxComponents {
		return fmt.Errorf("%d components are more than %d", len(all), maxComponents)
	}
	size := 0
	for _, c := range all {
		for _, s := range slices.Concat([]string{c.Name}, c.Files, c.Disks) {
			if size += len(s) + 1; size > maxNames {
				return fmt.Errorf("the names and files of its components are more than %d bytes", maxNames)
			}
		}
		for _, name := range c.Disks {
			if err := checkDisk(c.Name, name, disks); err != nil {
				return err
			}
		}
	}
	return nil
}

func checkDisk(component, name string, disks []Disk) error {
	i := slices.IndexFunc(disks, func(d Disk) bool { return d.Name == name })
	switch {
	case i < 0:
		return fmt.Errorf("it says that %s is on disk %s, which the VM has not", clip(component), clip(name))
	case disks[i].leftOut():
		return &Failure{Component: clip(component), Err: fmt.Errorf("%w %s: %s", ErrLeftOut, name, disks[i].LeftOut)}
	}
	return nil
}

// named are components of which only the names are known.
func named(names []string) []Component {
	var all []Component
	for _, n := range names {
		all = append(all, Component{Name: n})
	}
	return all
}

// outcomes are those of all writers that were asked to take part and whose application is
// there; those in rest did.
func (r *run) outcomes(rest []*member) []Outcome {
	var all []Outcome
	for _, m := range r.members {
		switch {
		case !m.asked || m.absent:
		case slices.Contains(rest, m):
			all = append(all, m.outcomes(m.id.Level, "")...)
		default:
			all = append(all, m.outcomes(r.report.Level, cmp.Or(m.why, r.whyNot(m.id.Level)))...)
		}
	}
	return all
}

// whyNot is why a level was not reached: of a writer that did nothing wrong itself.
func (r *run) whyNot(level Level) string {
	prefix := level.String() + ": "
	for _, reason := range r.report.Reasons {
		if why, ok := strings.CutPrefix(reason, prefix); ok {
			return why
		}
	}
	return fmt.Sprintf("the level %v was not reached", level)
}

// outcomes are those of the writer's components in a point of a level; why is empty where it
// took part to the end.
func (m *member) outcomes(level Level, why string) []Outcome {
	o := Outcome{Writer: m.id.Name, Succeeded: why == "", Level: level, Reason: why}
	if len(m.components) == 0 {
		return []Outcome{o}
	}
	var all []Outcome
	for _, c := range m.components {
		o.Component = c
		all = append(all, o)
	}
	return all
}

// blame keeps why a writer has no part in the point.
func (m *member) blame(err error) {
	if err != nil {
		m.why = clip(describe(err))
	}
}
