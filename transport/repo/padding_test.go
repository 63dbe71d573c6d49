package repo_test

import (
	"math/bits"
	"testing"

	"github.com/lull-backup/lull/transport/blob/mem"
	"github.com/lull-backup/lull/transport/block"
	"github.com/lull-backup/lull/transport/repo"
)

// roundSize tells whether a size is one that PADMÉ leaves: below its first few bits, as many
// as its logarithm has, all are zero.
func roundSize(size int64) bool {
	log := bits.Len64(uint64(size)) - 1
	return bits.TrailingZeros64(uint64(size)) >= log-bits.Len(uint(log))
}

// unpadded counts the packs whose sizes tell more than padded ones would.
func unpadded(t *testing.T, store *mem.Store) (n, of int) {
	t.Helper()
	for _, name := range objects(store, "packs/") {
		info, err := store.Stat(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		if of++; !roundSize(info.Size) {
			n++
		}
	}
	return n, of
}

// Whoever writes packs pads them when that is asked for: backups, prunes that rewrite and
// repairs.
func TestPaddedRepository(t *testing.T) {
	store := mem.New()
	initRepo(t, store)
	r := padding(t, store)
	disk := image(1, 2*block.WindowSize+9*block.PageSize)
	old := mustCommit(t, r, "lab/web", disk)
	if n, of := unpadded(t, store); n > 0 || of < 3 {
		t.Fatalf("a backup: %d of %d packs are not padded", n, of)
	}

	half := append([]byte(nil), disk...)
	for at := 0; at < len(half); at += repo.MaxSegment / 4 {
		clear(half[at:min(at+repo.MaxSegment/8, len(half))])
	}
	p := mustCommit(t, r, "lab/web", half)
	if err := r.Forget(t.Context(), []repo.Point{old}); err != nil {
		t.Fatal(err)
	}
	if report := prune(t, r, atOnce); report.Rewritten == 0 {
		t.Fatalf("nothing is rewritten: %+v", report)
	}
	if n, of := unpadded(t, store); n > 0 {
		t.Errorf("a prune: %d of %d packs are not padded", n, of)
	}
	prune(t, r, atOnce)

	spoilData(t, store)
	if report := check(t, padding(t, store), repo.CheckOptions{ReadAll: true, Repair: true}); report.Repaired.Blocks == 0 {
		t.Fatalf("nothing is saved: %+v", report.Repaired)
	}
	if n, of := unpadded(t, store); n > 0 {
		t.Errorf("a repair: %d of %d packs are not padded", n, of)
	}
	again(t, padding(t, store), "lab/web", half, 5)
	wantClean(t, openRepo(t, store))
	wantDisk(t, openRepo(t, store), p.Disks[0].Root, half)

	mustCommit(t, openSmall(t, store), "lab/db", image(2, block.WindowSize))
	if n, _ := unpadded(t, store); n == 0 {
		t.Error("packs are padded that nobody wants padded")
	}
}

// padding opens a repository whose packs are small and padded.
func padding(t *testing.T, store *mem.Store) *repo.Repository {
	t.Helper()
	return openWith(t, store, repo.Small(repo.OpenOptions{Passphrase: passphrase, Now: clock, Padding: true}))
}
