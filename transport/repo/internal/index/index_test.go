package index

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

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
	// One object of a merged run gone: only what it alone lists does not count.
	for _, x := range []*Index{x, open(t, dir)} {
		if got := missing(t, x, ids[1:]...); got != nil {
			t.Fatalf("missing %v", got)
		}
		want(t, x, 0, 50, false)
		want(t, x, 50, 5010, true)
	}
	// What merges leave out does not come back either.
	for i := range uint64(30) {
		add(t, x, Source{200, byte(i)}, 0, 0)
	}
	want(t, open(t, dir), 50, 5010, true)
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

// What a stale list left out counts again once it is listed and added again.
func TestSourceComesBack(t *testing.T) {
	dir := t.TempDir()
	x := open(t, dir)
	all := []Source{{1}, {2}, {3}, {4}, {5}}
	for i := range uint64(3) {
		add(t, x, all[i], i*100, i*100+110)
	}
	if got := missing(t, x, all[0], all[2]); got != nil {
		t.Fatalf("missing %v", got)
	}
	want(t, x, 0, 110, true)
	want(t, x, 110, 200, false)
	want(t, x, 200, 310, true)
	add(t, x, all[3], 0, 0) // a merge, which leaves the second one out
	for _, x := range []*Index{x, open(t, dir)} {
		got, err := x.Missing(all)
		if err != nil || !cmp.Equal(got, []Source{all[4], all[1]}) && !cmp.Equal(got, []Source{all[1], all[4]}) {
			t.Fatalf("missing %v, %v", got, err)
		}
		add(t, x, all[1], 100, 210)
		want(t, x, 0, 310, true)
	}
}

func TestLoaderTakesManyObjects(t *testing.T) {
	dir := t.TempDir()
	x := open(t, dir)
	l := x.Loader()
	l.s.limit, l.limit = 1000, 6000
	var ids []Source
	for i := range uint64(40) {
		ids = append(ids, Source{byte(i)})
		if err := l.Add(t.Context(), ids[i], entries(i*500, i*500+510)); err != nil {
			t.Fatal(err)
		}
	}
	if got := missing(t, x, ids...); len(got) == 0 || len(got) > 12 {
		t.Fatalf("%d missing before the last flush", len(got))
	}
	if err := errors.Join(l.Flush(t.Context()), l.Flush(t.Context()), l.Close()); err != nil {
		t.Fatal(err)
	}
	for _, x := range []*Index{x, open(t, dir)} {
		want(t, x, 0, 20010, true)
		if got := missing(t, x, ids...); got != nil {
			t.Fatalf("missing %v", got)
		}
		if got := missing(t, x, append(ids[:7:7], ids[8:]...)...); got != nil {
			t.Fatalf("missing %v", got)
		}
		want(t, x, 0, 3510, true)
		want(t, x, 3510, 4000, false)
		want(t, x, 4000, 20010, true)
	}
}

func TestPlacesThatCannotBe(t *testing.T) {
	s := open(t, "").Session()
	defer s.Close()
	for _, l := range []Location{{BlockLength: 0}, {BlockLength: 1<<16 + 1}, {BlockLength: 1, BlockOffset: 1 << 21}} {
		if err := s.Insert(t.Context(), nameOf(1), l); !errors.Is(err, errPlace) {
			t.Errorf("%+v: %v", l, err)
		}
	}
}
