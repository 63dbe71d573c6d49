package index

import (
	"context"
	"errors"
	"os"
	"sync"
	"testing"
)

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
	if err := s.Commit(t.Context(), Source{1}); err != nil {
		t.Fatal(err)
	}
	want(t, other, 0, 2050, true)
	want(t, open(t, dir), 0, 2050, true)
	if s.Len() != 0 || missing(t, x, Source{1}) != nil {
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
