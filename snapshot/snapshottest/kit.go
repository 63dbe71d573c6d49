package snapshottest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lull-backup/lull/snapshot"
)

// Fixture is one VM of the host under test, with hands on the guest's side.
// Its disks hold at least 1 MiB each.
type Fixture struct {
	Host snapshot.Host
	VM   string

	// Reopen makes a host as a process started later would, and stands for the
	// death of the one before: only the new one is used afterwards.
	Reopen func(t testing.TB) snapshot.Host

	// Write fills a range of a disk as the guest would, and flushes it. Ranges
	// are multiples of 4096. Nil for a VM that is powered off. Safe to call while the host
	// works.
	Write func(disk string, off, length int64, fill byte) error

	// Content is the whole disk as the guest sees it now.
	Content func(t testing.TB, disk string) []byte

	// Files lists all files in the folders of the VM's disks, and whatever
	// else the host may leave behind.
	Files func(t testing.TB) []string

	// Chain describes the layers under each disk, in any stable notation. Nil
	// where there is no hypervisor to ask.
	Chain func(t testing.TB) string

	// Crash ends the hypervisor as kill -9 would. Nil where there is none.
	Crash func(t testing.TB)

	// Guest says that the VM has an agent that answers.
	Guest bool
}

// timeout bounds every single call of the kit; machines under test are busy.
const timeout = 2 * time.Minute

// Run takes a host through the contract. open makes a new VM for every subtest
// and cleans up with t.Cleanup.
func Run(t *testing.T, open func(t *testing.T) *Fixture) {
	t.Helper()
	for _, c := range []struct {
		name string
		run  func(*kit)
	}{
		{"Lists", (*kit).lists},
		{"UnknownVM", (*kit).unknownVM},
		{"BadRun", (*kit).badRun},
		{"PlanChangesNothing", (*kit).planChangesNothing},
		{"FrozenStandsStill", (*kit).frozenStandsStill},
		{"OneInstant", (*kit).oneInstant},
		{"OpenAgain", (*kit).openAgain},
		{"Misuse", (*kit).misuse},
		{"Files", (*kit).smallFiles},
		{"MergePending", (*kit).mergePending},
		{"MergeInterrupted", (*kit).mergeInterrupted},
		{"Tracks", (*kit).tracks},
		{"Crash", (*kit).crash},
		{"Guest", (*kit).guest},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(newKit(t, open(t))) })
	}
	t.Run("Merge", func(t *testing.T) { mergeEverywhere(t, open) })
}

// kit is one subtest: the fixture and what the kit knows of it.
type kit struct {
	*Fixture
	t     *testing.T
	ctx   context.Context
	disks []snapshot.Disk
	model map[string][]byte // what each disk must hold
	files []string
	chain string
}

func newKit(t *testing.T, f *Fixture) *kit {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	t.Cleanup(cancel)
	k := &kit{Fixture: f, t: t, ctx: ctx, model: map[string][]byte{}}
	vm := k.find()
	for _, d := range vm.Disks {
		k.model[d.Name] = f.Content(t, d.Name)
		if int64(len(k.model[d.Name])) != d.Size || d.Size < 1<<20 {
			t.Fatalf("disk %s: %d bytes, the host says %d, the kit needs 1 MiB", d.Name, len(k.model[d.Name]), d.Size)
		}
	}
	k.disks = vm.Disks
	k.files, k.chain = k.sides()
	return k
}

func (k *kit) find() snapshot.VM {
	k.t.Helper()
	vms, err := k.Host.VMs(k.ctx)
	if err != nil {
		k.t.Fatalf("VMs: %v", err)
	}
	i := slices.IndexFunc(vms, func(v snapshot.VM) bool { return v.Name == k.VM })
	if i < 0 {
		k.t.Fatalf("VMs: %q is not among %v", k.VM, vms)
	}
	return vms[i]
}

// sides is everything outside the disks that a snapshot could change.
func (k *kit) sides() (files []string, chain string) {
	k.t.Helper()
	files = slices.Sorted(slices.Values(k.Fixture.Files(k.t)))
	if k.Chain != nil {
		chain = k.Chain(k.t)
	}
	return files, chain
}

