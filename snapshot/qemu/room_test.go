package qemu

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/space"
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
	_, err = r.host.Reserve(r.ctx, p, snapshot.Want{}, func(why string) { t.Errorf("waits: %s", why) })
	r.wantErr(err, snapshot.ErrNoSpace)
	err = r.host.Prepare(r.ctx, p)
	r.wantErr(err, snapshot.ErrNoSpace)
	r.hinted(err)
	r.wantErr(r.host.Merge(r.ctx, p), nil)
}

// thresholds counts what QEMU says of marks that were passed, over the test's monitor.
type thresholds struct {
	r    *run
	node string
}

// set is the mark on the delta now; 0: none.
func (h thresholds) set() int64 {
	var nodes []struct {
		Node string `json:"node-name"`
		Mark int64  `json:"write_threshold"`
	}
	h.r.ask("query-named-block-nodes", args{"flat": true}, &nodes)
	for _, n := range nodes {
		if n.Node == h.node {
			return n.Mark
		}
	}
	return 0
}

// A delta has a mark all the time, set anew after each time that the guest has passed
// it, before the soft limit and before the hard one, at which the run ends.
func TestWriteThreshold(t *testing.T) {
	r := newRun(t, shape{format: snapshot.FormatRaw, bus: "virtio", disks: 1}, func(v *testVM) { v.free = -1 })
	var warned strings.Builder
	r.host.opt.Log = slog.New(slog.NewTextHandler(&warned, nil))
	r.host.opt.Space.Delta = space.Pair{Soft: space.Amount{Bytes: 1 << 20}, Hard: space.Amount{Percent: 75}}
	r.take()
	f, err := r.host.Open(r.ctx, r.plan)
	if err != nil {
		t.Fatal(err)
	}
	watched := make(chan error, 1)
	go func() { watched <- f.Watch(r.ctx) }()
	sub := r.hands.Subscribe(eventThreshold)
	defer sub.Close()
	h := thresholds{r: r, node: fileNode(r.plan.Disks[0].DeltaNode)}
	disk, hits, off := r.plan.Disks[0].Name, 0, int64(0)
	for ; off < diskSize-1<<16 && len(watched) == 0; off += 1 << 16 {
		if err := r.write(disk, off, 1<<16, byte(off>>16)); err != nil {
			t.Fatal(err)
		}
		copy(r.want[disk][off:], bytes.Repeat([]byte{byte(off >> 16)}, 1<<16))
		select {
		case e := <-sub.Events():
			var data struct {
				Node string `json:"node-name"`
			}
			if err := json.Unmarshal(e.Data, &data); err != nil || data.Node != h.node {
				t.Errorf("%s of %q, %v", e.Name, data.Node, err)
			}
			hits++
			eventually(t, "another mark", func() bool { return len(watched) > 0 || h.set() > 0 })
		default:
			eventually(t, "a mark", func() bool { return len(watched) > 0 || h.set() > 0 })
		}
	}
	err = <-watched
	r.wantErr(err, snapshot.ErrNoSpace)
	r.hinted(err)
	if hits < 3 || off < 2<<20 || off > 3<<20+1<<19 {
		t.Errorf("the run ended after %d bytes, and %d marks: %v", off, hits, err)
	}
	if !strings.Contains(warned.String(), "a delta has grown large") {
		t.Errorf("the soft limit was passed unheard: %s", warned.String())
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	r.merged()
}

// Two VMs share a file system: the sum of what they take is held against it. The second
// waits for the first, and the room of a run that could not be merged stays taken.
func TestSharedRoom(t *testing.T) {
	dir := ""
	r := newRun(t, shape{format: snapshot.FormatRaw, bus: "virtio", disks: 1}, func(v *testVM) {
		dir = v.dir + "/disks"
		smallFS(t, dir, "32m")
		v.free = 4 << 20
	})
	want := snapshot.Want{Deltas: map[string]int64{r.plan.Disks[0].Name: 6 << 20}} // and 4 MiB in the image
	never := func(why string) { t.Errorf("waits: %s", why) }
	if waited, err := r.host.Reserve(r.ctx, r.plan, want, never); waited || err != nil {
		t.Fatalf("waited %v, %v", waited, err)
	}
	other := r.plan
	other.Run = "other"
	over, cancel := context.WithTimeout(r.ctx, time.Second)
	defer cancel()
	told := ""
	wantMore := snapshot.Want{Deltas: map[string]int64{r.plan.Disks[0].Name: 16 << 20}}
	_, err := r.host.Reserve(over, other, wantMore, func(why string) { told = why })
	r.wantErr(err, context.DeadlineExceeded)
	if !strings.Contains(told, "beside the") {
		t.Errorf("told while waiting: %q", told)
	}
	second := make(chan error, 1)
	waiting := make(chan struct{})
	go func() {
		_, err := r.host.Reserve(r.ctx, other, wantMore, func(string) { close(waiting) })
		second <- err
	}()
	<-waiting
	r.host.Release(r.plan)
	r.wantErr(<-second, nil)
	r.host.Release(other)

	_, err = r.host.Reserve(r.ctx, r.plan, snapshot.Want{Deltas: map[string]int64{r.plan.Disks[0].Name: 40 << 20}}, never)
	r.wantErr(err, snapshot.ErrNoSpace)
	r.hinted(err)
	if !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), "are missing") {
		t.Errorf("the refusal: %v", err)
	}
}

// What a VM has written since it was started, and for how long, is QEMU's word.
func TestWritten(t *testing.T) {
	r := newRun(t, rawVM(), func(*testVM) {})
	disk := r.plan.Disks[0].Name
	if err := r.write(disk, 0, 1<<20, 7); err != nil {
		t.Fatal(err)
	}
	bytes, over, err := r.host.Written(r.ctx, r.plan)
	if err != nil || bytes[disk] < 0 || len(bytes) != len(r.plan.Disks) || over <= 0 || over > time.Hour {
		t.Errorf("%v in %s, %v", bytes, over, err)
	}
	r.take()
	r.guestWrites(disk, 0, 0x33)
	if takes := r.host.Deltas(r.plan); takes[disk] < 1<<16 {
		t.Errorf("the deltas take %v", takes)
	}
	r.merged()
}

// A file system is looked at once for all the disks on it, as the folder for deltas
// is when it is still to be made.
func TestRooms(t *testing.T) {
	dir := t.TempDir()
	p := snapshot.Plan{Disks: []snapshot.DiskPlan{{Delta: dir + "/a"}, {Delta: dir + "/not/there/b"}}}
	for free, want := range map[int64]error{1: nil, 1 << 60: snapshot.ErrNoSpace, -1: nil} {
		h := NewHost(nil, Options{Space: space.LeaveFree(free)})
		if list, err := h.opt.Space.Demands(p, snapshot.Want{}); err != nil || len(list) > 1 {
			t.Errorf("%d: %+v, %v", free, list, err)
		}
		if err := h.enough(p); !errors.Is(err, want) {
			t.Errorf("%d: %v", free, err)
		}
	}
}
