package repo_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lull-backup/lull/transport/blob"
	"github.com/lull-backup/lull/transport/blob/faults"
	"github.com/lull-backup/lull/transport/blob/mem"
	"github.com/lull-backup/lull/transport/block"
	"github.com/lull-backup/lull/transport/repo"
	"github.com/lull-backup/lull/transport/repo/internal/keys"
)

// removals is a repository with keys to remove, in a store that says whatever time it is
// told to.
type removals struct {
	t     *testing.T
	store *mem.Store
	now   time.Time
}

func newRemovals(t *testing.T) *removals {
	t.Helper()
	m := &removals{t: t, now: clock()}
	m.store = mem.NewAt(func() time.Time { m.now = m.now.Add(time.Second); return m.now })
	initRepo(t, m.store)
	for label, roles := range map[string]repo.Roles{
		"host1": repo.RoleBackup, "host2": repo.RoleBackup, "keeper": repo.RoleMaintain, "thief": repo.RoleMaintain,
	} {
		addKey(t, m.store, label, roles)
	}
	return m
}

func (m *removals) as(label string) *repo.Repository {
	m.t.Helper()
	return openAs(m.t, m.store, label, repo.OpenOptions{})
}

func (m *removals) remove(by *repo.Repository, label string) {
	m.t.Helper()
	if _, err := by.RemoveKey(m.t.Context(), label); err != nil {
		m.t.Fatal(err)
	}
}

// move copies all objects into another store, the last names first: so none keeps its time,
// nor its place in time.
func (m *removals) move() *mem.Store {
	m.t.Helper()
	to := mem.NewAt(func() time.Time { m.now = m.now.Add(time.Hour); return m.now })
	names := m.store.Names()
	slices.Reverse(names)
	for _, name := range names {
		b, err := m.store.Read(m.t.Context(), name, 0, -1)
		if err == nil {
			err = to.Create(m.t.Context(), name, b)
		}
		if err != nil {
			m.t.Fatal(err)
		}
	}
	return to
}

// A bucket that is moved has all times anew: what removed keys had signed stays good,
// points, tombstones, removals and decisions of maintenance.
func TestRemovedKeysOutliveAMove(t *testing.T) {
	m := newRemovals(t)
	disk := image(1, 40*block.PageSize)
	gone := again(t, m.as("host1"), "lab/web", image(2, 20*block.PageSize), 0)
	kept := again(t, m.as("host1"), "lab/web", disk, 1)
	thief := m.as("thief")
	if err := thief.Forget(t.Context(), []repo.Point{gone}); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := thief.Prune(t.Context(), repo.PruneOptions{}); err != nil {
			t.Fatal(err)
		}
		m.now = m.now.Add(30 * time.Hour)
	}
	m.remove(thief, "host2")
	m.remove(openRepo(t, m.store), "thief")
	m.remove(openRepo(t, m.store), "host1")
	m.store = m.move()

	r := openRepo(t, m.store)
	points, err := r.Points(t.Context(), "")
	if err != nil || len(points) != 1 || points[0].ID != kept.ID {
		t.Errorf("%d points, %v, want %s", len(points), err, kept.ID)
	}
	all, err := r.Keys(t.Context())
	if n := len(slices.DeleteFunc(all, func(k repo.Key) bool { return k.Removed.IsZero() })); err != nil || n != 3 {
		t.Errorf("%d keys are removed, %v, want 3", n, err)
	}
	wantClean(t, r)
	wantDisk(t, r, kept.Disks[0].Root, disk)
}

// A store that lies about times makes no point of a removed key good that came after it.
func TestRemovedKeyAndALyingStore(t *testing.T) {
	m := newRemovals(t)
	old := again(t, m.as("host1"), "lab/web", image(1, 20*block.PageSize), 0)
	thief := m.as("host1")
	m.remove(openRepo(t, m.store), "host1")
	m.now = clock().Add(-time.Hour)
	again(t, thief, "lab/web", image(2, 20*block.PageSize), 1)
	points, err := openRepo(t, m.store).Points(t.Context(), "")
	if !errors.Is(err, repo.ErrForged) || len(points) != 1 || points[0].ID != old.ID {
		t.Errorf("%d points, %v, want %s and %v", len(points), err, old.ID, repo.ErrForged)
	}
}

