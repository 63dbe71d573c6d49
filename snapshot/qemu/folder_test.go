package qemu

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/image"
	"github.com/lull-backup/lull/snapshot/wipe/wipetest"
)

// Deltas go to the folder of the administrator's choice, with a link beside each image,
// and are merged from there whatever the configuration says by then.
func TestDeltaFolder(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(r *run){"live": (*run).die, "offline": (*run).kill} {
		t.Run(name, func(t *testing.T) {
			folder := wipetest.New(t, "ext4").Dir
			r := newRun(t, qcow2VM(), func(v *testVM) { v.deltas = folder })
			for _, d := range r.plan.Disks {
				to, err := os.Readlink(d.Link)
				if filepath.Dir(d.Delta) != folder || to != d.Delta || filepath.Dir(d.Link) != filepath.Dir(d.Path) || err != nil {
					t.Errorf("delta %s, link %s to %s, %v", d.Delta, d.Link, to, err)
				}
			}
			r.take()
			for _, d := range r.plan.Disks {
				r.guestWrites(d.Name, 1<<20, 0x61)
			}
			r.deltas = ""
			r.host.Close()
			r.host = r.testVM.host()
			_, err := r.host.Plan(r.ctx, "web", "next")
			r.wantErr(err, snapshot.ErrMergePending)
			end(r)
			if name == "offline" {
				r.lonely()
			}
			r.merged()
			for _, d := range r.plan.Disks {
				if _, err := os.Lstat(d.Link); !errors.Is(err, os.ErrNotExist) {
					t.Errorf("the link is left behind: %v", err)
				}
			}
			if left, err := os.ReadDir(folder); err != nil || len(left) > 1 { // lost+found
				t.Errorf("left in the folder: %v, %v", left, err)
			}
		})
	}
}

// lonely proves that an image whose delta is elsewhere is not taken for a whole disk.
func (r *run) lonely() {
	r.t.Helper()
	d := r.plan.Disks[0]
	host := image.NewHost([]image.VM{{Name: "web", Disks: []image.DiskSpec{{Name: "disk", Path: d.Path, Format: d.Format}}}})
	_, err := host.Plan(r.ctx, "web", "image")
	r.wantErr(err, snapshot.ErrMergePending)
}

// A folder that others may write to is none, and a file in the place of a link is not
// lull's.
func TestDeltaFolderRefused(t *testing.T) {
	folder := wipetest.New(t, "ext4").Dir
	v := mountedVM(t, rawVM(), func(v *testVM) { v.deltas = folder })
	h := v.host()
	if err := os.Chmod(folder, 0o777); err != nil {
		t.Fatal(err)
	}
	_, err := h.Plan(t.Context(), "web", "run")
	if !errors.Is(err, snapshot.ErrUnsupported) || !strings.Contains(err.Error(), folder) {
		t.Errorf("a folder for all: %v", err)
	}
	if err := os.Chmod(folder, 0o711); err != nil {
		t.Fatal(err)
	}
	p, err := h.Plan(t.Context(), "web", "run")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p.Disks[0].Link, []byte("theirs"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := h.Prepare(t.Context(), p); !errors.Is(err, snapshot.ErrExists) {
		t.Errorf("Prepare: %v", err)
	}
	if err := h.Merge(t.Context(), p); err != nil {
		t.Errorf("Merge: %v", err)
	}
	if b, err := os.ReadFile(p.Disks[0].Link); err != nil || string(b) != "theirs" {
		t.Errorf("%q, %v", b, err)
	}
}

// Neither the delta nor the image can grow: the VM stays stopped. With room under the
// delta it goes on, and with room under the image it is merged.
func TestStoppedTwice(t *testing.T) {
	t.Parallel()
	folder := wipetest.New(t, "ext4").Dir
	r := newRun(t, rawVM(), func(v *testVM) {
		smallFS(t, v.dir+"/disks", "10m")
		v.deltas, v.free, v.boot = folder, -1, writingGuest()
	})
	r.take()
	f, err := r.host.Open(r.ctx, r.plan)
	if err != nil {
		t.Fatal(err)
	}
	r.guestWrites(r.plan.Disks[0].Name, 1<<20, 0x55) // where the image has a hole
	under, beside := fill(t, folder), fill(t, r.dir+"/disks")
	r.ask("cont", nil, nil)
	r.wantErr(f.Watch(r.ctx), snapshot.ErrNoSpace)
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		err := r.merge()
		r.wantErr(err, snapshot.ErrNoSpace)
		if hint := r.hinted(err); !strings.Contains(hint, r.dir+"/disks") || !strings.Contains(hint, "stays stopped") {
			t.Errorf("the hint: %s", hint)
		}
	}
	if s := r.runState(); s != "io-error" {
		t.Errorf("the VM is %s", s)
	}
	if err := os.Remove(under); err != nil {
		t.Fatal(err)
	}
	err = r.merge()
	r.wantErr(err, snapshot.ErrNoSpace)
	if hint := r.hinted(err); !strings.Contains(hint, "runs upon it") {
		t.Errorf("the hint: %s", hint)
	}
	r.goesOn()
	if err := os.Remove(beside); err != nil {
		t.Fatal(err)
	}
	r.wantErr(r.merge(), nil)
	r.goesOn()
	if len(r.left(r.plan.Disks[0])) > 0 {
		t.Error("the delta is there")
	}
}
