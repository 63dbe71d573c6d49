package qemu

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lull-backup/lull/snapshot"
)

// series makes restore points of a VM as a run of the agent does, one upon the other.
type series struct {
	*testVM
	t     *testing.T
	ctx   context.Context
	host  *Host
	name  string
	runs  int
	disk  string            // its first
	since map[string]string // what the last point says
	plan  snapshot.Plan
}

func newSeries(t *testing.T, s shape) *series {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	t.Cleanup(cancel)
	v := newVM(t, s)
	return &series{testVM: v, t: t, ctx: ctx, host: v.host(), name: "repository web", disk: diskName(v.blocks()[0], 0, map[string]bool{})}
}

// again starts QEMU anew and, as the agent may have been as well, the host.
func (s *series) again() {
	s.t.Helper()
	s.start(s.disks)
	s.host.Close()
	s.host = s.testVM.host()
}

// quit ends QEMU in peace.
func (s *series) quit() {
	s.t.Helper()
	s.ask("quit", nil, nil)
	<-s.ended
	s.hands.Close()
}

func (s *series) guestWrites(off, length int64) {
	s.t.Helper()
	if err := s.write(s.disk, off, length, 0x42); err != nil {
		s.t.Fatal(err)
	}
}

func (s *series) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// freeze goes as far as a frozen disk and returns what changed on it.
func (s *series) freeze() snapshot.Changes {
	s.t.Helper()
	return s.take(s.host.Take)
}

func (s *series) take(take func(context.Context, snapshot.Plan) error) snapshot.Changes {
	s.t.Helper()
	s.runs++
	var err error
	s.plan, err = s.host.Plan(s.ctx, "web", fmt.Sprintf("20261122T0000%02dZ-12345678", s.runs))
	s.must(err)
	s.plan, err = s.host.Track(s.ctx, s.plan, s.name, s.since)
	s.must(err)
	s.must(s.host.Prepare(s.ctx, s.plan))
	s.must(take(s.ctx, s.plan))
	return s.look()
}

func (s *series) look() snapshot.Changes {
	s.t.Helper()
	f, err := s.host.Open(s.ctx, s.plan)
	s.must(err)
	c, err := f.(snapshot.FrozenChanges).Changes(s.ctx, s.disk)
	s.must(err)
	s.must(f.Close())
	if left, err := filepath.Glob(s.dir + "/disks/*" + mapSuffix); err != nil || len(left) > 0 {
		s.t.Errorf("left: %v, %v", left, err)
	}
	return c
}

// merge ends the run. A point that was made says which record began with it.
func (s *series) merge(c snapshot.Changes, committed bool) {
	s.t.Helper()
	s.must(s.host.Merge(s.ctx, s.plan))
	if committed {
		s.since = map[string]string{s.disk: c.Record}
	}
	s.must(s.host.Settle(s.ctx, s.plan, s.since))
}

// point is a whole run.
func (s *series) point() snapshot.Changes {
	s.t.Helper()
	c := s.freeze()
	s.merge(c, true)
	return c
}

// bitmaps are the records on the disk.
func (s *series) bitmaps() []string {
	s.t.Helper()
	var names []string
	for _, b := range s.blocks()[0].Inserted.Bitmaps {
		names = append(names, b.Name)
	}
	return names
}

func (s *series) wants(c snapshot.Changes, offs ...int64) {
	s.t.Helper()
	if c.Record == "" {
		s.t.Error("nothing is recorded from here on")
	}
	if c.Since == nil {
		s.t.Fatalf("all is to be read: %s", c.Reason)
	}
	want, err := snapshot.NewChangeSet(diskSize, minGrain)
	s.must(err)
	for _, off := range offs {
		want.Add(off, minGrain)
	}
	for off := int64(0); off < diskSize; off += minGrain {
		if c.Since.Any(off, minGrain) != want.Any(off, minGrain) {
			s.t.Errorf("at %d KiB: changed is %v", off>>10, c.Since.Any(off, minGrain))
		}
	}
}

