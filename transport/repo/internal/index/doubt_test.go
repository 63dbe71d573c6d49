package index

import (
	"slices"
	"testing"
)

// A block that was stored again is found there once its first pack is doubted, however
// often the runs were merged.
func TestDoubtedPacks(t *testing.T) {
	dir := t.TempDir()
	x := open(t, dir)
	const blocks = 300
	packs := [2][32]byte{{1}, {2}}
	for copies, pack := range packs {
		for part := range uint64(10) {
			err := x.Add(t.Context(), Source{byte(copies), byte(part)}, func(yield func(Entry, error) bool) {
				for e := range entries(part*blocks/10, (part+1)*blocks/10) {
					e.Pack = pack
					for range 2 {
						if !yield(e, nil) {
							return
						}
					}
				}
			})
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, x := range []*Index{x, open(t, dir)} {
		wantIn(t, x, blocks, packs[:], packs[:])
		x.Doubt(packs[0])
		wantIn(t, x, blocks, packs[1:], packs[1:])
		x.Doubt(packs[1])
		wantIn(t, x, blocks, packs[:], nil)
	}
}

// wantIn fails unless blocks are found in one of the packs, and by sessions in one of
// known.
func wantIn(t *testing.T, x *Index, blocks uint64, packs, known [][32]byte) {
	t.Helper()
	s := x.Session()
	defer s.Close()
	for i := range blocks {
		loc, ok, err := x.Lookup(nameOf(i))
		if err != nil || !ok || !slices.Contains(packs, loc.Pack) {
			t.Fatalf("block %d is in %v, %v, %v", i, loc, ok, err)
		}
		loc, ok, err = s.Lookup(nameOf(i))
		if err != nil || ok != (known != nil) || ok && !slices.Contains(known, loc.Pack) {
			t.Fatalf("a session knows block %d in %v, %v, %v", i, loc, ok, err)
		}
	}
}
