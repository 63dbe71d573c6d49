package repo_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lull-backup/lull/transport/blob/mem"
	"github.com/lull-backup/lull/transport/block"
	"github.com/lull-backup/lull/transport/repo"
)

// begun is a session that has written some index objects, and goes on.
func begun(t *testing.T) (*mem.Store, *repo.Session) {
	t.Helper()
	store := mem.NewAt(clock)
	initRepo(t, store)
	s := beginAt(t, openSmall(t, store), clock())
	if _, err := backup(t.Context(), s, image(1, 3*block.WindowSize), nil); err != nil {
		t.Fatal(err)
	}
	if len(namesUnder(store, "index/")) == 0 {
		t.Fatal("no index object")
	}
	return store, s
}

// giveUp prunes as if the session had been silent for long.
func giveUp(t *testing.T, store *mem.Store) {
	t.Helper()
	_, err := repo.PruneAlone(t.Context(), openSmall(t, store), repo.PruneOptions{}, clock().Add(1000*time.Hour), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
}

// wantStopped fails if the session can still make blocks known.
func wantStopped(t *testing.T, store *mem.Store, s *repo.Session) {
	t.Helper()
	before := namesUnder(store, "index/")
	root, err := backup(t.Context(), s, image(9, 3*block.WindowSize), nil)
	if err == nil {
		_, err = s.Commit(t.Context(), repo.Point{VM: "lab/web", Disks: []repo.Disk{{Root: root}}})
	}
	if !errors.Is(err, repo.ErrFenced) {
		t.Errorf("%v, want %v", err, repo.ErrFenced)
	}
	for _, name := range namesUnder(store, "index/") {
		if !slices.Contains(before, name) {
			t.Errorf("it has written %s", name)
		}
	}
}

// A repair takes the last index object of a session away that goes on: whoever gives the
// session up later puts the fence where the session comes to all the same.
func TestRepairHidesNoNumber(t *testing.T) {
	store, s := begun(t)
	all := namesUnder(store, "index/")
	store.Damage(all[len(all)-1], flip)
	check(t, openSmall(t, store), repo.CheckOptions{Repair: true})
	giveUp(t, store)
	wantStopped(t, store, s)
	wantClean(t, openSmall(t, store))
}

// Somebody else puts an object at a number that the session has not come to: that leads no fence
// past it.
func TestFenceIsNotLedPastTheSession(t *testing.T) {
	for _, number := range []string{"7", "2147483647", "9223372036854775807"} {
		store, s := begun(t)
		all := namesUnder(store, "index/")
		as := all[0][:strings.LastIndexByte(all[0], '.')+1] + number
		if err := repo.CopyIndex(t.Context(), openSmall(t, store), all[0], as); err != nil {
			t.Fatal(err)
		}
		giveUp(t, store)
		fences := len(namesUnder(store, "index/"))
		wantStopped(t, store, s)
		giveUp(t, store)
		if n := len(namesUnder(store, "index/")); n > fences {
			t.Errorf("%d objects more after it was given up again", n-fences)
		}
		wantClean(t, openSmall(t, store))
	}
}

// A fence that nobody can read any more is one again after a repair.
func TestRepairKeepsFences(t *testing.T) {
	store, s := begun(t)
	giveUp(t, store)
	all := namesUnder(store, "index/")
	store.Damage(all[len(all)-1], flip)
	check(t, openSmall(t, store), repo.CheckOptions{Repair: true})
	wantStopped(t, store, s)
	wantClean(t, openSmall(t, store))
}
