package repo_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/lull-backup/lull/transport/blob/mem"
	"github.com/lull-backup/lull/transport/block"
	"github.com/lull-backup/lull/transport/repo"
)

// poisoned is a repository in which a host that was taken over has put wrong content under
// the names of a disk that another one is about to back up.
func poisoned(t *testing.T) (*mem.Store, []byte) {
	t.Helper()
	store := mem.New()
	initRepo(t, store)
	for _, label := range []string{"evil", "good", "friend"} {
		addKey(t, store, label, repo.RoleBackup)
	}
	disk := image(1, 100*block.PageSize)
	if err := repo.Poison(t.Context(), openAs(t, store, "evil", repo.OpenOptions{}), disk, clock()); err != nil {
		t.Fatal(err)
	}
	return store, disk
}

// A host that puts a wrong block under a good name spoils no backup that does not trust it.
func TestPoisonedBlocksAreNotBuiltOn(t *testing.T) {
	for name, d := range map[string]repo.Domain{
		"own":     {Own: true},
		"trusted": {Trusted: []string{"friend"}},
	} {
		t.Run(name, func(t *testing.T) {
			store, disk := poisoned(t)
			p := again(t, openAs(t, store, "good", repo.OpenOptions{Domain: d}), "lab/web", disk, 0)
			if p.Stats.Dedup != 0 {
				t.Errorf("%d bytes taken from a stranger", p.Stats.Dedup)
			}
			wantDisk(t, openRepo(t, store), p.Disks[0].Root, disk)
		})
	}
}

// Who trusts everybody may be hit. The restore knows, and brings back nothing wrong; so
// does check, and the backup after it stores the blocks again.
func TestPoisonedBlocksAreDetected(t *testing.T) {
	store, disk := poisoned(t)
	p := again(t, openAs(t, store, "good", repo.OpenOptions{}), "lab/web", disk, 0)
	if p.Stats.New != 0 {
		t.Fatalf("%d new bytes: the test poisons nothing", p.Stats.New)
	}
	owner := openRepo(t, store)
	if _, err := restore(t.Context(), owner, p.Disks[0].Root); !errors.Is(err, repo.ErrCorrupt) {
		t.Errorf("restore: %v, want %v", err, repo.ErrCorrupt)
	}
	report, err := owner.Check(t.Context(), repo.CheckOptions{ReadAll: true})
	if err != nil || len(report.Problems) == 0 {
		t.Errorf("check: %+v, %v", report, err)
	}
	mended := again(t, owner, "lab/web", disk, 1)
	wantDisk(t, owner, mended.Disks[0].Root, disk)
	wantDisk(t, owner, p.Disks[0].Root, disk)
}

// In its domain a host deduplicates as ever, and incrementally; what others store it stores
// too, and what maintenance stores it takes.
func TestDomainDeduplicates(t *testing.T) {
	store := mem.New()
	initRepo(t, store)
	for _, label := range []string{"a", "b", "c"} {
		addKey(t, store, label, repo.RoleBackup)
	}
	disk := image(1, 100*block.PageSize)
	other := image(2, 100*block.PageSize)
	a := func(d repo.Domain) *repo.Repository {
		return openAs(t, store, "a", repo.OpenOptions{Domain: d, Cache: t.TempDir()})
	}
	again(t, openAs(t, store, "b", repo.OpenOptions{}), "lab/b", disk, 0)
	again(t, openRepo(t, store), "lab/owner", other, 0)
	for i, step := range []struct {
		domain repo.Domain
		disk   []byte
		new    bool
	}{
		{repo.Domain{Own: true}, disk, true},
		{repo.Domain{Own: true}, disk, false},
		{repo.Domain{Own: true}, other, false}, // the owner's
		{repo.Domain{Trusted: []string{"c"}}, disk, false},
	} {
		p := again(t, a(step.domain), "lab/a", step.disk, i+1)
		if (p.Stats.New > 0) != step.new {
			t.Errorf("step %d: %d new bytes, want some: %v", i, p.Stats.New, step.new)
		}
		if p.Deduplicated != step.domain.String() {
			t.Errorf("step %d: made in domain %q, want %q", i, p.Deduplicated, step.domain)
		}
	}
	if p := again(t, openAs(t, store, "c", repo.OpenOptions{Domain: repo.Domain{Trusted: []string{"b"}}}), "lab/c", disk, 9); p.Stats.New > 0 {
		t.Errorf("%d new bytes although b is trusted", p.Stats.New)
	}
	wantClean(t, openRepo(t, store))
}

