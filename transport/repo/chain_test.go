package repo_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/lull-backup/lull/transport/blob/mem"
	"github.com/lull-backup/lull/transport/block"
	"github.com/lull-backup/lull/transport/repo"
)

// line is a store with some restore points of one VM, one after the other, each by a host
// that has seen nothing before, and one of another VM that only the third names.
func line(t *testing.T) (store *mem.Store, points []repo.Point, other repo.Point) {
	t.Helper()
	store = mem.New()
	initRepo(t, store)
	for n := range 6 {
		r := openRepo(t, store)
		if n == 2 {
			other = mustCommit(t, r, "lab/db", image(9, block.PageSize))
		}
		points = append(points, mustCommit(t, r, "lab/web", image(uint64(n), 2*block.PageSize)))
	}
	return store, points, other
}

// A store that leaves out what lies behind forgotten points is caught: tombstones say which
// points those had named.
func TestChainGoesOnThroughForgottenPoints(t *testing.T) {
	for name, test := range map[string]struct {
		omit func(points []repo.Point, other repo.Point) []repo.Point
		old  bool // tombstones of before
		want bool
	}{
		"nothing":                   {func([]repo.Point, repo.Point) []repo.Point { return nil }, false, false},
		"the older ones":            {func(p []repo.Point, _ repo.Point) []repo.Point { return p[:2] }, false, true},
		"another VM":                {func(_ []repo.Point, o repo.Point) []repo.Point { return []repo.Point{o} }, false, true},
		"nothing, old tombstones":   {func([]repo.Point, repo.Point) []repo.Point { return nil }, true, false},
		"the oldest, old tombstone": {func(p []repo.Point, _ repo.Point) []repo.Point { return p[:2] }, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			store, points, other := line(t)
			forget := openRepo(t, store).Forget
			if test.old {
				r := openRepo(t, store)
				err := repo.Bury(t.Context(), r, points[2:5]...)
				if err != nil {
					t.Fatal(err)
				}
			} else if err := forget(t.Context(), points[2:5]); err != nil {
				t.Fatal(err)
			}
			omitted := test.omit(points, other)
			for _, p := range omitted {
				if err := store.Delete(t.Context(), pointName(t, store, p.ID)); err != nil {
					t.Fatal(err)
				}
			}
			_, err := openRepo(t, store).Points(t.Context(), "")
			if got := errors.Is(err, repo.ErrOmitted); got != test.want || err != nil && !got {
				t.Fatalf("%v, want omitted: %t", err, test.want)
			}
			if test.want && !strings.Contains(err.Error(), strings.ToLower(omitted[len(omitted)-1].ID)) {
				t.Errorf("%v does not name %s", err, omitted[len(omitted)-1].ID)
			}
		})
	}
}

// Of a host with many VMs, what is forgotten night after night names none of the others'
// points but the newest: those are found from each other.
func TestTombstonesNameFew(t *testing.T) {
	store := mem.New()
	initRepo(t, store)
	r := openRepo(t, store)
	const vms, nights = 6, 3
	var old, all []repo.Point
	for night := range nights {
		for vm := range vms {
			p := mustCommit(t, r, fmt.Sprint("lab/", vm), image(uint64(night*vms+vm), block.PageSize))
			if all = append(all, p); night == 1 {
				old = append(old, p)
			}
		}
	}
	for _, p := range old {
		if err := r.Forget(t.Context(), []repo.Point{p}); err != nil {
			t.Fatal(err)
		}
	}
	if n := repo.BuriedHeads(t.Context(), r); n != 0 {
		t.Errorf("tombstones name %d heads", n)
	}
	if _, err := openRepo(t, store).Points(t.Context(), ""); err != nil {
		t.Error(err)
	}
	// A first point is found although all that named it were forgotten.
	if err := store.Delete(t.Context(), pointName(t, store, all[0].ID)); err != nil {
		t.Fatal(err)
	}
	if _, err := openRepo(t, store).Points(t.Context(), ""); !errors.Is(err, repo.ErrOmitted) {
		t.Errorf("%v, want %v", err, repo.ErrOmitted)
	}
}