// A record of before does not tell what the key had signed: times do.
func TestRemovalOfBefore(t *testing.T) {
	m := newRemovals(t)
	old := again(t, m.as("host1"), "lab/web", image(1, 20*block.PageSize), 0)
	thief := m.as("host1")
	if err := repo.RemoveKeyAsBefore(t.Context(), openRepo(t, m.store), "host1"); err != nil {
		t.Fatal(err)
	}
	again(t, thief, "lab/web", image(2, 20*block.PageSize), 1)
	points, err := openRepo(t, m.store).Points(t.Context(), "")
	if !errors.Is(err, repo.ErrForged) || len(points) != 1 || points[0].ID != old.ID {
		t.Errorf("%d points, %v, want %s and %v", len(points), err, old.ID, repo.ErrForged)
	}
}

// Whose key was removed removes nobody any more, whatever time the store gives that; what
// it had removed before stays removed.
func TestRemovedKeyRemovesNobody(t *testing.T) {
	for _, by := range []string{"owner", "keeper"} {
		t.Run("by the "+by, func(t *testing.T) {
			m := newRemovals(t)
			point := again(t, m.as("host1"), "lab/web", image(1, 20*block.PageSize), 0)
			thief := m.as("thief")
			m.remove(thief, "host2")
			remover := openRepo(t, m.store)
			if by == "keeper" {
				remover = m.as("keeper")
			}
			m.remove(remover, "thief")
			m.now = clock().Add(-time.Hour)
			if _, err := thief.RemoveKey(t.Context(), "host1"); err != nil {
				t.Fatal(err)
			}
			r := openRepo(t, m.store)
			points, err := r.Points(t.Context(), "")
			if !errors.Is(err, repo.ErrForged) || len(points) != 1 || points[0].ID != point.ID {
				t.Errorf("%d points, %v, want %s and %v", len(points), err, point.ID, repo.ErrForged)
			}
			gone := map[string]bool{}
			all, err := r.Keys(t.Context())
			for _, k := range all {
				gone[k.Label] = !k.Removed.IsZero()
			}
			if err != nil || gone["host1"] || !gone["host2"] || !gone["thief"] {
				t.Errorf("removed are %v, %v", gone, err)
			}
		})
	}
}

// Whatever a thief makes, its key is removed: objects that only bear the certificate and
// sessions take no room in the record, and of what it has signed the oldest is listed.
func TestThiefKeepsNoKeyFromBeingRemoved(t *testing.T) {
	m := newRemovals(t)
	var points []repo.Point
	for n := range 4 {
		points = append(points, again(t, m.as("host1"), "lab/web", image(uint64(n), 20*block.PageSize), n))
	}
	thief := m.as("host1")
	for range 5 {
		mustBegin(t, thief)
	}
	if err := repo.Unsigned(t.Context(), thief, 20); err != nil {
		t.Fatal(err)
	}
	k, err := repo.RemoveKeyWithRoom(t.Context(), openRepo(t, m.store), "host1", 3)
	if err != nil || k.Unlisted != 1+len(points) { // each has an index object as small as a fence
		t.Fatalf("%d unlisted, %v", k.Unlisted, err)
	}
	left, err := openRepo(t, m.store).Points(t.Context(), "")
	if !errors.Is(err, repo.ErrForged) || len(left) != 3 || left[2].ID != points[2].ID {
		t.Errorf("%d points, %v, want the first 3 and %v", len(left), err, repo.ErrForged)
	}
	for _, p := range check(t, openRepo(t, m.store), repo.CheckOptions{}).Problems {
		if strings.HasPrefix(p.Object, "sessions/") {
			t.Errorf("check: %v", p)
		}
	}
}

