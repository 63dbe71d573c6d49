package repo_test

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/lull-backup/lull/transport/blob/mem"
	"github.com/lull-backup/lull/transport/block"
	"github.com/lull-backup/lull/transport/repo"
)

// An object that is cut off, or gone, is missed by a check, and restores are right or fail.
func TestTruncatedAndMissingObjects(t *testing.T) {
	base, p, disks := small(t)
	for _, name := range base.Names() {
		for _, keep := range []int{0, 1, 7, 100, 1000, -1} {
			store := base.Clone()
			store.Damage(name, func(b []byte) []byte {
				if keep < 0 {
					return b[:len(b)-1]
				}
				return b[:min(keep, len(b)-1)]
			})
			wantFound(t, store, name, p, disks)
		}
		store := base.Clone()
		if err := store.Delete(t.Context(), name); err != nil {
			t.Fatal(err)
		}
		wantGone(t, store, name, p, disks)
	}
}

// small is a repository with one of each object.
func small(t *testing.T) (*mem.Store, repo.Point, [2][]byte) {
	t.Helper()
	store := mem.New()
	initRepo(t, store)
	disks := [2][]byte{image(1, 90*block.PageSize), image(2, block.WindowSize+block.PageSize)}
	clear(disks[1][10*block.PageSize : block.WindowSize])
	p := mustCommit(t, openRepo(t, store), "lab/web", disks[0], disks[1])
	quarantined(t, store)
	return store, p, disks
}

// quarantined leaves a quarantine in the store: of a pack that was bad and is not any
// more, while a session is under way that may not know of it.
func quarantined(t *testing.T, store *mem.Store) {
	t.Helper()
	s := begin(t, openRepo(t, store))
	hurt := store.Clone()
	spoilData(t, hurt)
	check(t, openRepo(t, hurt), repo.CheckOptions{ReadAll: true})
	for _, name := range objects(hurt, "quarantine/") {
		b, err := hurt.Read(t.Context(), name, 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		store.Damage(name, func([]byte) []byte { return b })
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if len(objects(store, "quarantine/")) != 1 {
		t.Fatal("no quarantine")
	}
}

// wantFound fails unless the damage to an object is found, and restores are right
// or fail.
func wantFound(t *testing.T, store *mem.Store, name string, p repo.Point, disks [2][]byte) {
	t.Helper()
	r, err := repo.Open(t.Context(), store, repo.OpenOptions{Passphrase: passphrase})
	if err != nil {
		if !strings.HasPrefix(name, "config") && !strings.HasPrefix(name, "keys/") {
			t.Errorf("%s damaged: open: %v", name, err)
		}
		if !errors.Is(err, repo.ErrCorrupt) && !errors.Is(err, repo.ErrVersion) {
			t.Errorf("%s damaged: open: %v, want %v", name, err, repo.ErrCorrupt)
		}
		return
	}
	defer r.Close()
	report, err := r.Check(t.Context(), repo.CheckOptions{ReadAll: true})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(report.Problems, func(p repo.Problem) bool { return p.Object == name }) {
		t.Errorf("%s damaged: check finds %+v", name, report.Problems)
	}
	wantRightOrNothing(t, r, name, p, disks)
}

func wantGone(t *testing.T, store *mem.Store, name string, p repo.Point, disks [2][]byte) {
	t.Helper()
	r, err := repo.Open(t.Context(), store, repo.OpenOptions{Passphrase: passphrase})
	if err != nil {
		if !errors.Is(err, repo.ErrNoRepository) && !errors.Is(err, repo.ErrCorrupt) {
			t.Errorf("%s gone: open: %v", name, err)
		}
		return
	}
	defer r.Close()
	report, err := r.Check(t.Context(), repo.CheckOptions{})
	if err != nil {
		t.Fatal(err)
	}
	taken := []string{"points/", "quarantine/", "sessions/"} // by who may, at any time
	if len(report.Problems) == 0 && !slices.ContainsFunc(taken, func(p string) bool { return strings.HasPrefix(name, p) }) {
		t.Errorf("%s gone: check finds nothing", name)
	}
	wantRightOrNothing(t, r, name, p, disks)
}

func wantRightOrNothing(t *testing.T, r *repo.Repository, name string, p repo.Point, disks [2][]byte) {
	t.Helper()
	for i, d := range p.Disks {
		got, err := restore(t.Context(), r, d.Root)
		if err != nil && !errors.Is(err, repo.ErrCorrupt) && !errors.Is(err, repo.ErrVersion) {
			t.Errorf("%s damaged: restore: %v, want %v", name, err, repo.ErrCorrupt)
		}
		if err == nil && !bytes.Equal(got, disks[i]) {
			t.Errorf("%s damaged: disk %d restored wrong", name, i)
		}
	}
}

// A damaged pack is reported with the points that need it and no other.
func TestCheckNamesThePointsThatAreHit(t *testing.T) {
	store := mem.New()
	initRepo(t, store)
	r := openRepo(t, store)
	mustCommit(t, r, "lab/other", image(1, 50*block.PageSize))
	before := store.Names()
	first := mustCommit(t, r, "lab/web", image(2, 50*block.PageSize))
	second := mustCommit(t, r, "lab/web", image(2, 50*block.PageSize))
	for _, name := range store.Names() {
		if strings.HasPrefix(name, "packs/") && !slices.Contains(before, name) {
			store.Damage(name, func(b []byte) []byte {
				if b[4] == 'D' { // else no map leads to the data
					b[2000]++
				}
				return b
			})
		}
	}
	report, err := openRepo(t, store).Check(t.Context(), repo.CheckOptions{ReadAll: true})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{first.ID, second.ID}
	slices.Sort(want)
	if len(report.Problems) == 0 {
		t.Fatal("no problem found")
	}
	for _, p := range report.Problems {
		if !slices.Equal(p.Points, want) {
			t.Errorf("%s hits %q, want %q", p.Object, p.Points, want)
		}
	}
}

// A damaged manifest does not hide the others.
func TestPointsGoPastDamage(t *testing.T) {
	store, p, _ := small(t)
	r := openRepo(t, store)
	bad := mustCommit(t, r, "lab/web", image(9, 100))
	for _, name := range store.Names() {
		if strings.HasSuffix(name, strings.ToLower(bad.ID)) {
			store.Damage(name, func(b []byte) []byte { b[len(b)-1]++; return b })
		}
	}
	points, err := r.Points(t.Context(), "lab/web")
	if !errors.Is(err, repo.ErrCorrupt) || !strings.Contains(err.Error(), strings.ToLower(bad.ID)) {
		t.Errorf("error %v does not name %s", err, bad.ID)
	}
	if len(points) != 1 || points[0].ID != p.ID {
		t.Errorf("points %+v, want %s only", points, p.ID)
	}
}

// With its index object damaged, a repository still restores: the packs' own
// directories stand in for it.
func TestIndexIsRebuiltFromPacks(t *testing.T) {
	store, p, disks := small(t)
	for _, name := range store.Names() {
		if strings.HasPrefix(name, "index/") {
			store.Damage(name, func(b []byte) []byte { return b[:len(b)/2] })
		}
	}
	r := openRepo(t, store)
	for i, d := range p.Disks {
		wantDisk(t, r, d.Root, disks[i])
	}
}
