package repo_test

import (
	"testing"

	counter "github.com/lull-backup/lull/transport/blob/count"
	"github.com/lull-backup/lull/transport/blob/mem"
	"github.com/lull-backup/lull/transport/block"
)

// A disk whose content lies scattered over the packs of another one is restored by
// reading each pack about once, however many blocks lie between neighbours.
func TestScatteredIsReadOnce(t *testing.T) {
	store := mem.New()
	initRepo(t, store)
	const chunk, side = 64 * block.PageSize, 14
	whole := image(3, chunk*side*side)
	scattered := make([]byte, len(whole))
	for i := range side * side {
		copy(scattered[i*chunk:(i+1)*chunk], whole[(i%side*side+i/side)*chunk:])
	}
	r := openRepo(t, store)
	mustCommit(t, r, "whole", whole)
	before := stored(t, store)
	root := mustCommit(t, r, "scattered", scattered).Disks[0].Root
	if added := stored(t, store) - before; added > before/4 {
		t.Fatalf("%d bytes of packs for the scattered disk, %d for the other: they share too little for this test", added, before)
	}

	counting := counter.New(store)
	r = openRepo(t, counting)
	began := counting.Totals().Read
	wantDisk(t, r, root, scattered)
	if read, stored := counting.Totals().Read-began, stored(t, store); read > stored*5/4 {
		t.Errorf("%d bytes read of %d stored", read, stored)
	}
}
