package repo_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/lull-backup/lull/transport/blob"
	"github.com/lull-backup/lull/transport/blob/mem"
	"github.com/lull-backup/lull/transport/block"
	"github.com/lull-backup/lull/transport/repo"
)

// lockedLife is a store with locks that holds a point to be forgotten and one that stays.
func lockedLife(t *testing.T) (s *lockedStore, r *repo.Repository, old, kept repo.Point, disk []byte) {
	t.Helper()
	s = newLockedStore()
	initRepo(t, s.store)
	r = s.open(t)
	old = mustCommit(t, r, "lab/web", image(1, block.WindowSize))
	disk = image(2, block.WindowSize)
	return s, r, old, mustCommit(t, r, "lab/web", disk), disk
}

// A point that the store keeps is not forgotten, and nothing says that it is.
func TestForgetUnderLock(t *testing.T) {
	s, r, old, kept, _ := lockedLife(t)
	err := r.Forget(t.Context(), []repo.Point{old})
	var locked *repo.LockedError
	if !errors.As(err, &locked) || len(locked.Points) != 1 || !locked.Until.Equal(s.time().Add(lockPeriod)) || !errors.Is(err, blob.ErrLocked) {
		t.Fatalf("%v", err)
	}
	if n := count(s.Store, "forgotten/"); n != 0 {
		t.Errorf("%d tombstones of a point that stays", n)
	}
	if err := r.Hold(t.Context(), old, ""); err != nil {
		t.Errorf("hold a point that stays: %v", err)
	}
	if err := r.Release(t.Context(), old); err != nil {
		t.Fatal(err)
	}
	s.pass(lockPeriod + time.Second)
	if err := r.Forget(t.Context(), []repo.Point{old}); err != nil {
		t.Fatal(err)
	}
	if left, err := r.Points(t.Context(), ""); err != nil || len(left) != 1 || left[0].ID != kept.ID {
		t.Errorf("%d points, %v", len(left), err)
	}
}

// blind is a store that keeps its locks to itself.
type blind struct{ blob.Store }

// A store that does not tell of its locks refuses the deletion: the point stays, whole, and
// a prune takes nothing of it.
func TestForgetUnderALockThatShowsLate(t *testing.T) {
	s, _, old, kept, disk := lockedLife(t)
	r, err := repo.Open(t.Context(), blind{s.store}, repo.Small(repo.OpenOptions{Passphrase: passphrase, Now: s.time}))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := r.Forget(t.Context(), []repo.Point{old}); !errors.Is(err, blob.ErrLocked) {
		t.Fatalf("%v, want %v", err, blob.ErrLocked)
	}
	for range 3 {
		prune(t, r, atOnce)
	}
	wantClean(t, r)
	wantDisk(t, r, old.Disks[0].Root, image(1, block.WindowSize))
	wantDisk(t, r, kept.Disks[0].Root, disk)
	s.pass(lockPeriod + time.Second)
	if err := r.Forget(t.Context(), []repo.Point{old}); err != nil {
		t.Fatal(err)
	}
	// The packs' locks are over too.
	var deleted int
	for range 3 {
		deleted += prune(t, r, atOnce).Deleted
	}
	if deleted == 0 {
		t.Error("nothing deleted")
	}
	wantClean(t, r)
	wantDisk(t, r, kept.Disks[0].Root, disk)
}

// Packs that the store keeps for longer than their points stay, are said to, and go when
// their time is over.
func TestPruneUnderLock(t *testing.T) {
	s, r, old, kept, disk := lockedLife(t)
	longer := blob.Lock{Mode: blob.Compliance, Until: s.time().Add(2 * lockPeriod)}
	for _, name := range s.Names() {
		if strings.HasPrefix(name, "packs/") || strings.HasPrefix(name, "index/") {
			if err := s.Retain(t.Context(), name, longer); err != nil {
				t.Fatal(err)
			}
		}
	}
	s.pass(lockPeriod + time.Second)
	if err := r.Forget(t.Context(), []repo.Point{old}); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		report := prune(t, r, atOnce)
		if report.Deleted > 0 || report.Marked > 0 || report.Locked == 0 || !report.LockedUntil.Equal(longer.Until) {
			t.Errorf("while locked: %+v", report)
		}
	}
	wantClean(t, r)
	if report := prune(t, r, repo.PruneOptions{DryRun: true}); report.Locked == 0 || report.Marked > 0 {
		t.Errorf("dry run: %+v", report)
	}
	s.pass(lockPeriod)
	deleted := 0
	for range 3 {
		deleted += prune(t, r, atOnce).Deleted
	}
	if left := prune(t, r, repo.PruneOptions{DryRun: true}); deleted == 0 || left.Unused > 0 {
		t.Errorf("%d packs deleted after their time: %+v", deleted, left)
	}
	wantClean(t, r)
	wantDisk(t, r, kept.Disks[0].Root, disk)
}

