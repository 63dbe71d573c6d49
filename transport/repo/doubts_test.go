package repo_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/lull-backup/lull/transport/blob"
	"github.com/lull-backup/lull/transport/blob/faults"
	"github.com/lull-backup/lull/transport/blob/mem"
	"github.com/lull-backup/lull/transport/block"
	"github.com/lull-backup/lull/transport/repo"
)

// spoil does something to every object under a prefix.
func spoil(t *testing.T, store *mem.Store, prefix string, fn func(name string)) {
	t.Helper()
	n := 0
	for _, name := range store.Names() {
		if strings.HasPrefix(name, prefix) {
			fn(name)
			n++
		}
	}
	if n == 0 {
		t.Fatalf("nothing under %s", prefix)
	}
}

// damage flips a bit in the first segment of a pack, or removes the object.
func damage(t *testing.T, store *mem.Store, remove bool) func(name string) {
	return func(name string) {
		if !remove {
			store.Damage(name, func(b []byte) []byte { b[2000]++; return b })
		} else if err := store.Delete(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
}

// What a check has found damaged is stored again by the next backup, though parent
// and index say that it is there, and the new point restores on any host.
func TestWhatCheckFoundIsStoredAgain(t *testing.T) {
	for _, test := range []struct {
		name, prefix string
		remove, all  bool
	}{
		{"flipped packs", "packs/", false, true},
		{"lost packs", "packs/", true, false},
		{"lost index", "index/", true, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			store, cache := mem.New(), t.TempDir()
			initRepo(t, store)
			disk := image(1, 3*block.WindowSize)
			old := mustCommit(t, openCached(t, store, cache), "lab/web", disk)
			spoil(t, store, test.prefix, damage(t, store, test.remove))
			report, err := openCached(t, store, cache).Check(t.Context(), repo.CheckOptions{ReadAll: test.all})
			if err != nil || len(report.Problems) == 0 {
				t.Fatalf("%d problems, %v", len(report.Problems), err)
			}
			now := mustCommit(t, openCached(t, store, cache), "lab/web", disk)
			if now.Stats.New != int64(len(disk)) {
				t.Errorf("%d bytes stored again, want %d", now.Stats.New, len(disk))
			}
			elsewhere := openRepo(t, store)
			wantDisk(t, elsewhere, now.Disks[0].Root, disk)
			wantDisk(t, elsewhere, old.Disks[0].Root, disk)
			wantUnhurt(t, elsewhere, now.ID)
		})
	}
}

// wantUnhurt fails when a check finds that damage hits the point.
func wantUnhurt(t *testing.T, r *repo.Repository, id string) {
	t.Helper()
	report, err := r.Check(t.Context(), repo.CheckOptions{ReadAll: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range report.Problems {
		if slices.Contains(p.Points, id) {
			t.Errorf("check: %s: %s", p.Object, p.Err)
		}
	}
}

// A check of everything that finds nothing ends the doubts.
func TestCheckSettlesDoubts(t *testing.T) {
	store, cache := mem.New(), t.TempDir()
	initRepo(t, store)
	disk := image(1, 3*block.WindowSize)
	r := openCached(t, store, cache)
	mustCommit(t, r, "lab/web", disk)
	whole := store.Clone()
	spoil(t, store, "packs/", damage(t, store, true))
	if _, err := openCached(t, store, cache).Check(t.Context(), repo.CheckOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := openCached(t, whole, cache).Check(t.Context(), repo.CheckOptions{ReadAll: true}); err != nil {
		t.Fatal(err)
	}
	if p := mustCommit(t, openCached(t, whole, cache), "lab/web", disk); p.Stats.New != 0 {
		t.Errorf("%d bytes stored again", p.Stats.New)
	}
}

// Where damage cannot be noted, neither in the store nor here, a check says so, and all
// that it found.
func TestDoubtsThatCannotBeNoted(t *testing.T) {
	store, cache := mem.New(), t.TempDir()
	initRepo(t, store)
	full := faults.New(store)
	r := openCached(t, full, cache)
	mustCommit(t, r, "lab/web", image(1, 2*block.WindowSize))
	if err := os.Mkdir(filepath.Join(cache, r.ID().String(), "damaged"), 0o700); err != nil {
		t.Fatal(err)
	}
	spoil(t, store, "packs/", damage(t, store, true))
	full.Add(faults.Fault{Op: faults.Create, Prefix: "quarantine/", Before: blob.ErrNoSpace})
	report, err := r.Check(t.Context(), repo.CheckOptions{})
	if err != nil || len(report.Problems) < 2 || !strings.Contains(report.Problems[len(report.Problems)-1].Err, "note damage") {
		t.Errorf("%+v, %v", report.Problems, err)
	}
}

// A damaged file of doubts makes nothing be trusted less than it should.
func TestDamagedDoubts(t *testing.T) {
	store, cache := mem.New(), t.TempDir()
	initRepo(t, store)
	disk := image(1, 2*block.WindowSize)
	r := openCached(t, store, cache)
	mustCommit(t, r, "lab/web", disk)
	path := filepath.Join(cache, r.ID().String(), "damaged")
	if err := os.WriteFile(path, []byte("packs/\x00\n\n"+strings.Repeat("x", 1<<21)), 0o600); err != nil {
		t.Fatal(err)
	}
	p := mustCommit(t, openCached(t, store, cache), "lab/web", disk)
	wantDisk(t, r, p.Disks[0].Root, disk)
}

// Damage that a session meets ends it: what it has taken for known may be hit. The
// next one, in the same process, stores anew what it meets.
func TestDamageEndsTheSession(t *testing.T) {
	for _, prefix := range []string{"packs/", "index/"} {
		store := mem.New()
		initRepo(t, store)
		disk := image(1, 3*block.WindowSize)
		mustCommit(t, openRepo(t, store), "lab/web", disk)
		spoil(t, store, prefix, func(name string) {
			if head, err := store.Read(t.Context(), name, 4, 1); err != nil || head[0] != 'D' { // none reads that
				damage(t, store, true)(name)
			}
		})
		r := openRepo(t, store)
		if _, err := commit(t.Context(), r, "lab/web", disk); !errors.Is(err, repo.ErrCorrupt) {
			t.Fatalf("%s lost: %v, want %v", prefix, err, repo.ErrCorrupt)
		}
		p := mustCommit(t, r, "lab/web", disk)
		wantDisk(t, openRepo(t, store), p.Disks[0].Root, disk)
	}
}

// Damage that comes to light elsewhere ends a session too.
func TestCheckEndsTheSession(t *testing.T) {
	store := mem.New()
	initRepo(t, store)
	r := openRepo(t, store)
	disk := image(1, block.WindowSize)
	mustCommit(t, r, "lab/web", disk)
	s := begin(t, r)
	root, err := backup(t.Context(), s, disk, nil)
	if err != nil {
		t.Fatal(err)
	}
	spoil(t, store, "packs/", damage(t, store, true))
	if _, err := r.Check(t.Context(), repo.CheckOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Commit(t.Context(), repo.Point{VM: "lab/web", Disks: []repo.Disk{{Root: root}}}); !errors.Is(err, repo.ErrCorrupt) {
		t.Errorf("%v, want %v", err, repo.ErrCorrupt)
	}
}

// A stream that could not be finished may have left out a node that others share.
func TestFailedFinishEndsTheSession(t *testing.T) {
	store := mem.New()
	initRepo(t, store)
	disk := image(1, 2*block.WindowSize)
	p := mustCommit(t, openRepo(t, store), "lab/web", disk)
	spoil(t, store, "packs/", damage(t, store, true))
	s := begin(t, openRepo(t, store))
	st, err := s.Stream(t.Context(), int64(len(disk)), &p.Disks[0].Root)
	if err != nil {
		t.Fatal(err)
	}
	put := st.Put(t.Context(), 0, make([]byte, block.WindowSize))
	if err := errors.Join(put, st.Keep(1, 1)); err != nil {
		t.Fatal(err)
	}
	if _, err := st.Finish(t.Context()); !errors.Is(err, repo.ErrCorrupt) {
		t.Errorf("finish: %v, want %v", err, repo.ErrCorrupt)
	}
	if _, err := s.Commit(t.Context(), repo.Point{VM: "lab/web"}); err == nil {
		t.Error("committed after a failed Finish")
	}
}

// A block that lies in two packs is read from the one that is whole.
func TestRestoreFromWhatIsWhole(t *testing.T) {
	base := mem.New()
	initRepo(t, base)
	disk := image(1, 3*block.WindowSize)
	one, two := openRepo(t, base), openRepo(t, base) // neither knows of the other's blocks
	p := mustCommit(t, one, "lab/web", disk)
	before := base.Names()
	mustCommit(t, two, "lab/other", disk)
	for _, first := range []bool{true, false} {
		store := base.Clone()
		spoil(t, store, "packs/", func(name string) {
			if slices.Contains(before, name) == first {
				damage(t, store, name[6] < '8')(name)
			}
		})
		wantDisk(t, openRepo(t, store), p.Disks[0].Root, disk)
	}
}

// hooked calls back after every listing.
type hooked struct {
	blob.Store
	listed func()
}

func (h *hooked) List(ctx context.Context, prefix string, fn func(blob.Info) error) error {
	err := h.Store.List(ctx, prefix, fn)
	h.listed()
	return err
}

// Backups that end while a check runs are no damage.
func TestCheckBesideBackups(t *testing.T) {
	store := mem.New()
	initRepo(t, store)
	other := openRepo(t, store)
	mustCommit(t, other, "lab/web", image(1, block.WindowSize))
	busy := &hooked{Store: store, listed: func() {}}
	r := openRepo(t, busy)
	seed := uint64(10)
	busy.listed = func() {
		seed++
		mustCommit(t, other, "lab/busy", image(seed, 2*block.WindowSize))
	}
	wantClean(t, r)
}

// What another host has stored since the repository was opened is found.
func TestPointsOfOtherHosts(t *testing.T) {
	store := mem.New()
	initRepo(t, store)
	early, late := openRepo(t, store), openRepo(t, store)
	disk := image(1, 3*block.WindowSize)
	mustCommit(t, late, "lab/web", disk)
	p, err := early.Newest(t.Context(), "lab/web")
	if err != nil {
		t.Fatal(err)
	}
	got, err := restore(t.Context(), early, p.Disks[0].Root)
	if err != nil || !bytes.Equal(got, disk) {
		t.Errorf("restored wrong, %v", err)
	}
	if p := mustCommit(t, early, "lab/web", disk); p.Stats.New != 0 {
		t.Errorf("%d new bytes", p.Stats.New)
	}
}

// The newest point that can be read, with an error that names newer ones.
func TestNewest(t *testing.T) {
	store := mem.New()
	initRepo(t, store)
	r := openRepo(t, store)
	if p, err := r.Newest(t.Context(), "lab/web"); err != nil || p.ID != "" {
		t.Errorf("%q, %v of nothing", p.ID, err)
	}
	mustCommit(t, r, "lab/web", image(1, 100))
	good := mustCommit(t, r, "lab/web", image(2, 100))
	mustCommit(t, r, "lab/wec", image(2, 100))
	if p, err := r.Newest(t.Context(), "lab/web"); err != nil || p.ID != good.ID {
		t.Errorf("%s, %v, want %s", p.ID, err, good.ID)
	}
	bad := mustCommit(t, r, "lab/web", image(3, 100))
	spoil(t, store, "points/", func(name string) {
		if strings.HasSuffix(name, strings.ToLower(bad.ID)) {
			store.Damage(name, func(b []byte) []byte { b[len(b)-1]++; return b })
		}
	})
	p, err := r.Newest(t.Context(), "lab/web")
	if p.ID != good.ID || !errors.Is(err, repo.ErrCorrupt) || !strings.Contains(err.Error(), strings.ToLower(bad.ID)) {
		t.Errorf("%s, %v, want %s and an error that names %s", p.ID, err, good.ID, bad.ID)
	}
}
