package index

import (
	"crypto/sha256"
	"encoding/binary"
	"iter"
	"os"
	"path/filepath"
	"testing"

	"github.com/lull-backup/lull/transport/block"
)

func nameOf(i uint64) block.Name {
	return sha256.Sum256(binary.LittleEndian.AppendUint64(nil, i))
}

// packLen is how many blocks a pack holds. Blocks of a number are always in the
// same pack, and an index object lists whole packs.
const packLen = 10

func packOf(i uint64) [32]byte { return sha256.Sum256(binary.BigEndian.AppendUint64(nil, i/packLen)) }

func entryOf(i uint64) Entry {
	return Entry{nameOf(i), Location{
		Pack: packOf(i), Signer: [32]byte{byte(i / packLen % 3)},
		SegmentOffset: uint32(i / 4 * 4), SegmentLength: uint32(i/4) + 1,
		BlockOffset: uint32(i) * 2 % (1 << offsetBits), BlockLength: 4096 + uint32(i%7),
	}}
}

// entries yields those of the numbers from to to-1.
func entries(from, to uint64) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		for i := from; i < to; i++ {
			if !yield(entryOf(i), nil) {
				return
			}
		}
	}
}

func open(t testing.TB, dir string) *Index {
	t.Helper()
	x, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	x.cache.sync = noSync
	t.Cleanup(func() {
		if err := x.Close(); err != nil {
			t.Error(err)
		}
	})
	return x
}

type lookuper interface {
	Lookup(block.Name) (Location, bool, error)
}

func want(t testing.TB, x lookuper, from, to uint64, found bool) {
	t.Helper()
	for i := from; i < to; i++ {
		e := entryOf(i)
		loc, ok, err := x.Lookup(e.Name)
		if err != nil || ok != found || (ok && loc != e.Location) {
			t.Fatalf("look up %d: %v, %v, %v, want found %v", i, loc, ok, err, found)
		}
	}
}

func missing(t testing.TB, x *Index, present ...Source) []Source {
	t.Helper()
	ids, err := x.Reconcile(present)
	if err != nil {
		t.Fatal(err)
	}
	return ids
}

func add(t testing.TB, x *Index, id Source, from, to uint64) {
	t.Helper()
	if err := x.Add(t.Context(), id, entries(from, to)); err != nil {
		t.Fatal(err)
	}
}

func runFiles(t testing.TB, dir string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*"+runSuffix))
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// noSync is for tests in which nothing loses power.
func noSync(*os.File) error { return nil }