// asBefore fails unless files and chain are as at the start and every disk holds
// what the model says.
func (k *kit) asBefore() {
	k.t.Helper()
	files, chain := k.sides()
	if d := cmp.Diff(k.files, files); d != "" {
		k.t.Errorf("files (-before +after):\n%s", d)
	}
	if d := cmp.Diff(k.chain, chain); d != "" {
		k.t.Errorf("chain (-before +after):\n%s", d)
	}
	k.content()
}

func (k *kit) content() {
	k.t.Helper()
	for _, d := range k.disks {
		same(k.t, "disk "+d.Name, k.model[d.Name], k.Content(k.t, d.Name))
	}
}

func same(t testing.TB, what string, want, got []byte) {
	t.Helper()
	if bytes.Equal(want, got) {
		return
	}
	if len(want) != len(got) {
		t.Errorf("%s: %d bytes, want %d", what, len(got), len(want))
		return
	}
	for i := range want {
		if want[i] != got[i] {
			t.Errorf("%s: byte %d is %#x, want %#x", what, i, got[i], want[i])
			return
		}
	}
}

// write writes as the guest and notes it in the model. It does nothing to a VM
// that is off.
func (k *kit) write(fill byte) {
	k.t.Helper()
	if k.Fixture.Write == nil {
		return
	}
	for _, d := range k.disks {
		for _, r := range places(d.Size) {
			if err := k.Fixture.Write(d.Name, r[0], r[1], fill); err != nil {
				k.t.Fatalf("write to %s as the guest: %v", d.Name, err)
			}
			copy(k.model[d.Name][r[0]:], bytes.Repeat([]byte{fill}, int(r[1])))
		}
		fill++
	}
}

// places are ranges at the borders of a disk and across borders of clusters.
func places(size int64) [][2]int64 {
	middle := size / 2 &^ 65535
	return [][2]int64{{0, 4096}, {65536 - 4096, 8192}, {middle, 131072}, {size - 4096, 4096}}
}

func (k *kit) plan(run string) snapshot.Plan {
	k.t.Helper()
	p, err := k.Host.Plan(k.ctx, k.VM, run)
	if err != nil {
		k.t.Fatalf("Plan: %v", err)
	}
	return journaled(k.t, p)
}

// journaled is the plan as another process would read it.
func journaled(t testing.TB, p snapshot.Plan) snapshot.Plan {
	t.Helper()
	b, err := json.Marshal(p)
	if err != nil {
		t.Fatalf("marshal plan: %v", err)
	}
	var back snapshot.Plan
	if err := json.Unmarshal(b, &back); err != nil {
		t.Fatalf("unmarshal plan: %v", err)
	}
	again, err := json.Marshal(back)
	if err != nil || !bytes.Equal(b, again) {
		t.Fatalf("a plan changes in JSON (%v):\n%s\n%s", err, b, again)
	}
	return back
}

func (k *kit) prepare(p snapshot.Plan) {
	k.t.Helper()
	if err := k.Host.Prepare(k.ctx, p); err != nil {
		k.t.Fatalf("Prepare: %v", err)
	}
}

func (k *kit) take(p snapshot.Plan) {
	k.t.Helper()
	if err := k.Host.Take(k.ctx, p); err != nil {
		k.t.Fatalf("Take: %v", err)
	}
}

func (k *kit) open(p snapshot.Plan) snapshot.Frozen {
	k.t.Helper()
	f, err := k.Host.Open(k.ctx, p)
	if err != nil {
		k.t.Fatalf("Open: %v", err)
	}
	return f
}

func (k *kit) merge(p snapshot.Plan) {
	k.t.Helper()
	if err := k.Host.Merge(k.ctx, p); err != nil {
		k.t.Fatalf("Merge: %v", err)
	}
}

func (k *kit) close(f snapshot.Frozen) {
	k.t.Helper()
	if err := f.Close(); err != nil {
		k.t.Fatalf("close frozen disks: %v", err)
	}
}

func wantErr(t testing.TB, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: got %v, want %v", what, err, want)
	}
}
