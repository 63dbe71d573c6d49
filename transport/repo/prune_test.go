package repo_test

import (
	"strings"
	"testing"

	"github.com/lull-backup/lull/transport/blob/mem"
	"github.com/lull-backup/lull/transport/block"
	"github.com/lull-backup/lull/transport/repo"
)

// atOnce is a prune that waits for nothing but sessions.
var atOnce = repo.PruneOptions{Grace: -1}

func prune(t testing.TB, r *repo.Repository, o repo.PruneOptions) repo.PruneReport {
	t.Helper()
	report, err := r.Prune(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return report
}

func count(store *mem.Store, prefix string) (n int) {
	for _, name := range store.Names() {
		if strings.HasPrefix(name, prefix) {
			n++
		}
	}
	return n
}

// What a forgotten point alone needed goes with the second prune, and nothing else.
func TestPrune(t *testing.T) {
	store := mem.New()
	initRepo(t, store)
	r := openSmall(t, store)
	a, b := image(1, 2*block.WindowSize), image(2, 2*block.WindowSize)
	old := mustCommit(t, r, "lab/web", a)
	p := mustCommit(t, r, "lab/web", b)
	before := count(store, "packs/")
	if report := prune(t, r, atOnce); report.Marked != 0 || report.Points != 2 {
		t.Errorf("with all points there: %+v", report)
	}
	if err := r.Forget(t.Context(), []repo.Point{old}); err != nil {
		t.Fatal(err)
	}
	marked := prune(t, r, atOnce)
	if marked.Marked == 0 || marked.Deleted != 0 || count(store, "packs/") != before {
		t.Errorf("first: %+v", marked)
	}
	if report := prune(t, r, atOnce); report.Deleted != marked.Marked || count(store, "packs/") != before-marked.Marked {
		t.Errorf("second: %+v", report)
	}
	wantClean(t, r)
	wantDisk(t, r, p.Disks[0].Root, b)
	wantDisk(t, openRepo(t, store), p.Disks[0].Root, b)
}