// The packs of a key that was removed are built on no more.
func TestRemovedKeyIsInNoDomain(t *testing.T) {
	store, disk := poisoned(t)
	if _, err := openRepo(t, store).RemoveKey(t.Context(), "evil"); err != nil {
		t.Fatal(err)
	}
	p := again(t, openAs(t, store, "good", repo.OpenOptions{}), "lab/web", disk, 0)
	wantDisk(t, openRepo(t, store), p.Disks[0].Root, disk)
}

// Nor is its point a parent, whose windows would not be looked up: neither for a key that
// reads maps nor for one that has the label of the removed one.
func TestPointOfARemovedKeyIsNoParent(t *testing.T) {
	store, disk := poisoned(t)
	made := again(t, openAs(t, store, "evil", repo.OpenOptions{}), "lab/web", disk, 0)
	if made.Stats.New != 0 {
		t.Fatalf("%d new bytes: the test poisons nothing", made.Stats.New)
	}
	if _, err := openRepo(t, store).RemoveKey(t.Context(), "evil"); err != nil {
		t.Fatal(err)
	}
	addKey(t, store, "evil", repo.RoleBackup|repo.RoleRestore)
	r := openAs(t, store, "evil", repo.OpenOptions{})
	parent, err := r.Newest(t.Context(), "lab/web")
	if err != nil || parent.ID != made.ID || parent.SignedBy != r.Label() {
		t.Fatalf("the parent is %s of %s, %v", parent.ID, parent.SignedBy, err)
	}
	if r.Made(&parent) {
		t.Error("a label that was given again makes a point its own")
	}
	p := again(t, r, "lab/web", disk, 1)
	if p.Stats.New != int64(len(disk)) {
		t.Errorf("%d new bytes, want all %d", p.Stats.New, len(disk))
	}
	if !r.Made(&p) {
		t.Error("a point that it has made is not its own")
	}
	wantDisk(t, openRepo(t, store), p.Disks[0].Root, disk)
}

// Nor is a point of a good host from before the removal, in a domain that had the removed key
// in it: it has inherited what only that key's packs claim to hold. One full reading is enough.
func TestPointFromBeforeARemovalIsNoParent(t *testing.T) {
	for name, c := range map[string]struct {
		domain repo.Domain
		hit    bool
	}{
		"all":                  {repo.Domain{}, true},
		"trusts it":            {repo.Domain{Trusted: []string{"evil", "friend"}}, true},
		"trusts somebody else": {repo.Domain{Trusted: []string{"friend"}}, false},
		"own":                  {repo.Domain{Own: true}, false},
	} {
		t.Run(name, func(t *testing.T) {
			store, disk := poisoned(t)
			cache := t.TempDir() // the maps of a key that only backs up
			good := func() *repo.Repository {
				return openAs(t, store, "good", repo.OpenOptions{Domain: c.domain, Cache: cache})
			}
			before := again(t, good(), "lab/web", disk, 0)
			if hit := before.Stats.New == 0; hit != c.hit {
				t.Fatalf("%d new bytes: the test poisons nothing", before.Stats.New)
			}
			if !inherits(t, good(), 1) {
				t.Error("the point is no parent before the removal")
			}
			if _, err := openRepo(t, store).RemoveKey(t.Context(), "evil"); err != nil {
				t.Fatal(err)
			}
			if inherits(t, good(), 2) == c.hit {
				t.Errorf("the point is a parent: %v", !c.hit)
			}
			p := again(t, good(), "lab/web", disk, 3)
			if stored := p.Stats.New == int64(len(disk)); stored != c.hit {
				t.Errorf("%d new bytes, want all %d: %v", p.Stats.New, len(disk), c.hit)
			}
			if !inherits(t, good(), 4) {
				t.Error("the point after the removal is no parent")
			}
			wantDisk(t, openRepo(t, store), p.Disks[0].Root, disk)
		})
	}
}

