package repo_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/lull-backup/lull/transport/blob/mem"
	"github.com/lull-backup/lull/transport/block"
	"github.com/lull-backup/lull/transport/repo"
)

// A host that was taken over lists other content under the names of blocks that others
// have stored. Maintenance takes none of its copies for theirs.
func TestPruneKeepsWhatAStrangerClaimsToHave(t *testing.T) {
	for hour := range 4 { // names of packs are random: whose is the first is too
		store := mem.New()
		initRepo(t, store)
		for _, label := range []string{"evil", "good"} {
			addKey(t, store, label, repo.RoleBackup)
		}
		addKey(t, store, "keeper", repo.RoleMaintain)
		disk := image(1, 100*block.PageSize)
		p := again(t, openAs(t, store, "good", repo.OpenOptions{}), "lab/web", disk, 0)
		evil := openAs(t, store, "evil", repo.OpenOptions{Domain: repo.Domain{Own: true}})
		if err := repo.Poison(t.Context(), evil, disk, clock().Add(hours(hour))); err != nil {
			t.Fatal(err)
		}
		for _, label := range []string{"keeper", "keeper", "keeper"} {
			prune(t, openAs(t, store, label, repo.OpenOptions{}), atOnce)
		}
		wantDisk(t, openRepo(t, store), p.Disks[0].Root, disk)
	}
}

// A host that was taken over lists other content under the names of map nodes that others
// have stored. That stops no maintenance.
func TestPruneGoesPastNodesThatAreNot(t *testing.T) {
	for range 4 {
		store := mem.New()
		initRepo(t, store)
		addKey(t, store, "evil", repo.RoleBackup)
		disk := image(1, 100*block.PageSize)
		p := mustCommit(t, openRepo(t, store), "lab/web", disk)
		evil := openAs(t, store, "evil", repo.OpenOptions{})
		if err := repo.PoisonNode(t.Context(), evil, p.Disks[0].Root.Node, clock()); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			prune(t, openRepo(t, store), atOnce)
		}
		wantDisk(t, openRepo(t, store), p.Disks[0].Root, disk)
	}
}

// A thin pack that cannot be read any more is left as it is, and stops no maintenance.
func TestPruneGoesPastDamagedThinPacks(t *testing.T) {
	store, old, _, _ := lived(t)
	r := openSmall(t, store)
	if err := r.Forget(t.Context(), []repo.Point{old}); err != nil {
		t.Fatal(err)
	}
	for _, name := range objects(store, "packs/") {
		if kindOf(t, store, name) == 'D' {
			store.Damage(name, func(b []byte) []byte {
				for at := 2 << 10; at < len(b)-64<<10; at += 16 << 10 { // not the directory
					b[at] ^= 4
				}
				return b
			})
		}
	}
	before := objects(store, "packs/")
	for range 3 {
		if report := prune(t, openSmall(t, store), atOnce); report.Rewritten > 0 {
			t.Errorf("%d damaged packs were rewritten", report.Rewritten)
		}
	}
	if after := objects(store, "packs/"); len(after) == 0 || len(after) > len(before) {
		t.Errorf("%d packs of %d", len(after), len(before))
	}
}

// What was found damaged is no copy of what was stored again after it.
func TestPruneKeepsWhatWasStoredAgain(t *testing.T) {
	for range 4 {
		store := mem.New()
		initRepo(t, store)
		disk := image(1, 100*block.PageSize)
		again(t, openRepo(t, store), "lab/web", disk, 0)
		for _, name := range objects(store, "packs/") {
			if kindOf(t, store, name) == 'D' {
				store.Damage(name, func(b []byte) []byte { b[len(b)/3] ^= 4; return b })
			}
		}
		if report := check(t, openRepo(t, store), repo.CheckOptions{ReadAll: true}); len(report.Problems) == 0 {
			t.Fatal("check finds nothing")
		}
		p := again(t, openRepo(t, store), "lab/web", disk, 1)
		if p.Stats.New == 0 {
			t.Fatal("nothing was stored again")
		}
		for range 3 {
			prune(t, openRepo(t, store), atOnce)
		}
		got, err := restore(t.Context(), openRepo(t, store), p.Disks[0].Root)
		if err != nil || !bytes.Equal(got, disk) {
			t.Errorf("after prune: %v", err)
		}
	}
}

