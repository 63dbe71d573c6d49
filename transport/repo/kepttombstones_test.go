package repo_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lull-backup/lull/transport/blob/faults"
	"github.com/lull-backup/lull/transport/blob/mem"
	"github.com/lull-backup/lull/transport/block"
	"github.com/lull-backup/lull/transport/repo"
)

// A host reads each tombstone from the store once, whatever becomes of the file that it keeps
// them in, and one that the store does not show any more excuses nothing.
func TestTombstonesAreReadOnce(t *testing.T) {
	store := mem.New()
	initRepo(t, store)
	addKey(t, store, "keeper", repo.RoleMaintain)
	r := openRepo(t, store)
	var points []repo.Point
	for n := range 5 {
		points = append(points, mustCommit(t, r, "lab/web", image(uint64(n), block.PageSize)))
	}
	keeper := openAs(t, store, "keeper", repo.OpenOptions{})
	for _, p := range points[1:4] {
		if err := keeper.Forget(t.Context(), []repo.Point{p}); err != nil {
			t.Fatal(err)
		}
	}
	cache := t.TempDir()
	reads := func() int {
		f := faults.New(store)
		if _, err := openCached(t, f, cache).Points(t.Context(), ""); err != nil {
			t.Error(err)
		}
		return strings.Count(f.Log(), "read forgotten/")
	}
	if n := reads(); n != 3 {
		t.Errorf("%d tombstones are read of 3", n)
	}
	if n := reads(); n != 0 {
		t.Errorf("%d are read a second time", n)
	}
	path := filepath.Join(cache, openRepo(t, store).ID().String(), "forgotten")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	cut := bytes.LastIndexByte(bytes.TrimSpace(b), '\n')
	b[cut/2] ^= 4 // one line is spoiled, and the last cut off
	if err := os.WriteFile(path, b[:cut+100], 0o600); err != nil {
		t.Fatal(err)
	}
	if n := reads(); n != 2 {
		t.Errorf("%d are read of 2 that are spoiled", n)
	}
	if n := reads(); n != 0 {
		t.Errorf("%d are read once more", n)
	}
	if _, err := r.RemoveKey(t.Context(), "keeper"); err != nil {
		t.Fatal(err)
	}
	if n := reads(); n != 0 {
		t.Errorf("%d are read although the key had signed them before it was removed", n)
	}
	spoil(t, store, "forgotten/", func(name string) {
		if err := store.Delete(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	})
	if _, err := openCached(t, store, cache).Points(t.Context(), ""); !errors.Is(err, repo.ErrOmitted) {
		t.Errorf("tombstones that the store hides: %v, want %v", err, repo.ErrOmitted)
	}
}

// What a key signs after it was removed counts for no host, though one that does not know yet
// has read it and keeps it.
func TestKeptTombstoneOfARemovedKey(t *testing.T) {
	store := mem.New()
	initRepo(t, store)
	addKey(t, store, "keeper", repo.RoleMaintain)
	r := openRepo(t, store)
	old, gone := mustCommit(t, r, "lab/web", image(1, block.PageSize)), mustCommit(t, r, "lab/web", image(2, block.PageSize))
	mustCommit(t, r, "lab/web", image(3, block.PageSize))
	cache := t.TempDir()
	unaware := openCached(t, store, cache)
	thief := openAs(t, store, "keeper", repo.OpenOptions{})
	if _, err := r.RemoveKey(t.Context(), "keeper"); err != nil {
		t.Fatal(err)
	}
	if err := thief.Forget(t.Context(), []repo.Point{gone}); err != nil {
		t.Fatal(err)
	}
	if left, err := unaware.Points(t.Context(), ""); err != nil || len(left) != 2 || left[0].ID != old.ID {
		t.Fatalf("%d points, %v", len(left), err)
	}
	if _, err := openCached(t, store, cache).Points(t.Context(), ""); !errors.Is(err, repo.ErrOmitted) {
		t.Errorf("%v, want %v", err, repo.ErrOmitted)
	}
}
