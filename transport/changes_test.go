package transport_test

import (
	"context"
	"maps"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/transport"
	"github.com/lull-backup/lull/transport/block"
	"github.com/lull-backup/lull/transport/repo"
)

// counted counts what is asked of a disk.
type counted struct {
	*disk
	bytes, mapped atomic.Int64
}

func (c *counted) ReadAt(ctx context.Context, p []byte, off int64) error {
	c.bytes.Add(int64(len(p)))
	return c.disk.ReadAt(ctx, p, off)
}

func (c *counted) Extents(ctx context.Context, off, length int64) ([]snapshot.Extent, error) {
	c.mapped.Add(length)
	return c.disk.Extents(ctx, off, length)
}

// next stores the point that follows, with what is said to have changed.
func next(t *testing.T, r *repo.Repository, d *disk, o transport.Options) (transport.Stored, *counted) {
	t.Helper()
	s, err := r.Begin(t.Context(), "lab/web", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	parent, err := s.Parent()
	if err != nil || len(parent.Disks) != 1 {
		t.Fatalf("parent with %d disks, %v", len(parent.Disks), err)
	}
	c := &counted{disk: d}
	progress := atomic.Int64{}
	o.Progress = func(n int64) { progress.Add(n) }
	got, err := transport.Backup(t.Context(), s, c, &parent.Disks[0].Root, o)
	if err != nil {
		t.Fatal(err)
	}
	if progress.Load() != d.size {
		t.Errorf("progress of %d bytes on a disk of %d", progress.Load(), d.size)
	}
	if _, err := s.Commit(t.Context(), repo.Point{VM: "lab/web", Disks: []repo.Disk{{Root: got.Root}}}); err != nil {
		t.Fatal(err)
	}
	back := &disk{size: d.size, data: map[int64][]byte{}}
	if err := transport.Restore(t.Context(), r, got.Root, back, transport.Options{}); err != nil {
		t.Fatal(err)
	}
	wantSame(t, d, back)
	return got, c
}

func changes(t *testing.T, size int64, offs ...int64) *snapshot.ChangeSet {
	t.Helper()
	set, err := snapshot.NewChangeSet(size, 64<<10)
	if err != nil {
		t.Fatal(err)
	}
	for _, off := range offs {
		set.Add(off, 1)
	}
	return set
}

const window = block.WindowSize

// tracked is a disk of many windows, some of which hold data, in a point.
func tracked(t *testing.T) (*repo.Repository, *disk) {
	t.Helper()
	r := open(t)
	d := &disk{size: 1<<40 - 4096, data: map[int64][]byte{}}
	for i := range int64(40) {
		d.data[i*1000*window] = random(10_000)
	}
	if _, err := store(t, r, d); err != nil {
		t.Fatal(err)
	}
	return r, d
}

func TestOnlyChangesAreRead(t *testing.T) {
	r, d := tracked(t)
	d.data[7*window+5] = random(100_000)
	d.data[d.size-4096] = random(4096)
	got, c := next(t, r, d, transport.Options{Changes: changes(t, d.size, 7*window+5, d.size-1)})
	if got.Untrue > 0 || !got.Inherited {
		t.Errorf("stored as %+v", got)
	}
	if got.Read > 6*window || c.bytes.Load() > 6*window || c.mapped.Load() > 2*window {
		t.Errorf("read %d bytes, asked for extents of %d", c.bytes.Load(), c.mapped.Load())
	}
	if got, _ := next(t, r, d, transport.Options{Changes: changes(t, d.size), Audit: true}); got.Untrue > 0 {
		t.Errorf("an audit of what is true: %+v", got)
	}
}

// What is said to be unchanged and is not comes to light: always where a disk was cut
// off and grew again, and anywhere in an audit.
func TestUntrueChanges(t *testing.T) {
	for name, c := range map[string]struct {
		happen func(d *disk)
		audit  bool
		at     int64
	}{
		"shrunk and grown": {happen: func(d *disk) {
			maps.DeleteFunc(d.data, func(off int64, _ []byte) bool { return off >= 20*1000*window })
		}, at: -1},
		"other data":     {happen: func(d *disk) { d.data[3*1000*window] = random(5000) }, audit: true, at: 3 * 1000 * window},
		"data in a hole": {happen: func(d *disk) { d.data[1] = nil; d.data[3*window+9] = random(5000) }, audit: true, at: 3 * window},
		"a hole in data": {happen: func(d *disk) { delete(d.data, 5*1000*window) }, audit: true, at: 5 * 1000 * window},
	} {
		t.Run(name, func(t *testing.T) {
			r, d := tracked(t)
			c.happen(d)
			got, _ := next(t, r, d, transport.Options{Changes: changes(t, d.size), Audit: c.audit})
			if got.Untrue == 0 || c.at >= 0 && (got.UntrueAt != c.at || got.Untrue != window) {
				t.Errorf("untrue are %d bytes from %d on, want %d", got.Untrue, got.UntrueAt, c.at)
			}
		})
	}
}

// Without a parent, or with one of another size, all is read.
func TestChangesOfNothing(t *testing.T) {
	r := open(t)
	d := &disk{size: 9 * window, data: map[int64][]byte{2 * window: random(window)}}
	if _, err := store(t, r, d); err != nil {
		t.Fatal(err)
	}
	d.size = 10 * window
	got, _ := next(t, r, d, transport.Options{Changes: changes(t, d.size)})
	if got.Read != window {
		t.Errorf("read %d bytes", got.Read)
	}
	other := &disk{size: 10 * window, data: map[int64][]byte{window: random(window)}}
	s, err := r.Begin(t.Context(), "lab/other", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	first, err := transport.Backup(t.Context(), s, other, nil, transport.Options{Changes: changes(t, other.size)})
	if err != nil || first.Inherited || first.Read != window {
		t.Errorf("stored as %+v, %v", first, err)
	}
}
