package tree

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"runtime"
	"testing"

	"github.com/lull-backup/lull/transport/block"
)

const (
	large        = 16 << 40 // bytes
	largeWindows = int64(large / block.WindowSize)
)

// largeLeaf is the leaf of a window at some time.
func largeLeaf(window, time int64) Ref {
	b := binary.LittleEndian.AppendUint64(nil, uint64(window))
	return Ref{Name: sha256.Sum256(binary.LittleEndian.AppendUint64(b, uint64(time))), Data: block.WindowSize}
}

// largeMap is the whole map of a disk of 16 TiB: each window is set, as two readers
// do that are a few windows apart. Of its nodes, s keeps all.
func largeMap(t testing.TB, s *shelf) (root Root, peak int64) {
	t.Helper()
	b, err := NewBuilder(large, nil, s.save)
	if err != nil {
		t.Fatal(err)
	}
	before := heap()
	for w := range largeWindows {
		if err := b.Set(t.Context(), w^3, largeLeaf(w^3, 0)); err != nil {
			t.Fatal(err)
		}
		if w%(largeWindows/8) == largeWindows/16 {
			peak = max(peak, heap()-before-s.bytes())
		}
	}
	if root, err = b.Finish(t.Context()); err != nil {
		t.Fatal(err)
	}
	return root, peak
}

func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// bytes is about what the shelf takes.
func (s *shelf) bytes() (n int64) {
	for _, b := range s.nodes {
		n += int64(cap(b))
	}
	return n
}

// The map of 16 TiB is built in the memory of a few nodes; ten changed windows cost
// the nodes above them, and reading as many.
func TestMapOf16TiB(t *testing.T) {
	s := &shelf{nodes: map[block.Name][]byte{}}
	root, peak := largeMap(t, s)
	nodes := len(s.nodes)
	if want := 32768 + 256 + 2 + 1; nodes != want || root.Depth != 4 {
		t.Errorf("%d nodes of %d levels, want %d of 4", nodes, root.Depth, want)
	}
	if peak > 16<<20 { // the shelf's own table included
		t.Errorf("%d MiB of memory while the map was built", peak>>20)
	}

	parent, err := NewParent(root, s.load)
	if err != nil {
		t.Fatal(err)
	}
	b, err := NewBuilder(large, parent, s.save)
	if err != nil {
		t.Fatal(err)
	}
	const changes = 10
	s.loads = 0
	before := heap()
	next := int64(0)
	for i := range int64(changes) {
		w := i*largeWindows/changes + 77
		if err := b.Keep(next, w-next); err != nil {
			t.Fatal(err)
		}
		if err := b.Set(context.Background(), w, largeLeaf(w, 1)); err != nil {
			t.Fatal(err)
		}
		next = w + 1
	}
	if err := b.Keep(next, largeWindows-next); err != nil {
		t.Fatal(err)
	}
	now, err := b.Finish(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if made := len(s.nodes) - nodes; made > 4*changes || now.Node == root.Node {
		t.Errorf("%d nodes for %d windows", made, changes)
	}
	if s.loads > 4*changes {
		t.Errorf("%d nodes read for %d windows", s.loads, changes)
	}
	if after := heap(); after > before+4<<20 {
		t.Errorf("%d KiB of memory for %d windows", (after-before)>>10, changes)
	}
}
