package snapshottest

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/lull-backup/lull/snapshot"
)

// Fake is a hypervisor in memory with its VMs. Host gives clients to it; they
// come and go like processes, the Fake stays.
type Fake struct {
	mu     sync.Mutex
	thawed *sync.Cond // a VM's file systems were thawed
	vms    map[string]*fakeVM
	faults []*Fault
	calls  []string
}

// FakeVM describes a VM of a Fake.
type FakeVM struct {
	Name     string
	State    snapshot.State // StateRunning when empty
	Disks    []FakeDisk
	Excluded []snapshot.Excluded
	Files    map[snapshot.FileRole][]byte // at /fake/<VM>/<role>
	Hardware snapshot.Hardware
	NoGuest  bool
	Memory   []byte // what a saved state holds; nil: it cannot be saved
}

// FakeDisk is a qcow2 disk at /fake/<VM>/<Name>.qcow2.
type FakeDisk struct {
	Name    string
	Content []byte // its length is the size, a multiple of 4096
}

type fakeVM struct {
	FakeVM
	starts int           // how often it was started: the instance
	full   bool          // paused, because its deltas cannot grow
	change chan struct{} // closed when State or full change
	disks  map[string]*fakeDisk
	guest  *FakeGuest
	saved  []byte // the state of the run that goes on; nil: none
}

type fakeDisk struct {
	base   []byte
	delta  string           // the delta's path; empty when there is none
	active bool             // the guest writes to the delta
	pages  map[int64][]byte // what the delta holds

	records map[string]map[int64]bool // pages of the base written to, by name
}

const page = 4096

// NewFake makes a hypervisor with these VMs.
func NewFake(vms ...FakeVM) *Fake {
	f := &Fake{vms: map[string]*fakeVM{}}
	f.thawed = sync.NewCond(&f.mu)
	for _, v := range vms {
		if v.State == "" {
			v.State = snapshot.StateRunning
		}
		vm := &fakeVM{FakeVM: v, starts: 1, disks: map[string]*fakeDisk{}, change: make(chan struct{})}
		vm.guest = newFakeGuest(f, v.Name)
		for _, d := range v.Disks {
			vm.disks[d.Name] = &fakeDisk{base: bytes.Clone(d.Content)}
		}
		f.vms[v.Name] = vm
	}
	return f
}

// Host is a new client, as a process started now would be.
func (f *Fake) Host() snapshot.Host { return &fakeHost{fake: f} }

// FakeGuest is the guest of a VM, to see and set what is inside it.
func (f *Fake) FakeGuest(vm string) *FakeGuest {
	f.mu.Lock()
	defer f.mu.Unlock()
	if v := f.vms[vm]; v != nil {
		return v.guest
	}
	return nil
}

// Write writes to a disk as the guest does: while its file systems are frozen it
// waits for the thaw.
func (f *Fake) Write(vm, disk string, off int64, p []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	v, d, err := f.disk(vm, disk)
	if err != nil {
		return err
	}
	for v.guest.frozen > 0 {
		f.thawed.Wait()
	}
	if v.State != snapshot.StateRunning {
		return fmt.Errorf("write to %s: VM %s is %s", disk, vm, v.State)
	}
	if off < 0 || off > int64(len(d.base)) || int64(len(p)) > int64(len(d.base))-off {
		return fmt.Errorf("write to %s: beyond its end", disk)
	}
	d.write(off, p)
	return nil
}

func (d *fakeDisk) write(off int64, p []byte) {
	if !d.active {
		copy(d.base[off:], p)
		d.record(off, int64(len(p)))
		return
	}
	for len(p) > 0 {
		at := off / page * page
		if d.pages[at] == nil {
			d.pages[at] = bytes.Clone(d.base[at : at+page])
		}
		n := copy(d.pages[at][off-at:], p)
		off, p = off+int64(n), p[n:]
	}
}

// Content is what the guest sees on a disk.
func (f *Fake) Content(vm, disk string) ([]byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, d, err := f.disk(vm, disk)
	if err != nil {
		return nil, err
	}
	return d.content(), nil
}

// content is also right when the VM runs from its base by mistake: then the
// guest sees nothing of the delta.
func (d *fakeDisk) content() []byte {
	b := bytes.Clone(d.base)
	if d.active {
		for at, p := range d.pages {
			copy(b[at:], p)
		}
	}
	return b
}

func (f *Fake) disk(vm, disk string) (*fakeVM, *fakeDisk, error) {
	v := f.vms[vm]
	if v == nil {
		return nil, nil, fmt.Errorf("VM %q: %w", vm, snapshot.ErrNotFound)
	}
	d := v.disks[disk]
	if d == nil {
		return nil, nil, fmt.Errorf("VM %q has no disk %q", vm, disk)
	}
	return v, d, nil
}

// Leftovers lists the deltas that exist now, sorted. After a run there are none.
func (f *Fake) Leftovers() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var left []string
	for _, v := range f.vms {
		for _, d := range v.disks {
			if d.delta != "" {
				left = append(left, d.delta)
			}
		}
	}
	slices.Sort(left)
	return left
}

// Frozen tells whether the file systems of a VM's guest are frozen.
func (f *Fake) Frozen(vm string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	v := f.vms[vm]
	return v != nil && v.guest.frozen > 0
}

// Crash ends a VM's hypervisor like kill -9, and its guest with it.
func (f *Fake) Crash(vm string) { f.restart(vm, snapshot.StateOff, true) }

// StartFromBase starts a VM without its deltas, as an administrator may do by
// mistake after a crash: from now on its disks and their deltas diverge.
func (f *Fake) StartFromBase(vm string) { f.restart(vm, snapshot.StateRunning, false) }

func (f *Fake) restart(vm string, s snapshot.State, deltas bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	v := f.vms[vm]
	if v == nil {
		return
	}
	if s == snapshot.StateRunning {
		v.starts++
	}
	for _, d := range v.disks {
		d.active, d.records = d.active && deltas, nil
	}
	v.State = s
	v.guest.frozen = 0
	f.thawed.Broadcast()
	v.changed()
}

// Fill stops a VM as if the file system under its deltas were full. Merge makes
// room and lets it go on.
func (f *Fake) Fill(vm string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if v := f.vms[vm]; v != nil {
		v.State, v.full = snapshot.StatePaused, true
		v.changed()
	}
}

func (v *fakeVM) changed() {
	close(v.change)
	v.change = make(chan struct{})
}

func (v *fakeVM) instance() string { return fmt.Sprintf("%s-%d", v.Name, v.starts) }

// chain describes every disk of a VM in a line.
func (f *Fake) chain(vm string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var b bytes.Buffer
	for _, name := range slices.Sorted(maps.Keys(f.vms[vm].disks)) {
		d := f.vms[vm].disks[name]
		fmt.Fprintf(&b, "%s: %q active %v\n", name, d.delta, d.active)
	}
	return b.String()
}

// lock runs fn with the VM, or says that there is none.
func (f *Fake) lock(ctx context.Context, vm, call string, fn func(*fakeVM) error) error {
	return f.do(ctx, vm, call, func() error {
		f.mu.Lock()
		defer f.mu.Unlock()
		v := f.vms[vm]
		if v == nil {
			return fmt.Errorf("VM %q: %w", vm, snapshot.ErrNotFound)
		}
		return fn(v)
	})
}
