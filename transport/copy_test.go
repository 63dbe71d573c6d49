package transport_test

import (
	"bytes"
	"context"
	"testing"
	"time"

	"github.com/lull-backup/lull/transport"
	"github.com/lull-backup/lull/transport/block"
	"github.com/lull-backup/lull/transport/repo"
)

// point backs a disk up as a point of lab/web.
func point(t *testing.T, r *repo.Repository, d *disk, at time.Time) repo.Point {
	t.Helper()
	s, err := r.Begin(t.Context(), "lab/web", at)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	got, err := transport.Backup(t.Context(), s, d, nil, transport.Options{})
	if err != nil {
		t.Fatal(err)
	}
	p := repo.Point{VM: "lab/web", Frozen: at, Disks: []repo.Disk{{Root: got.Root}}}
	p.Disks[0].Name = "root"
	if p, err = s.Commit(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	return p
}

// Copies keep id, time, content and origin; the second sends and reads what changed
// only; a disk restored from either repository is the same.
func TestCopy(t *testing.T) {
	const w = block.WindowSize
	from, to := open(t), open(t)
	at := time.Date(2026, 11, 21, 1, 30, 0, 500e6, time.UTC)
	d := &disk{size: 20*w + 512, data: map[int64][]byte{0: random(2 * w), 7 * w: random(4096), 20 * w: random(512)}}
	first := point(t, from, d, at)
	changed := random(8192)
	for i := range changed {
		changed[i] ^= 0x55
	}
	d2 := &disk{size: d.size, data: map[int64][]byte{0: bytes.Clone(d.data[0]), 7 * w: d.data[7*w], 20 * w: d.data[20*w]}}
	copy(d2.data[0][w+4096:], changed)
	second := point(t, from, d2, at.Add(time.Hour))

	var earlier []repo.Point
	var read int64
	for i, p := range []repo.Point{first, second} {
		read = 0
		got, err := transport.Copy(t.Context(), from, to, p, earlier, transport.Options{Progress: func(n int64) { read += n }, Workers: 1})
		if err != nil {
			t.Fatal(err)
		}
		earlier = append(earlier, p)
		if got.ID != p.ID || !got.Frozen.Equal(p.Frozen) || got.Origin == nil || got.Origin.Point != p.ID || got.Origin.Repository != from.ID().String() {
			t.Errorf("copy %d: %+v", i, got)
		}
		if got.Disks[0].Root.Data != p.Disks[0].Root.Data || got.Disks[0].Root.Node == p.Disks[0].Root.Node {
			t.Errorf("root %+v of %+v", got.Disks[0].Root, p.Disks[0].Root)
		}
		want := []*disk{d, d2}[i]
		back := &disk{size: d.size, data: map[int64][]byte{}}
		if err := transport.Restore(t.Context(), to, got.Disks[0].Root, back, transport.Options{}); err != nil {
			t.Fatal(err)
		}
		wantSame(t, want, back)
		if i == 1 && (read != w || got.Stats.New == 0 || got.Stats.New > 1<<20 || got.Parent != first.ID) {
			t.Errorf("second copy read %d bytes, stored %d new, parent %s", read, got.Stats.New, got.Parent)
		}
	}
	if _, err := transport.Copy(t.Context(), from, to, second, earlier, transport.Options{}); err == nil {
		t.Error("there are two copies of one point")
	}
	report, err := to.Check(context.WithoutCancel(t.Context()), repo.CheckOptions{ReadAll: true})
	if err != nil || len(report.Problems) > 0 || report.Points != 2 {
		t.Errorf("%+v, %v", report, err)
	}
}