// full wants that all is read, for a reason in which there are these words, and that
// the next run knows again.
func (s *series) full(c snapshot.Changes, words string) {
	s.t.Helper()
	if c.Since != nil || !strings.Contains(c.Reason, words) || c.Record == "" {
		s.t.Errorf("changed: %v, reason %q instead of %q, record %q", c.Since != nil, c.Reason, words, c.Record)
	}
}

const mib = 1 << 20

func trackedShapes() []shape {
	return []shape{
		{format: snapshot.FormatQcow2, bus: "virtio", disks: 1},
		{format: snapshot.FormatQcow2, bus: "scsi", disks: 1, backing: true},
		{format: snapshot.FormatQcow2, drive: true, bus: "virtio", disks: 1, served: true},
		{format: snapshot.FormatQcow2, compat: "0.10", bus: "virtio", disks: 1},
		{format: snapshot.FormatRaw, bus: "virtio", disks: 1},
		{format: snapshot.FormatRaw, bus: "virtio", disks: 1, served: true},
		{format: snapshot.FormatVMDK, bus: "virtio", disks: 1},
		{format: snapshot.FormatQcow2, bus: "iothread", disks: 1, backing: true},
		{format: snapshot.FormatRaw, bus: "iothread", disks: 1},
	}
}

// Points one upon the other, with writes at every moment, and runs that fail.
func TestTrack(t *testing.T) {
	t.Parallel()
	for _, shape := range trackedShapes() {
		t.Run(shape.String(), func(t *testing.T) {
			t.Parallel()
			s := newSeries(t, shape)
			c := s.point()
			if c.Since != nil || c.Record == "" {
				t.Fatalf("the first point: %+v", c)
			}
			s.guestWrites(mib, 4096)
			c = s.freeze()
			s.wants(c, mib)
			s.guestWrites(2*mib, 4096) // into the delta
			s.wants(s.look(), mib)     // as it was when it froze
			s.merge(c, true)
			s.guestWrites(3*mib, 4096)

			c = s.freeze() // this run fails
			s.wants(c, 2*mib, 3*mib)
			s.guestWrites(0, 4096)
			s.merge(c, false)

			s.must(s.io(s.disk, "write -z -u 3538944 65536"))
			c = s.freeze()
			s.wants(c, 0, 2*mib, 3*mib, 3538944)
			s.merge(c, true)
			if names := s.bitmaps(); len(names) != 1 || names[0] != c.Record {
				t.Errorf("records: %v", names)
			}
			s.wants(s.point())
		})
	}
}

// A run that was cut off settles nothing. The next one does.
func TestTrackCutOff(t *testing.T) {
	s := newSeries(t, trackedShapes()[0])
	s.point()
	s.guestWrites(mib, 4096)
	s.freeze()
	s.must(s.host.Merge(s.ctx, s.plan))
	if n := len(s.bitmaps()); n != 2 {
		t.Fatalf("%d records", n)
	}
	c := s.freeze()
	s.wants(c, mib)
	s.merge(c, true)
	if names := s.bitmaps(); len(names) != 1 {
		t.Errorf("records: %v", names)
	}
}

// What a persistent record lives through, and what is left of any other.
func TestTrackRestart(t *testing.T) {
	t.Parallel()
	t.Run("qcow2", func(t *testing.T) {
		s := newSeries(t, trackedShapes()[0])
		s.point()
		s.guestWrites(mib, 4096)
		s.quit()
		shell(t, "qemu-io", "-c", "write -P 3 2M 4k", s.disks[0])
		s.again()
		s.wants(s.point(), mib, 2*mib)
	})
	for name, image := range map[string]shape{
		"raw":             {format: snapshot.FormatRaw, bus: "virtio", disks: 1},
		"qcow2 version 2": {format: snapshot.FormatQcow2, compat: "0.10", bus: "virtio", disks: 1},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSeries(t, image)
			s.point()
			s.quit()
			s.again()
			s.full(s.point(), "QEMU was started anew")
			s.wants(s.point())
		})
	}
}

