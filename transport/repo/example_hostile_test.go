package repo_test

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/lull-backup/lull/transport/blob/dir"
	"github.com/lull-backup/lull/transport/blob/mem"
	"github.com/lull-backup/lull/transport/block"
	"github.com/lull-backup/lull/transport/repo"
)

// The reader in another language finds each block where it is whole, though others claim to
// have it too, and though their packs are broken besides.
func TestExampleReaderGoesPastPoisonedCopies(t *testing.T) {
	folder, disk := t.TempDir(), image(1, 24*block.PageSize)
	store, err := dir.Open(folder)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	initRepo(t, store)
	addKey(t, store, "evil", repo.RoleBackup)
	// Index objects of one VM are in order of their dates: the good one is in the middle.
	p := again(t, openRepo(t, store), "lab/evil", disk, 1)
	good := packFiles(t, folder)
	evil := openAs(t, store, "evil", repo.OpenOptions{Domain: repo.Domain{Own: true}})
	for _, hour := range []int{0, 2} {
		at := clock().Add(hours(hour))
		if err := repo.Poison(t.Context(), evil, disk, at); err != nil {
			t.Fatal(err)
		}
		if err := repo.PoisonNode(t.Context(), evil, p.Disks[0].Root.Node, at); err != nil {
			t.Fatal(err)
		}
	}
	restored := filepath.Join(t.TempDir(), "disk.raw")
	runExample(t, string(passphrase), folder, p.ID, "", restored)
	wantRestored(t, restored, disk)
	for i, pack := range packFiles(t, folder) {
		if slices.Contains(good, pack) {
			continue
		}
		broken := os.Truncate(pack, 1300) // in the first segment
		if i%2 == 0 {
			broken = os.Remove(pack)
		}
		if broken != nil {
			t.Fatal(broken)
		}
	}
	restored += ".2"
	runExample(t, string(passphrase), folder, p.ID, "", restored)
	wantRestored(t, restored, disk)
}

func packFiles(t *testing.T, folder string) []string {
	t.Helper()
	packs, err := filepath.Glob(filepath.Join(folder, "packs", "*", "*"))
	if err != nil || len(packs) == 0 {
		t.Fatal(packs, err)
	}
	return packs
}

// Index objects that maintenance has dropped, or made and not named, are no part of the
// repository: it does not matter what is in them.
func TestExampleReaderPassesOverDroppedIndexObjects(t *testing.T) {
	store, disk := mem.New(), image(2, 24*block.PageSize)
	initRepo(t, store)
	old := again(t, openRepo(t, store), "lab/web", image(1, len(disk)), 0)
	kept := again(t, openRepo(t, store), "lab/web", disk, 1)
	if err := openRepo(t, store).Forget(t.Context(), []repo.Point{old}); err != nil {
		t.Fatal(err)
	}
	before := objects(store, "index/")
	var dropped []string
	for n := 0; n < 3 && len(dropped) == 0; n++ {
		prune(t, openRepo(t, store), atOnce)
		there := objects(store, "index/")
		dropped = slices.DeleteFunc(slices.Clone(before), func(name string) bool { return slices.Contains(there, name) })
	}
	if len(dropped) == 0 {
		t.Fatal("no index object was dropped")
	}
	for _, name := range append(dropped, "index/m00000000000000ff.0123456789abcdef") {
		if err := store.Create(t.Context(), name, []byte("came back, and broken")); err != nil {
			t.Fatal(err)
		}
	}
	folder := t.TempDir()
	saveGolden(t, folder, store)
	restored := filepath.Join(t.TempDir(), "disk.raw")
	runExample(t, string(passphrase), folder, kept.ID, "", restored)
	wantRestored(t, restored, disk)
}