// Where a removal comes beside a session that does not know of it, its point is none either,
// whatever any clock says. That a key which packs are not signed by is removed concerns nobody.
func TestPointOfASessionBesideARemovalIsNoParent(t *testing.T) {
	store, disk := poisoned(t)
	addKey(t, store, "office", repo.RoleRestore)
	good := openAs(t, store, "good", repo.OpenOptions{Cache: t.TempDir()})
	if _, err := openRepo(t, store).RemoveKey(t.Context(), "evil"); err != nil {
		t.Fatal(err)
	}
	if p := again(t, good, "lab/web", disk, 1); p.Stats.New != 0 {
		t.Fatalf("%d new bytes: the test poisons nothing", p.Stats.New)
	}
	both := func() *repo.Repository { return openRepo(t, store) }
	if inherits(t, both(), 2) {
		t.Error("the point is a parent")
	}
	p := again(t, both(), "lab/web", disk, 3)
	wantDisk(t, both(), p.Disks[0].Root, disk)
	if _, err := both().RemoveKey(t.Context(), "office"); err != nil {
		t.Fatal(err)
	}
	if !inherits(t, both(), 4) {
		t.Error("after the removal of a key that reads the point is no parent")
	}
}

// inherits tells whether a backup of lab/web would build on the point before.
func inherits(t *testing.T, r *repo.Repository, hour int) bool {
	t.Helper()
	s, err := r.Begin(t.Context(), "lab/web", clock().Add(hours(hour)))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	parent, err := s.Parent()
	if err != nil || len(parent.Disks) != 1 {
		t.Fatalf("the parent is %+v, %v", parent, err)
	}
	st, err := s.Stream(t.Context(), parent.Disks[0].Root.Size, &parent.Disks[0].Root)
	if err != nil {
		t.Fatal(err)
	}
	return st.Inherits()
}

// A parent that another host made is none where its word does not count: its map may name
// anything.
func TestParentOfAStrangerIsNone(t *testing.T) {
	store := mem.New()
	initRepo(t, store)
	addKey(t, store, "stranger", repo.RoleBackup|repo.RoleRestore)
	addKey(t, store, "host", repo.RoleBackup|repo.RoleRestore)
	disk := image(1, 100*block.PageSize)
	again(t, openAs(t, store, "stranger", repo.OpenOptions{}), "lab/web", disk, 0)
	p := again(t, openAs(t, store, "host", repo.OpenOptions{Domain: repo.Domain{Own: true}}), "lab/web", disk, 1)
	if p.Stats.New != int64(len(disk)) {
		t.Errorf("%d new bytes, want all %d", p.Stats.New, len(disk))
	}
	next := again(t, openAs(t, store, "host", repo.OpenOptions{Domain: repo.Domain{Own: true}}), "lab/web", disk, 2)
	if next.Stats.New != 0 {
		t.Errorf("%d new bytes after a point of its own, want none", next.Stats.New)
	}
}

// What was forgotten on the word of a key that may is missed by nobody; any other is.
func TestTombstones(t *testing.T) {
	for name, c := range map[string]struct {
		do   func(t *testing.T, store *mem.Store, p repo.Point) error
		want error
	}{
		"by the owner": {func(t *testing.T, store *mem.Store, p repo.Point) error {
			return repo.Bury(t.Context(), openRepo(t, store), p)
		}, nil},
		"by maintenance": {func(t *testing.T, store *mem.Store, p repo.Point) error {
			return repo.Bury(t.Context(), openAs(t, store, "keeper", repo.OpenOptions{}), p)
		}, nil},
		"by a host that backs up": {func(t *testing.T, store *mem.Store, p repo.Point) error {
			host := openAs(t, store, "host", repo.OpenOptions{})
			if err := repo.Bury(t.Context(), host, p); !errors.Is(err, repo.ErrRole) {
				t.Errorf("%v, want %v", err, repo.ErrRole)
			}
			return bury(t, store, host, p)
		}, repo.ErrOmitted},
		"record left out": {func(t *testing.T, store *mem.Store, p repo.Point) error {
			err := repo.Bury(t.Context(), openRepo(t, store), p)
			dropAll(t, store, "forgotten/")
			return err
		}, repo.ErrOmitted},
		"record changed": {func(t *testing.T, store *mem.Store, p repo.Point) error {
			err := repo.Bury(t.Context(), openRepo(t, store), p)
			for _, name := range namesUnder(store, "forgotten/") {
				store.Damage(name, flip)
			}
			return err
		}, repo.ErrOmitted},
		"another record": {func(t *testing.T, store *mem.Store, p repo.Point) error {
			err := repo.Bury(t.Context(), openRepo(t, store), p)
			dropAll(t, store, "forgotten/")
			p.Hash[3]++
			return errors.Join(err, repo.Bury(t.Context(), openRepo(t, store), p))
		}, repo.ErrOmitted},
	} {
		t.Run(name, func(t *testing.T) {
			store := mem.New()
			initRepo(t, store)
			addKey(t, store, "keeper", repo.RoleMaintain)
			addKey(t, store, "host", repo.RoleBackup)
			r := openRepo(t, store)
			mustCommit(t, r, "lab/web", image(1, 900))
			p := mustCommit(t, r, "lab/web", image(2, 900))
			mustCommit(t, r, "lab/web", image(3, 900))
			if err := c.do(t, store, p); err != nil {
				t.Fatal(err)
			}
			if points, err := openRepo(t, store).Points(t.Context(), "lab/web"); !errors.Is(err, c.want) || len(points) != 2 {
				t.Errorf("%d points, %v, want 2 and %v", len(points), err, c.want)
			}
		})
	}
}

