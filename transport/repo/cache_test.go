package repo_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/lull-backup/lull/transport/blob/mem"
	"github.com/lull-backup/lull/transport/block"
)

// Bits that flip in the index cache cost reading index objects again. A backup and
// a restore over it are right, and next to nothing is stored twice: a bit of a
// filter, which alone is not checked, may hide a block from a session.
func TestFlippedBitsInTheCache(t *testing.T) {
	store := mem.New()
	initRepo(t, store)
	cache := t.TempDir()
	disk := image(1, 3*block.WindowSize)
	first := mustCommit(t, openCached(t, store, cache), "lab/web", disk)
	for part := range 8 {
		flipCache(t, cache, part, 8)
		r := openCached(t, store, cache)
		wantDisk(t, r, first.Disks[0].Root, disk)
		p := mustCommit(t, r, "lab/other", disk)
		if p.Stats.NewBlocks > 3 {
			t.Errorf("part %d: %d blocks are stored twice", part, p.Stats.NewBlocks)
		}
		wantDisk(t, r, p.Disks[0].Root, disk)
	}
	wantClean(t, openRepo(t, store))
}

// flipCache flips a bit in every so many pages of each run.
func flipCache(t *testing.T, cache string, part, parts int) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(cache, "*", "index", "*.run3"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%d runs in the cache, %v", len(files), err)
	}
	for _, path := range files {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for page := part; page*4096 < len(b); page += parts {
			b[page*4096+17*part] ^= 4
		}
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
