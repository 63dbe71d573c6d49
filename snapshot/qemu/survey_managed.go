package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/lull-backup/lull/snapshot"
)

// A manager's record is compared, too: no VM is to be started from a delta that no run
// owns, and none to run from one without the record saying so.

// managedOff holds the record of a VM that is off, and the journal's plan, against the files.
func (s *survey) managedOff(ctx context.Context, vm VM) error {
	s.off = true
	if s.owned != nil {
		if err := s.offline(ctx, vm.Manager); err != nil {
			return err
		}
	}
	err := s.record(ctx, vm, nil)
	if errors.Is(err, snapshot.ErrNotFound) && s.owned != nil { // the plan led to all that is left
		return nil
	}
	return err
}

// record looks at the deltas that a record names. running are the disks of the VM in QEMU.
func (s *survey) record(ctx context.Context, vm VM, running []disk) error {
	now, next, err := vm.Manager.Noted(ctx)
	if err != nil {
		return err
	}
	for _, d := range now {
		s.noted(vm, d, running, "now")
	}
	for _, d := range next {
		s.noted(vm, d, running, "for its next start")
		if s.off && !isDelta(d.Path) {
			if err := s.orphansBeside(vm, imageAlone(d)); err != nil {
				return err
			}
		}
	}
	return nil
}

// noted tells of a delta in a record that no run owns. One in QEMU's chain has been told of.
func (s *survey) noted(vm VM, d snapshot.Disk, running []disk, when string) {
	inChain := slices.ContainsFunc(running, func(x disk) bool {
		return slices.ContainsFunc(x.layers, func(l snapshot.Layer) bool { return l.Path == d.Path })
	})
	if !isDelta(d.Path) || s.ownsFile(d.Path) || inChain {
		return
	}
	f := snapshot.Finding{Kind: snapshot.FindingOrphan, Disk: d.Name, Path: d.Path, Run: runOf(d.Path)}
	f.Text = fmt.Sprintf("the VM's configuration names the delta %s %s, and no run on record owns it", d.Path, when)
	name := snapshot.ShellWord(vm.Name)
	there, err := exists(d.Path)
	switch {
	case err == nil && !there:
		f.Text += "; it is not there"
		f.Next = "put the disk's image in its place: virsh edit " + name
	case s.off:
		f.Next = fmt.Sprintf("start it (virsh start %s), then merge the delta while it runs: lull recover, with the name of the VM", name)
	default:
		f.Next = fmt.Sprintf("the VM does not run from it; put the image that it runs from in its place: virsh edit %s", name)
	}
	s.add(f)
}

// imageAlone is a disk of a VM that is off, with nothing that its image names.
func imageAlone(d snapshot.Disk) disk {
	info, err := os.Stat(d.Path)
	return disk{Disk: d, layers: []snapshot.Layer{{Path: d.Path, Format: d.Format}}, regular: err == nil && info.Mode().IsRegular()}
}