// Whatever makes a record untrue leads to a full read, and to a new record.
func TestTrackUntrue(t *testing.T) {
	t.Parallel()
	one, based := trackedShapes()[0], trackedShapes()[1]
	for name, c := range map[string]struct {
		shape  shape
		happen func(s *series)
		reason string
	}{
		"QEMU was killed": {one, func(s *series) { s.guestWrites(mib, 4096); s.kill(); s.again() }, "crashed"},
		"QEMU was killed in the middle of a commit": {one, func(s *series) {
			s.freeze()
			s.guestWrites(mib, mib)
			d := s.plan.Disks[0]
			s.must(note(d, stampCommit))
			s.ask("block-commit", args{"job-id": "c", "device": d.DeltaNode, "base-node": d.Node, "speed": 1000}, nil)
			s.kill()
			s.must(s.host.Merge(s.ctx, s.plan))
			s.again()
		}, "crashed"},
		"QEMU was killed after a commit that somebody had cancelled": {one, func(s *series) {
			s.freeze()
			s.guestWrites(mib, mib)
			d := s.plan.Disks[0]
			s.must(note(d, stampCommit))
			s.ask("block-commit", args{"job-id": "c", "device": d.DeltaNode, "base-node": d.Node}, nil)
			s.awaits("ready")
			s.ask("block-job-cancel", args{"device": "c"}, nil)
			s.awaits("")
			s.kill()
			s.must(s.host.Merge(s.ctx, s.plan))
			s.again()
		}, "crashed"},
		"a program without bitmaps wrote": {one, func(s *series) {
			s.quit()
			clearAutoclear(s.t, s.disks[0])
			s.again()
		}, "lost the record"},
		"another image in its place": {one, func(s *series) {
			s.quit()
			shell(s.t, "cp", s.disks[0], s.disks[0]+".copy")
			shell(s.t, "mv", s.disks[0]+".copy", s.disks[0])
			s.again()
		}, "replaced"},
		"an older copy of the image": {one, func(s *series) {
			s.quit()
			shell(s.t, "cp", s.disks[0], s.disks[0]+".copy")
			s.again()
			s.point()
			s.quit()
			shell(s.t, "cp", s.disks[0]+".copy", s.disks[0]) // the same inode
			s.again()
		}, "lost the record"},
		"the image below was written to": {based, func(s *series) {
			s.quit()
			shell(s.t, "qemu-io", "-c", "write -P 9 1M 4k", s.plan.Disks[0].Chain[1].Path)
			s.again()
		}, "below it"},
		"another image below": {based, func(s *series) {
			s.quit()
			other := s.dir + "/disks/other.qcow2"
			shell(s.t, "qemu-img", "create", "-q", "-f", "qcow2", other, fmt.Sprint(diskSize))
			shell(s.t, "qemu-img", "rebase", "-u", "-b", other, "-F", "qcow2", s.disks[0])
			s.again()
		}, "below it"},
		"another layer above": {one, func(s *series) {
			shell(s.t, "qemu-img", "create", "-q", "-f", "qcow2", "-b", s.disks[0], "-F", "qcow2", "-u", s.dir+"/disks/top.qcow2", fmt.Sprint(diskSize))
			s.ask("blockdev-add", args{"driver": "qcow2", "node-name": "top", "backing": nil,
				"file": args{"driver": "file", "filename": s.dir + "/disks/top.qcow2"}}, nil)
			s.ask("blockdev-snapshot", args{"node": "fmt0", "overlay": "top"}, nil)
			// As libvirt does: it carries every bitmap over, empty.
			s.ask("block-dirty-bitmap-add", args{"node": "top", "name": s.since[s.disk], "persistent": true}, nil)
		}, "replaced"},
		"someone disabled it": {one, func(s *series) {
			s.ask("block-dirty-bitmap-disable", args{"node": "fmt0", "name": s.since[s.disk]}, nil)
		}, "disabled"},
		"someone removed it": {one, func(s *series) {
			s.ask("block-dirty-bitmap-remove", args{"node": "fmt0", "name": s.since[s.disk]}, nil)
		}, "lost the record"},
		"another granularity": {one, func(s *series) {
			s.ask("block-dirty-bitmap-remove", args{"node": "fmt0", "name": s.since[s.disk]}, nil)
			s.ask("block-dirty-bitmap-add", args{"node": "fmt0", "name": s.since[s.disk], "persistent": true, "granularity": 512}, nil)
		}, "not as lull makes it"},
		"the repository changed": {one, func(s *series) { s.name = "another" }, "another disk or repository"},
		"the point is forgotten": {one, func(s *series) {
			old := s.since
			s.point()
			s.since = old
		}, "lost the record"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSeries(t, c.shape)
			s.point()
			c.happen(s)
			s.full(s.point(), c.reason)
			s.wants(s.point())
		})
	}
}

