package qemu

import (
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lull-backup/lull/snapshot"
)

// fillBut leaves so many bytes free.
func fillBut(t *testing.T, dir string, free int64) {
	t.Helper()
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(dir + "/filler")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Fallocate(int(f.Fd()), 0, 0, int64(s.Bavail)*s.Bsize-free); err != nil {
		t.Fatal(err)
	}
}

// A run ends, and its deltas are merged, before QEMU has to stop the VM; none
// begins where it would have to end at once.
func TestRoomRunsOut(t *testing.T) {
	dir := ""
	r := newRun(t, shape{format: snapshot.FormatRaw, bus: "virtio", disks: 1}, func(v *testVM) {
		dir = v.dir + "/disks"
		smallFS(t, dir, "32m") // a quarter stays free
		v.boot = writingGuest()
	})
	r.ask("cont", nil, nil)
	r.take()
	f, err := r.host.Open(r.ctx, r.plan)
	if err != nil {
		t.Fatal(err)
	}
	fillBut(t, dir, 8<<20)
	err = f.Watch(r.ctx)
	r.wantErr(err, snapshot.ErrNoSpace)
	r.hinted(err)
	var s struct{ Status string }
	if r.ask("query-status", nil, &s); s.Status != "running" {
		t.Errorf("the VM is %s", s.Status)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	r.wantErr(r.merge(), nil)
	r.goesOn()

	p, err := r.host.Plan(r.ctx, "web", "next")
	if err != nil {
		t.Fatal(err)
	}
	err = r.host.Prepare(r.ctx, p)
	r.wantErr(err, snapshot.ErrNoSpace)
	r.hinted(err)
	r.wantErr(r.host.Merge(r.ctx, p), nil)
}

// A file system is looked at once for all the disks on it, as the folder for deltas
// is when it is still to be made.
func TestRooms(t *testing.T) {
	dir := t.TempDir()
	p := snapshot.Plan{Disks: []snapshot.DiskPlan{{Delta: dir + "/a"}, {Delta: dir + "/not/there/b"}}}
	for free, want := range map[int64]error{1: nil, 1 << 60: snapshot.ErrNoSpace, -1: nil} {
		h := NewHost(nil, Options{MinFree: free})
		if list, err := h.rooms(p); err != nil || len(list) > 1 {
			t.Errorf("%d: %+v, %v", free, list, err)
		}
		if err := h.enough(p); !errors.Is(err, want) {
			t.Errorf("%d: %v", free, err)
		}
	}
}
