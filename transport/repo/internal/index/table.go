package index

import (
	"bytes"
	"encoding/binary"
	"math"
	"slices"

	"github.com/lull-backup/lull/transport/block"
)

const chunkLen = 4096 // records a chunk: growth copies no record

// table holds records in memory at about 60 bytes each: records in chunks, in
// order of arrival, and an open-addressed array of their numbers.
type table struct {
	slots   []uint32 // record number + 1; 0 is free; a power of two long
	chunks  [][]record
	n       int
	packIDs [][32]byte
	packNum map[[32]byte]uint32
}

func newTable() *table {
	return &table{slots: make([]uint32, 1024), packNum: map[[32]byte]uint32{}}
}

func (t *table) record(i uint32) *record { return &t.chunks[i/chunkLen][i%chunkLen] }

// anyPack stands for all packs.
const anyPack = math.MaxUint32

// slot is where name is, in the pack, or where it would go. Names are keyed hashes:
// any eight bytes of one are as good as a hash of it.
func (t *table) slot(name *block.Name, pack uint32) (at int, found bool) {
	mask := len(t.slots) - 1
	at = int(binary.LittleEndian.Uint64(name[8:])) & mask
	for t.slots[at] != 0 {
		if r := t.record(t.slots[at] - 1); r.name == *name && (pack == anyPack || r.pack == pack) {
			return at, true
		}
		at = (at + 1) & mask
	}
	return at, false
}

func (t *table) lookup(name *block.Name) (Location, bool) {
	at, found := t.slot(name, anyPack)
	if !found {
		return Location{}, false
	}
	r := t.record(t.slots[at] - 1)
	return r.location(t.packIDs[r.pack]), true
}

// insert keeps the first location of a name in each pack.
func (t *table) insert(name *block.Name, loc *Location) {
	pack := t.pack(loc.Pack)
	at, found := t.slot(name, pack)
	if found {
		return
	}
	if t.n%chunkLen == 0 {
		t.chunks = append(t.chunks, make([]record, 0, chunkLen))
	}
	last := &t.chunks[len(t.chunks)-1]
	*last = append(*last, record{
		name: *name, pack: pack,
		segOff: loc.SegmentOffset, segLen: loc.SegmentLength, blkOff: loc.BlockOffset, blkLen: loc.BlockLength,
	})
	t.n++
	t.slots[at] = uint32(t.n)
	if t.n > len(t.slots)/4*3 {
		t.grow()
	}
}

func (t *table) grow() {
	t.slots = make([]uint32, 2*len(t.slots))
	for i := range uint32(t.n) {
		at, _ := t.slot(&t.record(i).name, t.record(i).pack)
		t.slots[at] = i + 1
	}
}

func (t *table) pack(id [32]byte) uint32 {
	if n := len(t.packIDs); n > 0 && t.packIDs[n-1] == id {
		return uint32(n - 1)
	}
	num, ok := t.packNum[id]
	if !ok {
		num = uint32(len(t.packIDs))
		t.packNum[id] = num
		t.packIDs = append(t.packIDs, id)
	}
	return num
}

// sorted is a view of the records in order of names.
func (t *table) sorted() sorted {
	order := make([]uint32, t.n)
	for i := range order {
		order[i] = uint32(i)
	}
	slices.SortFunc(order, func(a, b uint32) int {
		return bytes.Compare(t.record(a).name[:], t.record(b).name[:])
	})
	return tableView{t, order}
}

type tableView struct {
	t     *table
	order []uint32
}

func (v tableView) len() int          { return len(v.order) }
func (v tableView) at(i int) record   { return *v.t.record(v.order[i]) }
func (v tableView) packs() [][32]byte { return v.t.packIDs }
