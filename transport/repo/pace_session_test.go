package repo_test

import (
	"bytes"
	"context"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lull-backup/lull/transport/blob/mem"
	"github.com/lull-backup/lull/transport/block"
	"github.com/lull-backup/lull/transport/repo"
)

// store puts a disk into a repository that compresses so.
func storeDisk(t *testing.T, store *mem.Store, c repo.Compression, disk []byte) repo.Point {
	t.Helper()
	r, err := repo.Open(t.Context(), store, repo.OpenOptions{Passphrase: passphrase, Now: clock, Compression: c})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}()
	s := begin(t, r)
	st, err := s.Stream(t.Context(), int64(len(disk)), nil)
	if err != nil {
		t.Fatal(err)
	}
	for w := range len(disk) / block.WindowSize {
		if err := st.Put(t.Context(), int64(w), disk[w*block.WindowSize:(w+1)*block.WindowSize]); err != nil {
			t.Fatal(err)
		}
	}
	return finish(t, s, st, "lab/web")
}

// What one setting has stored, every other reads and builds on.
func TestCompressionSettings(t *testing.T) {
	for _, c := range repo.Compressions() {
		t.Run(string(c), func(t *testing.T) {
			store, disk := mem.New(), image(1, 2*block.WindowSize)
			initRepo(t, store)
			p := storeDisk(t, store, c, disk)
			if p.Stats.Stored > p.Stats.New*9/10 {
				t.Errorf("stored %d bytes of %d that shrink by half", p.Stats.Stored, p.Stats.New)
			}
			if again := storeDisk(t, store, repo.Auto, disk); again.Stats.NewBlocks != 0 {
				t.Errorf("%d blocks stored again", again.Stats.NewBlocks)
			}
			back := make([]byte, len(disk))
			r := openRepo(t, store)
			err := r.ReadStream(t.Context(), p.Disks[0].Root, 1, func(_ context.Context, off int64, data []byte) error {
				copy(back[off:], data)
				return nil
			})
			if err != nil || !bytes.Equal(back, disk) {
				t.Errorf("came back otherwise: %v", err)
			}
		})
	}
	if _, err := repo.Open(t.Context(), mem.New(), repo.OpenOptions{Compression: "lz4"}); err == nil {
		t.Error("lz4 taken")
	}
}

// By this clock a segment takes a second to compress, and its worker then waits for
// nine: the session climbs, after two rounds.
func TestSessionClimbs(t *testing.T) {
	store, disk := mem.New(), image(3, 17*block.WindowSize)
	initRepo(t, store)
	var calls atomic.Int64
	waiting := func() time.Time {
		n := calls.Add(1)
		return clock().Add(time.Duration(n/3*10+max(n%3-1, 0)) * time.Second)
	}
	r, err := repo.Open(t.Context(), store, repo.OpenOptions{Passphrase: passphrase, Now: waiting})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	s := begin(t, r)
	st, err := s.Stream(t.Context(), int64(len(disk)), nil)
	if err != nil {
		t.Fatal(err)
	}
	calls.Store(0) // began, packed and placed are calls 1, 2, 3 of each segment
	first := repo.LevelOf(s)
	for w := range len(disk) / block.WindowSize {
		if err := st.Put(t.Context(), int64(w), disk[w*block.WindowSize:(w+1)*block.WindowSize]); err != nil {
			t.Fatal(err)
		}
	}
	if last := repo.LevelOf(s); last != first+1 {
		t.Errorf("level %d, began with %d", last, first)
	}
}

// A new block costs two allocations at most, packs and directories included: a full
// backup has millions.
func TestAllocationsOfABlock(t *testing.T) {
	store, disk := mem.New(), image(2, 16*block.WindowSize)
	initRepo(t, store)
	var p repo.Point
	n := mallocs(func() { p = storeDisk(t, store, repo.CompressFast, disk) })
	if blocks := uint64(p.Stats.NewBlocks); blocks < 2000 || n > 2*blocks+3000 {
		t.Errorf("%d allocations for %d new blocks", n, blocks)
	} else {
		t.Logf("%d allocations for %d new blocks", n, blocks)
	}
}

// mallocs is how many allocations something makes.
func mallocs(do func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	do()
	runtime.ReadMemStats(&after)
	return after.Mallocs - before.Mallocs
}

// A known block that is looked up costs two allocations at most, and one in a window that is as
// the parent's less than one, though the race detector throws pooled memory away; windows that are
// kept cost a few in all. A run has millions of them.
func TestAllocationsOfWhatIsKnown(t *testing.T) {
	store, disk := mem.New(), image(2, 16*block.WindowSize)
	initRepo(t, store)
	root := storeDisk(t, store, repo.CompressFast, disk).Disks[0].Root
	r := openRepo(t, store)
	put := func(st *repo.Stream, w int64) error {
		return st.Put(t.Context(), w, disk[w*block.WindowSize:(w+1)*block.WindowSize])
	}
	keep := func(st *repo.Stream, w int64) error { return st.Keep(w, 1) }
	for name, c := range map[string]struct {
		parent *repo.Root
		take   func(st *repo.Stream, w int64) error
		each   int64 // at most
	}{"looked up": {nil, put, 2}, "unchanged": {&root, put, 1}, "kept": {&root, keep, 0}} {
		s := begin(t, r)
		n := mallocs(func() {
			st, err := s.Stream(t.Context(), root.Size, c.parent)
			for w := int64(0); w < root.Size/block.WindowSize && err == nil; w++ {
				err = c.take(st, w)
			}
			if err == nil {
				_, err = st.Finish(t.Context())
			}
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		})
		if stats := s.Stats(); int64(n) > max(c.each*stats.Blocks, 64) || stats.NewBlocks > 0 {
			t.Errorf("%s: %d allocations for %d blocks, %d of them new", name, n, stats.Blocks, stats.NewBlocks)
		} else {
			t.Logf("%s: %d allocations for %d blocks", name, n, stats.Blocks)
		}
	}
}
