package transport_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/transport"
	"github.com/lull-backup/lull/transport/block"
	"github.com/lull-backup/lull/transport/repo"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// disk is a source, and a target, of some data at some places.
type disk struct {
	size    int64
	mu      sync.Mutex
	data    map[int64][]byte // by offset; everything else is zeros
	extents func([]snapshot.Extent) []snapshot.Extent
	fail    error // of ReadAt
}

func (d *disk) Size() int64   { return d.size }
func (d *disk) Close() error  { return nil }
func (d *disk) Commit() error { return nil }
func (d *disk) Abort() error  { return nil }

func (d *disk) Extents(_ context.Context, off, length int64) ([]snapshot.Extent, error) {
	var all []snapshot.Extent
	at, end := off, off+length
	for _, from := range d.offsets() {
		lo, hi := max(from, at), min(from+int64(len(d.data[from])), end)
		if lo >= hi {
			continue
		}
		if lo > at {
			all = append(all, snapshot.Extent{Offset: at, Length: lo - at, Zero: true})
		}
		all = append(all, snapshot.Extent{Offset: lo, Length: hi - lo})
		at = hi
	}
	if at < end {
		all = append(all, snapshot.Extent{Offset: at, Length: end - at, Zero: true})
	}
	if d.extents != nil {
		all = d.extents(all)
	}
	return all, nil
}

func (d *disk) offsets() []int64 {
	var all []int64
	for off := range d.data {
		all = append(all, off)
	}
	slices.Sort(all)
	return all
}

func (d *disk) ReadAt(_ context.Context, p []byte, off int64) error {
	clear(p)
	for from, b := range d.data {
		if from < off+int64(len(p)) && off < from+int64(len(b)) {
			copy(p[max(from-off, 0):], b[max(off-from, 0):])
		}
	}
	return d.fail
}

func (d *disk) WriteAt(_ context.Context, p []byte, off int64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if off < 0 || off+int64(len(p)) > d.size {
		return fmt.Errorf("%d bytes at %d of %d", len(p), off, d.size)
	}
	d.data[off] = bytes.Clone(p)
	return nil
}

func random(size int) []byte {
	b := make([]byte, size)
	rng := rand.NewChaCha8([32]byte{1})
	rng.Read(b)
	return b
}

func open(t *testing.T) *repo.Repository {
	t.Helper()
	return openStore(t, newStore(t), repo.OpenOptions{Passphrase: []byte("x")})
}

func store(t *testing.T, r *repo.Repository, d *disk) (transport.Stored, error) {
	t.Helper()
	s, err := r.Begin(t.Context(), "lab/web", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	got, err := transport.Backup(t.Context(), s, d, nil, transport.Options{})
	if err != nil {
		return got, err
	}
	_, err = s.Commit(t.Context(), repo.Point{VM: "lab/web", Disks: []repo.Disk{{Root: got.Root}}})
	return got, err
}

// Disks come back whatever their size, and wherever their data lies.
func TestRoundTrip(t *testing.T) {
	const w = block.WindowSize
	for _, d := range []*disk{
		{size: 0},
		{size: 1, data: map[int64][]byte{0: {7}}},
		{size: 512 * 9, data: map[int64][]byte{512: random(512 * 8)}},
		{size: 3*w + 4096 + 512, data: map[int64][]byte{0: random(100), w - 1: random(2), 3 * w: random(4096 + 512)}},
		{size: 2*w - 1, data: map[int64][]byte{w/2 + 5: random(w + 1000)}},
		{size: 16 << 40, data: map[int64][]byte{0: random(4096), 9<<40 + 777: random(w), 16<<40 - 10: random(10)}},
	} {
		r := open(t)
		got, err := store(t, r, d)
		if err != nil {
			t.Fatalf("%d bytes: %v", d.size, err)
		}
		back := &disk{size: d.size, data: map[int64][]byte{}}
		if err := transport.Restore(t.Context(), r, got.Root, back, transport.Options{}); err != nil {
			t.Fatalf("%d bytes: %v", d.size, err)
		}
		wantSame(t, d, back)
	}
}

// wantSame compares wherever either disk has data.
func wantSame(t *testing.T, a, b *disk) {
	t.Helper()
	for _, d := range []*disk{a, b} {
		for off, data := range d.data {
			one, two := make([]byte, len(data)), make([]byte, len(data))
			if err := errors.Join(a.ReadAt(t.Context(), one, off), b.ReadAt(t.Context(), two, off)); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(one, two) {
				t.Errorf("disk of %d bytes differs in %d bytes at %d", a.size, len(data), off)
			}
		}
	}
}

// A source that leaves a gap would lose the guest's data in silence.
func TestExtentsMustTile(t *testing.T) {
	for name, lie := range map[string]func([]snapshot.Extent) []snapshot.Extent{
		"nothing":  func([]snapshot.Extent) []snapshot.Extent { return nil },
		"no start": func(e []snapshot.Extent) []snapshot.Extent { return e[1:] },
		"no end":   func(e []snapshot.Extent) []snapshot.Extent { return e[:len(e)-1] },
		"gap":      func(e []snapshot.Extent) []snapshot.Extent { return slices.Delete(e, 1, 2) },
		"overlap":  func(e []snapshot.Extent) []snapshot.Extent { e[1].Offset--; e[1].Length++; return e },
		"too long": func(e []snapshot.Extent) []snapshot.Extent { e[len(e)-1].Length++; return e },
		"empty":    func(e []snapshot.Extent) []snapshot.Extent { return append(e, snapshot.Extent{Offset: 1 << 20}) },
	} {
		d := &disk{size: 1 << 20, data: map[int64][]byte{4096: random(8192), 1 << 19: random(100)}, extents: lie}
		if _, err := store(t, open(t), d); err == nil || !strings.Contains(err.Error(), "extent") {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

func TestReadFails(t *testing.T) {
	broken := errors.New("broken")
	d := &disk{size: 40 << 20, data: map[int64][]byte{0: random(40 << 20)}, fail: broken}
	if _, err := store(t, open(t), d); !errors.Is(err, broken) {
		t.Errorf("%v, want %v", err, broken)
	}
}