// A point whose parent the store hid while it was made does not know the parent's hash. The
// parent was forgotten all the same, or it is left out.
func TestParentThatWasHidden(t *testing.T) {
	store := mem.New()
	initRepo(t, store)
	r := openRepo(t, store)
	s := begin(t, r)
	_, err := s.Commit(t.Context(), repo.Point{VM: "lab/web", Parent: "20261120T013000Z-9f86d081"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := openRepo(t, store).Points(t.Context(), ""); !errors.Is(err, repo.ErrOmitted) {
		t.Errorf("%v, want %v", err, repo.ErrOmitted)
	}
}

// Tombstones of hosts with many VMs stay small enough to be read.
func TestTombstonesAreBounded(t *testing.T) {
	store, points, _ := line(t)
	r := openRepo(t, store)
	last := repo.Head{Point: strings.TrimPrefix(pointName(t, store, points[5].ID), "points/"), Hash: points[5].Hash}
	for i := range points[:5] {
		for range 10_000 {
			points[i].Heads = append(points[i].Heads, last)
		}
	}
	if err := r.Forget(t.Context(), points[:5]); err != nil {
		t.Fatal(err)
	}
	stones := namesUnder(store, "forgotten/")
	for _, name := range stones {
		if info, err := store.Stat(t.Context(), name); err != nil || info.Size > 5<<20 {
			t.Errorf("%s: %d bytes, %v", name, info.Size, err)
		}
	}
	if len(stones) < 2 {
		t.Errorf("%d tombstones", len(stones))
	}
}

// Who has stolen a backup key can make a point that names others that never were, or a point
// that is there under another hash. They are missed while that point is there, and no longer:
// what tombstones say is not on its word.
func TestTombstonesRepeatNoLies(t *testing.T) {
	store := mem.New()
	initRepo(t, store)
	addKey(t, store, "evil", repo.RoleBackup)
	r := openRepo(t, store)
	good := mustCommit(t, r, "lab/web", image(1, block.PageSize))
	object := pointName(t, store, good.ID)
	real := strings.TrimPrefix(object, "points/")
	for name, lie := range map[string]repo.Point{
		"head":       {Heads: []repo.Head{{Point: real[:32] + "/20990101t000000z-00000000", Hash: good.Hash}}},
		"wrong hash": {Heads: []repo.Head{{Point: real, Hash: repo.Hash{1}}}},
		"parent":     {VM: "lab/web", Parent: "20010101T000000Z-00000000", ParentHash: repo.Hash{1}},
		"any parent": {VM: "lab/web", Parent: "20010101T000000Z-00000000"},
		"no name":    {Heads: []repo.Head{{Point: "../../../etc"}, {}}},
	} {
		t.Run(name, func(t *testing.T) {
			if err := repo.Lie(t.Context(), openAs(t, store, "evil", repo.OpenOptions{}), lie, clock()); err != nil {
				t.Fatal(err)
			}
			r := openRepo(t, store)
			if _, err := r.Points(t.Context(), ""); !errors.Is(err, repo.ErrOmitted) && !errors.Is(err, repo.ErrForged) {
				t.Fatalf("%v: the test lies about nothing", err)
			}
			signed, err := r.SignedBy(t.Context(), "evil")
			if err != nil || len(signed) != 1 || signed[0].Damaged != nil {
				t.Fatalf("%+v, %v", signed, err)
			}
			unproven, err := r.Unproven(t.Context(), []repo.Point{signed[0].Point})
			if err != nil || len(unproven) == 0 || unproven[0].By != signed[0].ID {
				t.Errorf("unproven are %v, %v", unproven, err)
			}
			if err := r.ForgetSigned(t.Context(), signed); err != nil {
				t.Fatal(err)
			}
			for _, vm := range []string{"", "lab/web"} {
				if points, err := openRepo(t, store).Points(t.Context(), vm); err != nil || len(points) != 1 {
					t.Errorf("%q: %d points, %v", vm, len(points), err)
				}
			}
		})
	}
}