// awaits waits until QEMU's one job has a status; empty: until it is gone.
func (s *series) awaits(status string) {
	s.t.Helper()
	eventually(s.t, "job "+status, func() bool {
		var jobs []job
		s.ask("query-jobs", nil, &jobs)
		return len(jobs) == 0 && status == "" || len(jobs) > 0 && jobs[0].Status == status
	})
}

// QEMU takes no image back to a snapshot inside it while there is a record, which would not
// know of that.
func TestTrackSnapshotInside(t *testing.T) {
	t.Parallel()
	s := newSeries(t, trackedShapes()[0])
	s.ask("blockdev-snapshot-internal-sync", args{"device": "fmt0", "name": "before"}, nil)
	s.point()
	s.guestWrites(mib, 4096)
	s.quit()
	out, err := exec.CommandContext(s.ctx, "qemu-img", "snapshot", "-a", "before", s.disks[0]).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "active dirty bitmaps") {
		t.Errorf("went back: %v %s", err, out)
	}
	s.again()
	s.wants(s.point(), mib)
}

// clearAutoclear does to a header what a program must that writes to the image and
// knows nothing of bitmaps.
func clearAutoclear(t *testing.T, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(make([]byte, 8), 88); err != nil {
		t.Fatal(err)
	}
}

// Two disks that changed places do not take each other's records for their own.
func TestTrackSwapped(t *testing.T) {
	t.Parallel()
	s := newSeries(t, qcow2VM())
	s.point()
	s.quit()
	s.disks[0], s.disks[1] = s.disks[1], s.disks[0]
	s.again()
	s.full(s.point(), "replaced")
}

// Two series of points of one VM have records of their own, and leave others' alone.
func TestTrackTwoSeries(t *testing.T) {
	t.Parallel()
	s := newSeries(t, trackedShapes()[0])
	for _, name := range []string{
		"theirs", "lull-0123456789abcdef-0123456789abcdef-20260101T000000Z-12345678",
		"lull-0123456789abcdef-0123456789abcdef-20200101T000000Z-12345678", // whose series has ended
	} {
		s.ask("block-dirty-bitmap-add", args{"node": "fmt0", "name": name, "persistent": true}, nil)
	}
	s.point()
	other := *s
	other.name, other.since = "elsewhere", nil
	other.point()
	s.guestWrites(mib, 4096)
	s.wants(s.point(), mib)
	s.guestWrites(2*mib, 4096)
	other.runs = 10
	other.wants(other.point(), mib, 2*mib)
	s.wants(s.point(), 2*mib)
	names := s.bitmaps()
	if len(names) != 4 || slices.ContainsFunc(names, func(name string) bool { return strings.Contains(name, "-2020") }) {
		t.Errorf("bitmaps: %v", names)
	}
}

// A map that a process left which died as it made one is in nobody's way.
func TestTrackMapLeft(t *testing.T) {
	s := newSeries(t, shape{format: snapshot.FormatRaw, bus: "virtio", disks: 1})
	s.point()
	s.guestWrites(mib, 4096)
	s.wants(s.freeze(), mib)
	d := s.plan.Disks[0]
	leave := func() {
		node := mapNode(d.DeltaNode)
		s.must(os.WriteFile(d.Track.Map, nil, 0o600))
		s.ask("blockdev-add", args{"driver": "file", "node-name": fileNode(node), "filename": d.Track.Map}, nil)
		s.ask("blockdev-create", args{"job-id": createJob(node), "options": args{"driver": "qcow2", "file": fileNode(node), "size": 512}}, nil)
	}
	leave()
	c := s.look()
	s.wants(c, mib)
	leave()
	s.merge(c, true)
	if _, err := os.Stat(d.Track.Map); !os.IsNotExist(err) {
		t.Errorf("the map is left: %v", err)
	}
	s.wants(s.point())
}
