package main

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lull-backup/lull/transport/repo"
)

func TestPicture(t *testing.T) {
	drawn, plain := picture{drawn: true}, picture{}
	if got := drawn.bar(50, 100); got != "████████████▏" {
		t.Errorf("bar %q", got)
	}
	if got := drawn.line([]int64{0, 50, 100}, 100); got != "▁▅█" {
		t.Errorf("line %q", got)
	}
	if got := plain.bar(50, 100) + drawn.bar(1, 0); got != "" {
		t.Errorf("bars %q where there are none", got)
	}
}

// Growth begins with what the first restore point brought, at its time, and nothing counts
// before it was there.
func TestGrowthUntil(t *testing.T) {
	first := time.Date(2026, 11, 20, 1, 0, 0, 0, time.UTC)
	at := func(seconds int, added int64) repo.Growth {
		return repo.Growth{Frozen: first.Add(time.Duration(seconds) * time.Second), Added: added}
	}
	for _, test := range []struct {
		points []repo.Growth
		sums   []int64
	}{
		{[]repo.Growth{at(0, 5), at(10, 3)}, []int64{5, 5, 5, 5, 5, 8}},
		{[]repo.Growth{at(0, 5), at(1, 1), at(2, 1), at(3, 2), at(10, 3)}, []int64{5, 7, 9, 9, 9, 12}},
		{[]repo.Growth{at(0, 5), at(0, 3)}, []int64{8}},
	} {
		until, sums := growthUntil(test.points, 6)
		if diff := cmp.Diff(test.sums, sums); diff != "" {
			t.Error(diff)
		}
		last := test.points[len(test.points)-1].Frozen
		if !until[0].Equal(first) || !until[len(until)-1].Equal(last) {
			t.Errorf("from %v to %v, want %v to %v", until[0], until[len(until)-1], first, last)
		}
	}
}
