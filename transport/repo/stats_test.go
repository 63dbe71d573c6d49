package repo_test

import (
	"bytes"
	"testing"

	"github.com/lull-backup/lull/transport/blob/mem"
	"github.com/lull-backup/lull/transport/block"
	"github.com/lull-backup/lull/transport/repo"
)

// What VMs share is told from what is theirs alone, and all that is stored is
// accounted for.
func TestUsage(t *testing.T) {
	store := mem.New()
	initRepo(t, store)
	r := openRepo(t, store)
	common := image(1, 2*block.WindowSize)
	mustCommit(t, r, "lab/a", common, image(2, block.WindowSize))
	mustCommit(t, r, "lab/b", common)
	again := bytes.Clone(common)
	copy(again[block.WindowSize:], image(3, block.WindowSize/2))
	p := mustCommit(t, r, "lab/b", again)
	u, err := r.Usage(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if u.Points != 3 || len(u.VMs) != 2 || u.VMs[1].Points != 2 || u.VMs[1].Data != p.Disks[0].Root.Data || u.Unused != 0 || u.Twice != 0 {
		t.Fatalf("%+v", u)
	}
	a, b := u.VMs[0], u.VMs[1]
	if a.Shared != b.Shared || a.Share > a.Shared/2 || a.Share < a.Shared/2-10_000 || a.Shared < 4<<20 || a.Alone < 2<<20 || b.Alone < 1<<20 {
		t.Errorf("%+v\n%+v", a, b)
	}
	var grown int64
	for _, g := range u.Growth {
		grown += g.Added
	}
	accounted := a.Alone + b.Alone + a.Shared
	if grown != accounted || accounted > u.Stored || accounted < u.Stored-100_000 {
		t.Errorf("grown %d, accounted %d, stored %d", grown, accounted, u.Stored)
	}
	// A host that knew nothing of the others stores all again, for a point that is gone.
	early := openRepo(t, store)
	mustCommit(t, early, "lab/c", image(9, block.WindowSize))
	spoil(t, store, "points/", func(name string) {
		if !contains(name, u) {
			if err := store.Delete(t.Context(), name); err != nil {
				t.Fatal(err)
			}
		}
	})
	if u, err := openRepo(t, store).Usage(t.Context()); err != nil || u.Unused < 2<<20 {
		t.Errorf("unused %d, %v", u.Unused, err)
	}
}

func contains(object string, u repo.Usage) bool {
	for _, g := range u.Growth {
		if bytes.Contains([]byte(object), bytes.ToLower([]byte(g.Point))) {
			return true
		}
	}
	return false
}
