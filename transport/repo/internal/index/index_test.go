package index

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"iter"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/lull-backup/lull/transport/block"
)

func nameOf(i uint64) block.Name {
	return sha256.Sum256(binary.LittleEndian.AppendUint64(nil, i))
}

func entryOf(i uint64) Entry {
	return Entry{nameOf(i), Location{
		Pack: [32]byte{1: byte(i % 7)}, SegmentOffset: uint32(i), SegmentLength: uint32(i) + 1,
		BlockOffset: uint32(i) * 2, BlockLength: 4096,
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

func TestIndexKeepsWhatWasAdded(t *testing.T) {
	dir := t.TempDir()
	x := open(t, dir)
	a, b, empty := Source{1}, Source{2}, Source{3}
	if got := missing(t, x, a, b, empty, a); !cmp.Equal(got, []Source{a, b, empty}) {
		t.Fatalf("missing %v", got)
	}
	add(t, x, a, 0, 5000)
	add(t, x, b, 4000, 6000)
	add(t, x, empty, 0, 0)
	again := open(t, dir)
	for _, x := range []*Index{x, again} {
		want(t, x, 0, 6000, true)
		want(t, x, 6000, 7000, false)
		if got := missing(t, x, a, b, empty); got != nil {
			t.Fatalf("missing %v", got)
		}
	}
}

func TestIndexDropsWhatVanished(t *testing.T) {
	dir := t.TempDir()
	x := open(t, dir)
	add(t, x, Source{1}, 0, 3000)
	add(t, x, Source{2}, 3000, 10000)
	if got := missing(t, x, Source{2}); got != nil {
		t.Fatalf("missing %v", got)
	}
	want(t, x, 0, 3000, false)
	want(t, x, 3000, 10000, true)
	if n := len(runFiles(t, dir)); n != 1 {
		t.Fatalf("%d files, want 1", n)
	}
}

func TestSmallRunsAreMerged(t *testing.T) {
	dir := t.TempDir()
	x := open(t, dir)
	var ids []Source
	for i := range uint64(100) {
		ids = append(ids, Source{byte(i)})
		add(t, x, ids[i], i*50, i*50+60)
		if n := len(runFiles(t, dir)); n > 8 || n != len(x.runs) {
			t.Fatalf("%d files and %d runs after %d adds", n, len(x.runs), i+1)
		}
	}
	want(t, x, 0, 5010, true)
	if got := missing(t, open(t, dir), ids...); got != nil {
		t.Fatalf("missing %v", got)
	}
	// One object of a merged run gone: nothing of that run can be trusted.
	if got := missing(t, x, ids[1:]...); len(got) == 0 {
		t.Fatal("a merged run outlived one of its sources")
	}
}

func TestSessionIsItsOwnUntilCommit(t *testing.T) {
	dir := t.TempDir()
	x := open(t, dir)
	s, other := x.Session(), x.Session()
	s.limit = 100
	for e := range entries(0, 2050) {
		if err := s.Insert(t.Context(), e.Name, e.Location); err != nil {
			t.Fatal(err)
		}
	}
	want(t, s, 0, 2050, true)
	want(t, other, 0, 2050, false)
	if s.Len() != 2050 || len(runFiles(t, dir)) != 0 {
		t.Fatalf("%d entries, files %v", s.Len(), runFiles(t, dir))
	}
	if err := s.Commit(t.Context()); err == nil {
		t.Fatal("a commit without an index object was taken")
	}
	if err := s.Commit(t.Context(), Source{1}, Source{2}); err != nil {
		t.Fatal(err)
	}
	want(t, other, 0, 2050, true)
	want(t, open(t, dir), 0, 2050, true)
	if s.Len() != 0 || missing(t, x, Source{1}, Source{2}) != nil {
		t.Fatal("the session is not empty, or its sources are not held")
	}
}

func TestClosedSessionLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	x := open(t, dir)
	s := x.Session()
	s.limit = 10
	for e := range entries(0, 95) {
		if err := s.Insert(t.Context(), e.Name, e.Location); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(s.Close(), s.Close()); err != nil {
		t.Fatal(err)
	}
	want(t, s, 0, 95, false)
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 1 || left[0].Name() != lockName {
		t.Fatalf("left behind: %v, %v", left, err)
	}
}

func TestFailedAddAddsNothing(t *testing.T) {
	x := open(t, "")
	broken := errors.New("object is damaged")
	err := x.Add(t.Context(), Source{1}, func(yield func(Entry, error) bool) {
		for e := range entries(0, 10) {
			yield(e, nil)
		}
		yield(Entry{}, broken)
	})
	if !errors.Is(err, broken) || x.Len() != 0 {
		t.Fatalf("%v, %d entries", err, x.Len())
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := x.Add(ctx, Source{1}, entries(0, 2*chunkLen)); !errors.Is(err, context.Canceled) || x.Len() != 0 {
		t.Fatalf("%v, %d entries", err, x.Len())
	}
}

func TestTemporaryFolderGoesWithTheIndex(t *testing.T) {
	x, err := Open("")
	if err != nil {
		t.Fatal(err)
	}
	add(t, x, Source{1}, 0, 10)
	if err := errors.Join(x.Close(), x.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(x.cache.dir); !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	if _, _, err := x.Lookup(nameOf(1)); !errors.Is(err, ErrClosed) {
		t.Fatal(err)
	}
}

func TestModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp(t.TempDir(), "")
		if err != nil {
			rt.Fatal(err)
		}
		m := &model{dir: dir, committed: map[Source]map[uint64]bool{}, own: map[uint64]bool{}}
		m.open(rt)
		defer func() { _ = m.x.Close() }()
		rt.Repeat(map[string]func(*rapid.T){
			"insert": m.insert, "commit": m.commit, "discard": m.discard, "reopen": m.reopen, "vanish": m.vanish, "": m.check,
		})
	})
}

// model is the index as plain maps.
type model struct {
	dir       string
	x         *Index
	s         *Session
	committed map[Source]map[uint64]bool
	own       map[uint64]bool
	ids       byte
}

func (m *model) open(t *rapid.T) {
	x, err := Open(m.dir)
	if err != nil {
		t.Fatal(err)
	}
	m.x, m.s, m.own = x, x.Session(), map[uint64]bool{}
	m.s.limit = 16
}

func (m *model) insert(t *rapid.T) {
	for _, i := range rapid.SliceOf(rapid.Uint64Range(0, 150)).Draw(t, "entries") {
		e := entryOf(i)
		if err := m.s.Insert(context.Background(), e.Name, e.Location); err != nil {
			t.Fatal(err)
		}
		m.own[i] = true
	}
}

func (m *model) commit(t *rapid.T) {
	m.ids++
	if err := m.s.Commit(context.Background(), Source{m.ids}); err != nil {
		t.Fatal(err)
	}
	m.committed[Source{m.ids}], m.own = m.own, map[uint64]bool{}
}

func (m *model) discard(t *rapid.T) {
	if err := m.s.Close(); err != nil {
		t.Fatal(err)
	}
	m.own = map[uint64]bool{}
}

func (m *model) reopen(t *rapid.T) {
	if err := errors.Join(m.s.Close(), m.x.Close()); err != nil {
		t.Fatal(err)
	}
	m.open(t)
}

// vanish removes an index object and adds what is missing then.
func (m *model) vanish(t *rapid.T) {
	if len(m.committed) > 0 && rapid.Bool().Draw(t, "remove") {
		delete(m.committed, Source{rapid.ByteRange(1, m.ids).Draw(t, "id")})
	}
	var present []Source
	for id := range m.committed {
		present = append(present, id)
	}
	missing, err := m.x.Reconcile(present)
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range missing {
		err := m.x.Add(context.Background(), id, func(yield func(Entry, error) bool) {
			for i := range m.committed[id] {
				if !yield(entryOf(i), nil) {
					return
				}
			}
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	m.exact(t)
}

// exact: after Reconcile and Add the index holds what the objects hold.
func (m *model) exact(t *rapid.T) {
	for i := range uint64(151) {
		held := false
		for _, set := range m.committed {
			held = held || set[i]
		}
		loc, ok, err := m.x.Lookup(nameOf(i))
		if err != nil || ok != held || (ok && loc != entryOf(i).Location) {
			t.Fatalf("look up %d: %v %v %v, want %v", i, loc, ok, err, held)
		}
	}
}

// check: nothing that was committed or inserted is ever lost.
func (m *model) check(t *rapid.T) {
	sets := []map[uint64]bool{m.own}
	for _, set := range m.committed {
		sets = append(sets, set)
	}
	for _, set := range sets {
		for i := range set {
			if loc, ok, err := m.s.Lookup(nameOf(i)); err != nil || !ok || loc != entryOf(i).Location {
				t.Fatalf("look up %d: %v %v %v", i, loc, ok, err)
			}
		}
	}
}

// A block that was stored again is found there once its first pack is doubted, however
// often the runs were merged.
func TestDoubtedPacks(t *testing.T) {
	dir := t.TempDir()
	x := open(t, dir)
	const blocks = 300
	packs := [2][32]byte{{1}, {2}}
	for copies, pack := range packs {
		for part := range uint64(10) {
			err := x.Add(t.Context(), Source{byte(copies), byte(part)}, func(yield func(Entry, error) bool) {
				for e := range entries(part*blocks/10, (part+1)*blocks/10) {
					e.Pack = pack
					for range 2 {
						if !yield(e, nil) {
							return
						}
					}
				}
			})
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, x := range []*Index{x, open(t, dir)} {
		wantIn(t, x, blocks, packs[:], packs[:])
		x.Doubt(packs[0])
		wantIn(t, x, blocks, packs[1:], packs[1:])
		x.Doubt(packs[1])
		wantIn(t, x, blocks, packs[:], nil)
	}
}

// wantIn fails unless blocks are found in one of the packs, and by sessions in one of
// known.
func wantIn(t *testing.T, x *Index, blocks uint64, packs, known [][32]byte) {
	t.Helper()
	s := x.Session()
	defer s.Close()
	for i := range blocks {
		loc, ok, err := x.Lookup(nameOf(i))
		if err != nil || !ok || !slices.Contains(packs, loc.Pack) {
			t.Fatalf("block %d is in %v, %v, %v", i, loc, ok, err)
		}
		loc, ok, err = s.Lookup(nameOf(i))
		if err != nil || ok != (known != nil) || ok && !slices.Contains(known, loc.Pack) {
			t.Fatalf("a session knows block %d in %v, %v, %v", i, loc, ok, err)
		}
	}
}

func TestConcurrentUse(t *testing.T) {
	dir := t.TempDir()
	one, two := open(t, dir), open(t, dir)
	add(t, one, Source{255}, 1<<20, 1<<20+500)
	var wg sync.WaitGroup
	for w, x := range []*Index{one, one, two, two} {
		wg.Go(func() {
			for i := range uint64(12) {
				from := uint64(w)*10000 + i*300
				if err := x.Add(context.Background(), Source{byte(w), byte(i)}, entries(from, from+300)); err != nil {
					t.Error(err)
				}
				want(t, x, from, from+300, true)
			}
		})
		wg.Go(func() {
			for range 2000 {
				i := 1<<20 + rand.Uint64N(500)
				if _, ok, err := one.Lookup(nameOf(i)); !ok || err != nil {
					t.Errorf("look up %d: %v %v", i, ok, err)
					return
				}
			}
		})
	}
	wg.Wait()
	third := open(t, dir)
	for w := range uint64(4) {
		want(t, third, w*10000, w*10000+3600, true)
	}
}

func TestSessionIsSharedByWorkers(t *testing.T) {
	x := open(t, "")
	s := x.Session()
	defer s.Close()
	s.limit = 200
	var wg sync.WaitGroup
	for w := range uint64(4) {
		wg.Go(func() {
			for e := range entries(w*500, w*500+1000) {
				if err := s.Insert(context.Background(), e.Name, e.Location); err != nil {
					t.Error(err)
				}
				if loc, ok, err := s.Lookup(e.Name); !ok || err != nil || loc != e.Location {
					t.Errorf("%v %v %v", loc, ok, err)
				}
			}
		})
	}
	wg.Wait()
	want(t, s, 0, 2500, true)
}
