package index_test

import (
	"encoding/binary"
	"iter"
	"testing"

	"github.com/zeebo/blake3"

	"github.com/lull-backup/lull/transport/block"
	"github.com/lull-backup/lull/transport/repo/internal/index"
)

// viewEntries are blocks of one pack.
func viewEntries(pack byte, from, to uint64) iter.Seq2[index.Entry, error] {
	return func(yield func(index.Entry, error) bool) {
		for n := from; n < to; n++ {
			e := index.Entry{Name: block.Name(blake3.Sum256(binary.LittleEndian.AppendUint64(nil, n)))}
			e.Pack, e.SegmentOffset, e.SegmentLength, e.BlockLength = [32]byte{pack}, 2000, 500, 7
			if !yield(e, nil) {
				return
			}
		}
	}
}

// Every block has a number of its own, however many packs and runs hold it, and Each
// calls it by the same number.
func TestView(t *testing.T) {
	x, err := index.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	for i, part := range [][2]uint64{{0, 3000}, {1000, 2000}, {2500, 5000}} {
		if err := x.Add(t.Context(), index.Source{byte(i + 1)}, viewEntries(byte(i+1), part[0], part[1])); err != nil {
			t.Fatal(err)
		}
	}
	v := x.View()
	packs := map[uint64]int{}
	err = v.Each(func(slot uint64, places []index.Location) error {
		if packs[slot] > 0 || slot >= v.Slots() {
			t.Errorf("slot %d of %d comes twice or is too high", slot, v.Slots())
		}
		packs[slot] = len(places)
		return nil
	})
	if err != nil || len(packs) != 5000 {
		t.Fatalf("%d blocks, %v", len(packs), err)
	}
	for e := range viewEntries(1, 0, 5000) {
		slot, found, err := v.Slot(e.Name)
		if err != nil || !found || packs[slot] == 0 {
			t.Fatalf("block is not found: %v", err)
		}
	}
	for n, want := range map[uint64]int{5: 1, 1500: 2, 2700: 2, 2300: 1, 4000: 1} {
		slot, _, err := v.Slot(block.Name(blake3.Sum256(binary.LittleEndian.AppendUint64(nil, n))))
		if err != nil || packs[slot] != want {
			t.Errorf("block %d lies in %d packs, want %d: %v", n, packs[slot], want, err)
		}
	}
	if _, found, err := v.Slot(block.Name{1}); found || err != nil {
		t.Errorf("what is not there has a slot: %v", err)
	}
}