// Locks that are made between the mark and the deletion, of packs and index objects, stop
// no maintenance: what is decided stays decided, over later decisions too.
func TestLockedBetweenMarkAndDeletion(t *testing.T) {
	s, _, old, kept, disk := lockedLife(t)
	s.pass(lockPeriod + time.Second)
	r, err := repo.Open(t.Context(), blind{s.Store}, repo.Small(repo.OpenOptions{Passphrase: passphrase, Now: s.time}))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	another := mustCommit(t, r, "lab/db", image(3, block.WindowSize))
	forget := func(p repo.Point) {
		if err := r.Forget(t.Context(), []repo.Point{p}); err != nil {
			t.Fatal(err)
		}
	}
	forget(old)
	prune(t, r, atOnce)
	for _, name := range s.Names() {
		if strings.HasPrefix(name, "packs/") || strings.HasPrefix(name, "index/") {
			if err := s.Retain(t.Context(), name, blob.Lock{Mode: blob.Governance, Until: s.time().Add(time.Hour)}); err != nil {
				t.Fatal(err)
			}
		}
	}
	forget(another)
	for range 4 {
		if report := prune(t, r, atOnce); report.Deleted > 0 {
			t.Errorf("deleted under lock: %+v", report)
		}
		wantClean(t, r)
	}
	// What is dropped is known to nobody, and stored anew.
	again := mustCommit(t, r, "lab/late", image(1, block.WindowSize))
	if again.Stats.New != block.WindowSize {
		t.Errorf("%d bytes stored anew of a disk whose packs are to go", again.Stats.New)
	}
	s.pass(2 * time.Hour)
	deleted := 0
	for range 4 {
		deleted += prune(t, r, atOnce).Deleted
	}
	if left := prune(t, r, repo.PruneOptions{DryRun: true}); deleted == 0 || left.Unused > 0 {
		t.Errorf("%d packs deleted in the end, %d bytes left: %+v", deleted, left.Unused, left)
	}
	wantClean(t, r)
	wantDisk(t, r, kept.Disks[0].Root, disk)
	wantDisk(t, r, again.Disks[0].Root, image(1, block.WindowSize))
}

// A bucket that locks everything by itself for a while, sessions and leases too, is a
// nuisance and no more.
func TestMaintenanceWhereEverythingIsLocked(t *testing.T) {
	now := clock()
	at := func() time.Time { return now }
	store := mem.NewLocking(at, blob.Locking{Enabled: true, Mode: blob.Governance, For: 48 * time.Hour})
	initRepo(t, store)
	open := func() *repo.Repository {
		r, err := repo.Open(t.Context(), store, repo.Small(repo.OpenOptions{Passphrase: passphrase, Now: at}))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { r.Close() })
		return r
	}
	r := open()
	old := mustCommit(t, r, "lab/web", image(1, block.WindowSize))
	kept := mustCommit(t, r, "lab/web", image(2, block.WindowSize))
	deleted := 0
	for day := range 12 {
		now = now.Add(25 * time.Hour)
		if day == 2 {
			if err := r.Forget(t.Context(), []repo.Point{old}); err != nil {
				t.Fatal(err)
			}
		}
		deleted += prune(t, r, repo.PruneOptions{}).Deleted
		wantClean(t, r)
	}
	if deleted == 0 {
		t.Error("nothing was ever deleted")
	}
	wantDisk(t, open(), kept.Disks[0].Root, image(2, block.WindowSize))
}

// That a key is removed counts from the moment that it is said, though its file stays.
func TestRemoveKeyUnderLock(t *testing.T) {
	s := newLockedStore()
	initRepo(t, s.store)
	addKey(t, s.store, "thief", repo.RoleBackup)
	r := s.open(t)
	s.pass(time.Minute)
	if k, err := r.RemoveKey(t.Context(), "thief"); err != nil || !k.Kept {
		t.Fatalf("%+v, %v", k, err)
	}
	all, err := r.Keys(t.Context())
	if err != nil || len(all) != 2 || !all[1].Kept || all[1].Removed.IsZero() {
		t.Errorf("%+v, %v", all, err)
	}
	s.pass(time.Minute)
	thief := openAs(t, s.store, "thief", repo.OpenOptions{Now: s.time})
	if _, err := commit(t.Context(), thief, "lab/web", image(1, block.WindowSize)); err == nil {
		points, err := s.open(t).Points(t.Context(), "")
		if len(points) != 0 || !errors.Is(err, repo.ErrForged) {
			t.Errorf("a removed key made %d points that count, %v", len(points), err)
		}
	}
}
