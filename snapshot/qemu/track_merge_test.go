package qemu

import (
	"bytes"
	"context"
	"os"
	"strings"
	"testing"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/nbd"
	"github.com/lull-backup/lull/snapshot/snapshottest"
)

// However a delta gets back into its image, the record holds what it brought: of a point
// that was made although its merge did not come to its end.
func TestTrackMerged(t *testing.T) {
	t.Parallel()
	for name, merge := range map[string]func(s *series){
		"with QEMU gone": func(s *series) {
			s.kill()
			s.must(s.host.Merge(s.ctx, s.plan))
			s.again()
		},
		"with QEMU on the delta": func(s *series) {
			s.kill()
			s.startWith(s.arguments([]string{s.plan.Disks[0].Delta}, snapshot.FormatQcow2))
			s.host.Close()
			s.host = s.testVM.host()
			s.must(s.host.Merge(s.ctx, s.plan))
			s.quit()
			s.again()
		},
		"after an end in the middle of a commit": func(s *series) {
			d := s.plan.Disks[0]
			s.must(note(d, stampCommit))
			s.ask("block-commit", args{"job-id": commitJob(d.DeltaNode), "device": d.DeltaNode, "base-node": d.Node, "speed": 65536}, nil)
			s.quit()
			s.must(s.host.Merge(s.ctx, s.plan))
			s.again()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSeries(t, trackedShapes()[0])
			s.point()
			s.guestWrites(3*mib, 4096)
			c := s.freeze()
			s.wants(c, 3*mib)
			s.guestWrites(mib, 4096)
			s.guestWrites(2*mib, 4096)
			merge(s)
			s.since[s.disk] = c.Record
			s.wants(s.point(), mib, 2*mib)
		})
	}
}

// A VM that was started from its image, without the delta, and whose administrator then
// chose to keep it so: the record is of the image.
func TestTrackWrongLayer(t *testing.T) {
	t.Parallel()
	s := newSeries(t, trackedShapes()[0])
	s.point()
	c := s.freeze()
	s.guestWrites(mib, 4096) // into the delta
	s.kill()
	s.again()
	s.guestWrites(2*mib, 4096) // into the image
	s.must(os.Remove(s.plan.Disks[0].Delta))
	s.must(s.host.Merge(s.ctx, s.plan))
	s.since[s.disk] = c.Record
	s.wants(s.point(), 2*mib)
}

// The image goes back to what it was, and its record with it.
func TestTrackReverted(t *testing.T) {
	s := newSeries(t, trackedShapes()[0])
	s.point()
	s.guestWrites(mib, 4096)
	s.quit()
	shell(t, "cp", s.disks[0], s.disks[0]+".copy")
	s.again()
	s.guestWrites(2*mib, 4096)
	s.quit()
	shell(t, "cp", s.disks[0]+".copy", s.disks[0])
	s.again()
	s.wants(s.point(), mib)
}

// QEMU lets go of an image while the VM's memory is saved, and of its records.
func TestTrackSaved(t *testing.T) {
	t.Parallel()
	for _, format := range []snapshot.Format{snapshot.FormatQcow2, snapshot.FormatRaw} {
		t.Run(string(format), func(t *testing.T) {
			s := newSeries(t, shape{format: format, bus: "virtio", disks: 1})
			s.ask("eject", args{"id": "cd0", "force": true}, nil)
			s.ask("cont", nil, nil)
			saved := func(ctx context.Context, p snapshot.Plan) error {
				_, err := s.host.TakeSaved(ctx, p, untold)
				return err
			}
			c := s.take(saved)
			if c.Record == "" {
				t.Fatalf("nothing is recorded: %s", c.Reason)
			}
			s.guestWrites(mib, 4096)
			s.merge(c, true)
			s.guestWrites(2*mib, 4096)
			c = s.take(saved)
			s.wants(c, mib, 2*mib)
			s.merge(c, true)
			s.wants(s.point())
		})
	}
}

// A disk that QEMU does not take a new record for is frozen all the same.
func TestTrackRefused(t *testing.T) {
	t.Parallel()
	s := newSeries(t, trackedShapes()[0])
	c := s.take(func(ctx context.Context, p snapshot.Plan) error {
		s.ask("block-dirty-bitmap-add", args{"node": "fmt0", "name": p.Disks[0].Track.Record}, nil)
		return s.host.Take(ctx, p)
	})
	if c.Record != "" {
		t.Errorf("%s is taken for a record", c.Record)
	}
	s.merge(snapshot.Changes{}, true)
	s.full(s.point(), "")
	s.wants(s.point())
}

// What lull cannot read itself QEMU serves. Content in a file of its own can change
// behind the image's back: nothing is recorded of it.
func TestServedAndUntracked(t *testing.T) {
	s := newSeries(t, trackedShapes()[0])
	want := s.content(t, s.disk)
	s.quit()
	shell(t, "qemu-img", "convert", "-O", "qcow2", "-o", "data_file="+s.dir+"/disks/data.raw", s.disks[0], s.disks[0]+".new")
	s.must(os.Rename(s.disks[0]+".new", s.disks[0]))
	s.again()
	c := s.freeze()
	if c.Record != "" || c.Since != nil || !strings.Contains(c.Reason, "data file") {
		t.Errorf("changes: %+v", c)
	}
	f, err := s.host.Open(s.ctx, s.plan)
	s.must(err)
	src, err := f.Disk(s.ctx, s.disk)
	s.must(err)
	if _, served := src.(*nbd.Client); !served {
		t.Errorf("read by %T", src)
	}
	if !bytes.Equal(snapshottest.ReadAll(s.ctx, t, src), want) {
		t.Error("the frozen disk is not what it was")
	}
	s.must(f.Close())
	s.merge(c, true)
}
