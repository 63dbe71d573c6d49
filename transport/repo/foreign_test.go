package repo_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/lull-backup/lull/transport/blob/mem"
	"github.com/lull-backup/lull/transport/block"
	"github.com/lull-backup/lull/transport/repo"
)

// Names that lull never makes, which every key of a host may put into the store, stop
// neither prune nor what reads points; check tells of those among the points.
func TestNamesThatAreNobodysStopNothing(t *testing.T) {
	store := mem.New()
	initRepo(t, store)
	p := mustCommit(t, openRepo(t, store), "lab/web", image(1, block.WindowSize))
	object := pointName(t, store, p.ID)
	vm, _, _ := strings.Cut(strings.TrimPrefix(object, "points/"), "/")
	points := []string{
		"points/x", "points/zz/20261122t000000z-00000000", "points/" + vm + "/x",
		"points/" + vm + "/20261122t000000z-0000000g", "points/" + vm + ".20261122t000000z-00000000",
	}
	for _, name := range append(slices.Clone(points),
		"sessions/"+vm+"./"+strings.Repeat("a", 30), "sessions/"+vm+"."+strings.Repeat("a", 30),
		"holds/"+vm+"./"+strings.Repeat("a", 30), "index/"+vm+"./"+strings.Repeat("a", 30)+".0") {
		if err := store.Create(t.Context(), name, []byte("garbage")); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		r := openRepo(t, store)
		if strings.HasPrefix(name, "index/") {
			continue // damaged, and for check --repair
		}
		// Much later: sessions that were never heard of again are given up.
		prune(t, r, repo.PruneOptions{Grace: -1})
		prune(t, r, atOnce)
		if all, err := r.Points(t.Context(), ""); err != nil || len(all) != 1 {
			t.Errorf("%s: %d points, %v", name, len(all), err)
		}
		if newest, err := r.Newest(t.Context(), "lab/web"); err != nil || newest.ID != p.ID {
			t.Errorf("%s: newest %q, %v", name, newest.ID, err)
		}
	}
	report, err := openRepo(t, store).Check(t.Context(), repo.CheckOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range points {
		if !slices.ContainsFunc(report.Problems, func(p repo.Problem) bool { return p.Object == name && len(p.Points) == 0 }) {
			t.Errorf("check says nothing of %s", name)
		}
	}
}
