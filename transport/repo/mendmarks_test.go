package repo_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/lull-backup/lull/transport/blob/faults"
	"github.com/lull-backup/lull/transport/blob/mem"
	"github.com/lull-backup/lull/transport/block"
	"github.com/lull-backup/lull/transport/repo"
)

// marked is a repository with an open mark, before which another one was carried out.
func marked(t *testing.T) (*mem.Store, []byte) {
	t.Helper()
	store, disk := decided(t)
	r := openRepo(t, store)
	p := mustCommit(t, r, "lab/web", image(3, block.WindowSize))
	mustCommit(t, r, "lab/web", image(2, block.WindowSize))
	if err := r.Forget(t.Context(), []repo.Point{p}); err != nil {
		t.Fatal(err)
	}
	prune(t, r, atOnce) // finishes, and marks
	return store, disk
}

// What maintenance has said and nobody can read any more keeps everybody from writing, until
// a repair decides anew. Whatever it was: nothing that is needed goes, prunes go on, and no
// pack that the lost decision may have named is built on.
func TestRepairDecidesAnew(t *testing.T) {
	for name, test := range map[string]struct {
		base   func(*testing.T) (*mem.Store, []byte)
		broken []string // ends of names
		gone   []string
	}{
		"decision, not carried out":     {decided, []string{"1.done"}, nil},
		"decision, and its mark":        {decided, []string{"1.done", "1"}, nil},
		"open mark":                     {marked, []string{"2"}, nil},
		"sessions of an open mark":      {marked, []string{"2.sessions"}, nil},
		"decision under an open mark":   {marked, []string{"1.done"}, nil},
		"all":                           {marked, []string{"1.done", "2", "2.sessions"}, nil},
		"no decision under a mark":      {marked, nil, []string{"1.done"}},
		"no decision and a broken mark": {marked, []string{"2"}, []string{"1.done"}},
	} {
		t.Run(name, func(t *testing.T) {
			store, disk := test.base(t)
			for _, object := range namesUnder(store, "marks/") {
				for _, end := range test.broken {
					if strings.HasSuffix(object, "00000"+end) {
						store.Damage(object, flip)
					}
				}
				for _, end := range test.gone {
					if strings.HasSuffix(object, "00000"+end) {
						if err := store.Delete(t.Context(), object); err != nil {
							t.Fatal(err)
						}
					}
				}
			}
			if _, err := openRepo(t, store).Prune(t.Context(), atOnce); !errors.Is(err, repo.ErrCorrupt) {
				t.Fatalf("prune: %v, want %v", err, repo.ErrCorrupt)
			}
			report := check(t, openRepo(t, store), repo.CheckOptions{Repair: true})
			if report.Repaired == nil || report.Repaired.Decision == 0 || len(report.Remaining) > 0 || len(report.Lost) > 0 {
				t.Fatalf("%+v %+v", report, report.Repaired)
			}
			p := mustCommit(t, openRepo(t, store), "lab/other", disk)
			for range 3 {
				prune(t, openRepo(t, store), atOnce)
			}
			r := openRepo(t, store)
			wantClean(t, r)
			wantDisk(t, r, p.Disks[0].Root, disk)
			points, err := r.Points(t.Context(), "lab/web")
			if err != nil || len(points) == 0 {
				t.Fatalf("%d points, %v", len(points), err)
			}
			wantDisk(t, r, points[0].Disks[0].Root, image(2, block.WindowSize))
			if left := prune(t, r, repo.PruneOptions{DryRun: true, Grace: -1}); left.Marked+left.Deleted > 0 {
				t.Errorf("left: %+v", left)
			}
		})
	}
}

// A session that began before what maintenance has said was damaged either commits a point
// that restores, or finds out that it was given up.
func TestRepairGivesUpWhoMayNotKnow(t *testing.T) {
	store, disk := decided(t)
	s := beginAt(t, openRepo(t, store), clock().Add(hours(9)))
	root, err := backup(t.Context(), s, disk, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, object := range namesUnder(store, "marks/") {
		store.Damage(object, flip)
	}
	check(t, openRepo(t, store), repo.CheckOptions{Repair: true})
	p, err := s.Commit(t.Context(), repo.Point{VM: "lab/web", Disks: []repo.Disk{{Root: root}}})
	if errors.Is(err, repo.ErrFenced) {
		wantClean(t, openRepo(t, store))
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	wantDisk(t, openRepo(t, store), p.Disks[0].Root, disk)
}

// That repair may end after every change that it makes, too.
func TestDecidingAnewCrashes(t *testing.T) {
	base, disk := marked(t)
	for _, object := range namesUnder(base, "marks/") {
		if strings.HasSuffix(object, "1.done") {
			base.Damage(object, flip)
		}
	}
	for n, crashed := 0, true; crashed; n++ {
		store := base.Clone()
		f := faults.New(store)
		r := openRepo(t, f)
		f.CrashAfter(n)
		_, err := r.Check(t.Context(), repo.CheckOptions{Repair: true})
		if crashed = f.Crashed(); !crashed && err != nil {
			t.Fatal(err)
		}
		check(t, openRepo(t, store), repo.CheckOptions{Repair: true})
		p := mustCommit(t, openRepo(t, store), "lab/other", disk)
		prune(t, openRepo(t, store), atOnce)
		prune(t, openRepo(t, store), atOnce)
		r = openRepo(t, store)
		wantClean(t, r)
		wantDisk(t, r, p.Disks[0].Root, disk)
	}
}
