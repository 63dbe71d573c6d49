package repo_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/lull-backup/lull/transport/blob/faults"
	"github.com/lull-backup/lull/transport/blob/mem"
	"github.com/lull-backup/lull/transport/block"
	"github.com/lull-backup/lull/transport/repo"
)

// decided is a repository whose maintenance has crashed when it had decided which packs go
// and deleted none of them: all that the disk needs.
func decided(t *testing.T) (*mem.Store, []byte) {
	t.Helper()
	store := mem.New()
	initRepo(t, store)
	r := openRepo(t, store)
	disk := image(1, block.WindowSize)
	old := mustCommit(t, r, "lab/web", disk)
	mustCommit(t, r, "lab/web", image(2, block.WindowSize))
	if err := r.Forget(t.Context(), []repo.Point{old}); err != nil {
		t.Fatal(err)
	}
	prune(t, r, atOnce)
	f := faults.New(store)
	crash := errors.New("no more")
	f.Add(faults.Fault{Op: faults.Delete, Prefix: "packs/", Nth: 1, Before: crash})
	if _, err := openRepo(t, f).Prune(t.Context(), atOnce); !errors.Is(err, crash) {
		t.Fatalf("%v, want %v", err, crash)
	}
	return store, disk
}

// Packs that are about to be deleted come back by no way: not when a damaged index object
// is rebuilt from all packs, and not by a repair.
func TestDecidedPacksStayGone(t *testing.T) {
	for name, do := range map[string]func(*testing.T, *mem.Store){
		"rebuilt": func(*testing.T, *mem.Store) {},
		"repaired": func(t *testing.T, store *mem.Store) {
			check(t, openRepo(t, store), repo.CheckOptions{Repair: true})
		},
	} {
		t.Run(name, func(t *testing.T) {
			store, disk := decided(t)
			for _, object := range objects(store, "index/") {
				store.Damage(object, func(b []byte) []byte { return b[:len(b)/2] })
			}
			do(t, store)
			p := mustCommit(t, openRepo(t, store), "lab/other", disk)
			// It finishes what was decided, whatever it makes of the damaged index object.
			if _, err := openRepo(t, store).Prune(t.Context(), atOnce); err != nil && !errors.Is(err, repo.ErrCorrupt) {
				t.Fatal(err)
			}
			wantDisk(t, openRepo(t, store), p.Disks[0].Root, disk)
		})
	}
}

// A decision of maintenance that cannot be read keeps everybody from writing, and nobody
// from reading.
func TestDamagedDecisionIsNoEndOfReading(t *testing.T) {
	store, _ := decided(t)
	disk := image(2, block.WindowSize)
	for _, object := range objects(store, "marks/") {
		if strings.HasSuffix(object, ".done") {
			store.Damage(object, flip)
		}
	}
	r := openRepo(t, store)
	points, err := r.Points(t.Context(), "lab/web")
	if err != nil || len(points) != 1 {
		t.Fatalf("%d points, %v", len(points), err)
	}
	wantDisk(t, r, points[0].Disks[0].Root, disk)
	if s, err := r.Begin(t.Context(), "lab/web", clock().Add(hours(9))); !errors.Is(err, repo.ErrCorrupt) {
		t.Errorf("begin: %v, want %v", err, repo.ErrCorrupt)
		if err == nil {
			s.Close()
		}
	}
	if _, err := r.Prune(t.Context(), atOnce); !errors.Is(err, repo.ErrCorrupt) {
		t.Errorf("prune: %v, want %v", err, repo.ErrCorrupt)
	}
	report := check(t, r, repo.CheckOptions{ReadAll: true})
	if len(report.Lost) > 0 || !slices.ContainsFunc(report.Problems, func(p repo.Problem) bool { return strings.HasPrefix(p.Object, "marks/") }) {
		t.Errorf("check: %+v", report)
	}
}