// A block is found where it is whole, however many hosts that were taken over claim to have
// it too.
func TestRestoreGoesPastPoisonedCopies(t *testing.T) {
	store := mem.New()
	initRepo(t, store)
	addKey(t, store, "evil", repo.RoleBackup)
	disk := image(1, 100*block.PageSize)
	p := mustCommit(t, openRepo(t, store), "lab/web", disk)
	evil := openAs(t, store, "evil", repo.OpenOptions{})
	for hour := range 40 { // names of packs are random: so many that some are found first
		if err := repo.Poison(t.Context(), evil, disk, clock().Add(hours(hour))); err != nil {
			t.Fatal(err)
		}
	}
	wantDisk(t, openRepo(t, store), p.Disks[0].Root, disk)
}

// A repair of the structure reads no copies of blocks elsewhere, and so believes in none: it
// saves what can be read of a damaged pack, whoever claims to have it too.
func TestRepairBelievesNoCopyThatItHasNotRead(t *testing.T) {
	for hour := range 4 { // names of packs are random: whose is found first is too
		store := mem.New()
		initRepo(t, store)
		addKey(t, store, "evil", repo.RoleBackup)
		disk := image(1, 100*block.PageSize)
		p := mustCommit(t, openRepo(t, store), "lab/web", disk)
		good := objects(store, "packs/")
		evil := openAs(t, store, "evil", repo.OpenOptions{Domain: repo.Domain{Own: true}})
		if err := repo.Poison(t.Context(), evil, disk, clock().Add(hours(hour))); err != nil {
			t.Fatal(err)
		}
		for _, name := range good { // the signature: all that it holds can be read
			store.Damage(name, func(b []byte) []byte { b[len(b)-3] ^= 1; return b })
		}
		report := check(t, openRepo(t, store), repo.CheckOptions{Repair: true})
		if report.Repaired == nil || report.Repaired.Packs != len(good) || len(report.Remaining) > 0 {
			t.Fatalf("%+v", report)
		}
		wantDisk(t, openRepo(t, store), p.Disks[0].Root, disk)
	}
}

// A host that was taken over lists again, under its own signature, what another has listed: of
// packs that are there, or of those that maintenance has deleted since. The other takes those
// that are gone for known in neither case, whether or not it has seen both lists before, and
// those that are there as if there were no second list.
func TestListedAgainByAStranger(t *testing.T) {
	for _, domain := range []repo.Domain{{}, {Own: true}, {Trusted: []string{"other"}}} {
		t.Run(domain.String(), func(t *testing.T) {
			store := mem.New()
			initRepo(t, store)
			for _, label := range []string{"evil", "good"} {
				addKey(t, store, label, repo.RoleBackup)
			}
			disk := image(1, 100*block.PageSize)
			p := again(t, openAs(t, store, "good", repo.OpenOptions{Domain: domain}), "lab/web", disk, 0)
			listed := objects(store, "index/")[0]
			before := store.Clone()
			evil := openAs(t, before, "evil", repo.OpenOptions{})
			again(t, evil, "lab/evil", image(2, block.PageSize), 1)
			var as string
			for _, name := range objects(before, "index/") {
				if name != listed {
					as = strings.TrimSuffix(name, ".0") + ".1"
				}
			}
			if err := repo.CopyIndex(t.Context(), evil, listed, as); err != nil {
				t.Fatal(err)
			}
			restoreObject(t, before, store, as)
			cache := t.TempDir()
			q := again(t, openAs(t, store, "good", repo.OpenOptions{Domain: domain, Cache: cache}), "lab/web", disk, 2)
			if q.Stats.New != 0 {
				t.Errorf("%d bytes were stored again", q.Stats.New)
			}
			if err := openRepo(t, store).Forget(t.Context(), []repo.Point{p, q}); err != nil {
				t.Fatal(err)
			}
			for range 3 {
				prune(t, openRepo(t, store), atOnce)
			}
			if left := objects(store, "packs/"); len(left) > 0 {
				t.Fatalf("not deleted: %q", left)
			}
			// What was dropped by name counts no more; another name is free.
			more := strings.TrimSuffix(as, ".1") + ".2"
			if err := repo.CopyIndex(t.Context(), evil, listed, more); err != nil {
				t.Fatal(err)
			}
			restoreObject(t, before, store, more)
			for hour, folder := range []string{cache, ""} {
				last := store.Clone()
				q := again(t, openAs(t, last, "good", repo.OpenOptions{Domain: domain, Cache: folder}), "lab/web", disk, 3+hour)
				if q.Stats.New != p.Stats.New {
					t.Errorf("%d new bytes, want all %d", q.Stats.New, p.Stats.New)
				}
				wantDisk(t, openRepo(t, last), q.Disks[0].Root, disk)
			}
		})
	}
}