// bury is what the host does who may not: sign a tombstone all the same, and delete.
func bury(t *testing.T, store *mem.Store, host *repo.Repository, p repo.Point) error {
	t.Helper()
	var object string
	for _, name := range namesUnder(store, "points/") {
		b, err := store.Read(t.Context(), name, 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		if repo.HashOf(b) == p.Hash {
			object = name
		}
	}
	plain, err := json.Marshal(map[string][]repo.Head{"points": {{Point: object[len("points/"):], Hash: p.Hash}}})
	if err != nil {
		t.Fatal(err)
	}
	return errors.Join(repo.Forgery(t.Context(), host, 'T', "forgotten/", plain), store.Delete(t.Context(), object))
}

func namesUnder(store *mem.Store, prefix string) (found []string) {
	for _, name := range store.Names() {
		if len(name) > len(prefix) && name[:len(prefix)] == prefix {
			found = append(found, name)
		}
	}
	return found
}

func dropAll(t *testing.T, store *mem.Store, prefix string) {
	t.Helper()
	for _, name := range namesUnder(store, prefix) {
		if err := store.Delete(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
}

// A key can sign what its role is for only: a host cannot remove keys, nor begin an epoch.
func TestForgedWordOnKeys(t *testing.T) {
	store := mem.New()
	initRepo(t, store)
	addKey(t, store, "host", repo.RoleBackup)
	host := openAs(t, store, "host", repo.OpenOptions{})
	if err := repo.Forgery(t.Context(), host, 'R', "revoked/", []byte(`{"certificate":""}`)); err != nil {
		t.Fatal(err)
	}
	r := openRepo(t, store)
	if _, err := r.Points(t.Context(), ""); !errors.Is(err, repo.ErrForged) {
		t.Errorf("%v, want %v", err, repo.ErrForged)
	}
	mustBegin(t, r)
	if report, err := r.Check(t.Context(), repo.CheckOptions{}); err != nil || len(report.Problems) != 1 {
		t.Errorf("check: %+v, %v", report, err)
	}
}

func mustBegin(t *testing.T, r *repo.Repository) {
	t.Helper()
	s, err := r.Begin(t.Context(), "lab/web", clock())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// An index object is believed when it is signed by a key that may write one: not by one that
// only reads.
func TestIndexOfWhoOnlyReads(t *testing.T) {
	store := mem.New()
	initRepo(t, store)
	addKey(t, store, "reader", repo.RoleRestore)
	mustCommit(t, openRepo(t, store), "lab/web", image(1, block.WindowSize))
	object := namesUnder(store, "index/")[0]
	forged := strings.TrimSuffix(object, "0") + "1"
	if err := repo.CopyIndex(t.Context(), openAs(t, store, "reader", repo.OpenOptions{}), object, forged); err != nil {
		t.Fatal(err)
	}
	report := check(t, openRepo(t, store), repo.CheckOptions{})
	if len(report.Problems) != 1 || report.Problems[0].Object != forged {
		t.Errorf("%+v", report.Problems)
	}
	if _, err := openRepo(t, store).Prune(t.Context(), atOnce); !errors.Is(err, repo.ErrForged) {
		t.Errorf("prune: %v, want %v", err, repo.ErrForged)
	}
	check(t, openRepo(t, store), repo.CheckOptions{Repair: true})
	prune(t, openRepo(t, store), atOnce)
	wantClean(t, openRepo(t, store))
}