// A thief who has deleted the file of the key that he holds is removed by what he has signed:
// by the key's label, or, where that was given again, by the key itself.
func TestKeyWhoseFileIsGoneIsRemoved(t *testing.T) {
	m := newRemovals(t)
	point := again(t, m.as("host1"), "lab/web", image(1, 20*block.PageSize), 0)
	thief := m.as("host1")
	m.deleteKey("host1")
	if _, err := openRepo(t, m.store).RemoveKey(t.Context(), "host3"); !errors.Is(err, repo.ErrNoKey) {
		t.Errorf("a key that is none: %v, want %v", err, repo.ErrNoKey)
	}
	addKey(t, m.store, "host1", repo.RoleBackup)
	k, err := openRepo(t, m.store).RemoveKey(t.Context(), point.Signer)
	if err != nil || k.Label != "host1" || k.Signer != point.Signer || k.Kept {
		t.Fatalf("%+v, %v", k, err)
	}
	again(t, thief, "lab/web", image(2, 20*block.PageSize), 1)
	points, err := openRepo(t, m.store).Points(t.Context(), "")
	if !errors.Is(err, repo.ErrForged) || len(points) != 1 || points[0].ID != point.ID {
		t.Errorf("%d points, %v, want %s and %v", len(points), err, point.ID, repo.ErrForged)
	}
	next := again(t, m.as("host1"), "lab/db", image(3, 20*block.PageSize), 2)
	m.deleteKey("host1")
	if k, err := openRepo(t, m.store).RemoveKey(t.Context(), "host1"); err != nil || k.Signer != next.Signer {
		t.Errorf("by its label: %+v, %v", k, err)
	}
}

// Maintenance may record that a key is removed where the store lets it delete no key's file.
func TestKeyIsRemovedThoughItsFileStays(t *testing.T) {
	m := newRemovals(t)
	point := again(t, m.as("host1"), "lab/web", image(1, 20*block.PageSize), 0)
	thief := m.as("host1")
	f := faults.New(m.store)
	f.Add(faults.Fault{Op: faults.Delete, Prefix: "keys/", Before: blob.ErrDenied})
	files := len(objects(m.store, "keys/"))
	k, err := openAs(t, f, "keeper", repo.OpenOptions{}).RemoveKey(t.Context(), "host1")
	if err != nil || k.Label != "host1" || !k.Kept {
		t.Fatalf("%+v, %v", k, err)
	}
	if left := len(objects(m.store, "keys/")); left != files {
		t.Errorf("%d key files of %d are left", left, files)
	}
	again(t, thief, "lab/web", image(2, 20*block.PageSize), 1)
	r := openRepo(t, m.store)
	points, err := r.Points(t.Context(), "")
	if !errors.Is(err, repo.ErrForged) || len(points) != 1 || points[0].ID != point.ID {
		t.Errorf("%d points, %v, want %s and %v", len(points), err, point.ID, repo.ErrForged)
	}
	all, err := r.Keys(t.Context())
	if err != nil || !slices.ContainsFunc(all, func(k repo.Key) bool { return k.Label == "host1" && k.Kept && !k.Removed.IsZero() }) {
		t.Errorf("%+v, %v", all, err)
	}

	f.Add(faults.Fault{Op: faults.Create, Prefix: "revoked/", Before: blob.ErrDenied})
	if _, err := openAs(t, f, "keeper", repo.OpenOptions{}).RemoveKey(t.Context(), "host2"); !errors.Is(err, blob.ErrDenied) {
		t.Errorf("without a record of it: %v, want %v", err, blob.ErrDenied)
	}
}

// deleteKey deletes the file of a key, and leaves no word of that.
func (m *removals) deleteKey(label string) {
	m.t.Helper()
	for _, name := range objects(m.store, "keys/") {
		b, err := m.store.Read(m.t.Context(), name, 0, -1)
		if err != nil {
			m.t.Fatal(err)
		}
		if keys.FileLabel(b) != label {
			continue
		}
		if err := m.store.Delete(m.t.Context(), name); err != nil {
			m.t.Fatal(err)
		}
	}
}
