package qemu

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lull-backup/lull/snapshot/wipe/wipetest"
)

// wiped is a run whose deltas are on a device of their own, and to be wiped, with a
// secret of the guest in them.
func wiped(t *testing.T, kind string) (*run, *wipetest.Volume) {
	t.Helper()
	v := wipetest.New(t, kind)
	r := newRun(t, rawVM(), func(vm *testVM) { vm.deltas, vm.wipe = v.Dir, true })
	r.take()
	disk := r.plan.Disks[0].Name
	r.guestWrites(disk, 1<<20, 0x5a)
	r.guestWrites(disk, 2<<20, 0x5a)
	// What the guest throws away must not be gone from lull's sight.
	if err := r.io(disk, "discard 2M 512K"); err != nil {
		t.Fatal(err)
	}
	if n := v.Holds(t, secretOf0x5a()); n < 2*2048 {
		t.Fatalf("%d blocks of the secret are on the device", n)
	}
	return r, v
}

func secretOf0x5a() []byte { return bytes.Repeat([]byte{0x5a}, 64) }

// gone proves that nothing of the secret is left, and no file.
func gone(t *testing.T, r *run, v *wipetest.Volume) {
	t.Helper()
	r.merged()
	if n := v.Holds(t, secretOf0x5a()); n != 0 {
		t.Errorf("%d blocks of the secret are left on the device", n)
	}
	entries, err := os.ReadDir(v.Dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if strings.Contains(e.Name(), "lull") {
			t.Errorf("left behind: %s", e.Name())
		}
	}
}

// Nothing of what the guest wrote is left on the device of the deltas, whoever dies when.
func TestWipe(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		kind string
		end  func(r *run)
	}{
		"merged":          {"ext4", func(*run) {}},
		"on xfs":          {"xfs", func(*run) {}},
		"pivot was seen":  {"ext4", func(r *run) { r.pivotByHand(); r.die() }},
		"QEMU is gone":    {"ext4", (*run).kill},
		"both after that": {"ext4", func(r *run) { r.pivotByHand(); r.kill(); r.die() }},
	} {
		t.Run(name, func(t *testing.T) {
			r, v := wiped(t, c.kind)
			c.end(r)
			gone(t, r, v)
		})
	}
}

// A wipe that was cut off is gone on with, by any process; and the VM runs on its image
// meanwhile.
func TestWipeContinues(t *testing.T) {
	r, v := wiped(t, "ext4")
	content, err := os.ReadFile(r.plan.Disks[0].Delta)
	if err != nil {
		t.Fatal(err)
	}
	r.merged()
	left := r.plan.Disks[0].Delta + mergedSuffix + wipedSuffix
	if err := os.WriteFile(left, content, 0o600); err != nil {
		t.Fatal(err)
	}
	if n := v.Holds(t, secretOf0x5a()); n == 0 {
		t.Fatal("nothing got to the device")
	}
	r.die()
	gone(t, r, v)
}

// The memory of a VM is wiped like its deltas, from its whole file and from one that was
// never finished.
func TestWipeState(t *testing.T) {
	t.Parallel()
	v := wipetest.New(t, "ext4")
	r := newRun(t, savedVM(), func(vm *testVM) {
		vm.boot, vm.ejected, vm.free = writingGuest(), true, 1
		vm.deltas, vm.wipe = v.Dir, true
	})
	r.ask("cont", nil, nil)
	r.goesOn()
	code := writingGuest()[:24]   // the guest runs it, in its first 32 KiB
	r.plan.Saved.Limit = 32 << 20 // of a memory that is empty mostly
	if _, err := r.host.TakeSaved(r.ctx, r.plan, untold); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(r.plan.Saved.Path); err != nil || filepath.Dir(r.plan.Saved.Path) != v.Dir {
		t.Fatalf("the state: %v", err)
	}
	if n := v.Holds(t, code); n == 0 {
		t.Fatal("the memory is not on the device")
	}
	if err := r.merge(); err != nil {
		t.Fatal(err)
	}
	if n := v.Holds(t, code); n != 0 {
		t.Errorf("the memory is in %d places on the device", n)
	}
	r.noState()
	r.goesOn()
}
