package snapshottest

import (
	"bytes"
	"context"
	"testing"

	"github.com/lull-backup/lull/snapshot"
)

// step is how much the kit asks about at a time; odd, so that answers have to be
// clipped.
const step = 1<<20 - 12288

// ReadAll reads a source whole, the way a backup does: extents first, then what
// is not zero. It fails the test where extents leave gaps, overlap or lie.
func ReadAll(ctx context.Context, t testing.TB, s snapshot.Source) []byte {
	t.Helper()
	out := make([]byte, s.Size())
	for off := int64(0); off < s.Size(); off += step {
		n := min(step, s.Size()-off)
		extents, err := s.Extents(ctx, off, n)
		if err != nil {
			t.Fatalf("Extents(%d, %d): %v", off, n, err)
		}
		at := off
		for _, e := range extents {
			if e.Offset != at || e.Length <= 0 || e.Offset+e.Length > off+n {
				t.Fatalf("Extents(%d, %d): %+v does not follow %d", off, n, e, at)
			}
			at += e.Length
			readExtent(ctx, t, s, e, out[e.Offset:e.Offset+e.Length])
		}
		if at != off+n {
			t.Fatalf("Extents(%d, %d): ends at %d", off, n, at)
		}
	}
	return out
}

func readExtent(ctx context.Context, t testing.TB, s snapshot.Source, e snapshot.Extent, into []byte) {
	t.Helper()
	if err := s.ReadAt(ctx, into, e.Offset); err != nil {
		t.Fatalf("ReadAt(%d, %d): %v", e.Offset, e.Length, err)
	}
	if e.Zero && !bytes.Equal(into, make([]byte, len(into))) {
		t.Fatalf("extent %+v is said to be zero and is not", e)
	}
}

// frozen reads every disk of the plan and compares it with want.
func (k *kit) frozen(f snapshot.Frozen, want map[string][]byte) {
	k.t.Helper()
	for _, d := range k.disks {
		same(k.t, "frozen "+d.Name, want[d.Name], k.readDisk(f, d.Name))
	}
}

func (k *kit) readDisk(f snapshot.Frozen, name string) []byte {
	k.t.Helper()
	s, err := f.Disk(k.ctx, name)
	if err != nil {
		k.t.Fatalf("open frozen disk %s: %v", name, err)
	}
	defer s.Close()
	return ReadAll(k.ctx, k.t, s)
}

// Copy is what the disks hold at this instant.
func (k *kit) Copy() map[string][]byte {
	m := map[string][]byte{}
	for name, b := range k.model {
		m[name] = bytes.Clone(b)
	}
	return m
}
