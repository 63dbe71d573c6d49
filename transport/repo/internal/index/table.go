package index

import (
	"encoding/binary"
	"slices"

	"github.com/lull-backup/lull/transport/block"
)

const chunkLen = 4096 // records a chunk: growth copies no record

// table holds records in memory at about 50 bytes each: records in chunks, in
// order of arrival, and an open-addressed array of their numbers.
type table struct {
	slots  []uint32 // record number + 1; 0 is free; a power of two long
	chunks [][]record
	n      int

	segs     []segment // in order of arrival; one may be there twice
	packIDs  []packID
	packNum  map[[32]byte]uint32
	ids      []Source
	listings map[listing]struct{}
}

func newTable() *table {
	return &table{slots: make([]uint32, 1024), packNum: map[[32]byte]uint32{}, listings: map[listing]struct{}{}}
}

func (t *table) record(i uint32) *record { return &t.chunks[i/chunkLen][i%chunkLen] }

func (t *table) packOf(r *record) uint32 { return t.segs[r.place.segment()].pack }

// slot is where name is, in the pack, or where it would go; pack none stands for
// all. Names are keyed hashes: any eight bytes of one are as good as a hash of it.
func (t *table) slot(name *block.Name, pack uint32) (at int, found bool) {
	mask := len(t.slots) - 1
	at = int(binary.LittleEndian.Uint64(name[8:])) & mask
	for t.slots[at] != 0 {
		if r := t.record(t.slots[at] - 1); r.name == *name && (pack == none || t.packOf(r) == pack) {
			return at, true
		}
		at = (at + 1) & mask
	}
	return at, false
}

func (t *table) lookup(name *block.Name) (Location, bool) {
	at, found := t.slot(name, none)
	if !found {
		return Location{}, false
	}
	r := t.record(t.slots[at] - 1)
	s := &t.segs[r.place.segment()]
	return r.place.location(s, &t.packIDs[s.pack]), true
}

// insert keeps the first location of a name in each pack.
func (t *table) insert(name *block.Name, loc *Location) error {
	p, err := newPlace(loc)
	if err != nil {
		return err
	}
	pack := t.pack(&packID{loc.Pack, loc.Signer})
	at, found := t.slot(name, pack)
	if found {
		return nil
	}
	if t.n%chunkLen == 0 {
		t.chunks = append(t.chunks, make([]record, 0, chunkLen))
	}
	last := &t.chunks[len(t.chunks)-1]
	*last = append(*last, record{*name, p.in(t.segment(segment{pack, loc.SegmentOffset, loc.SegmentLength}))})
	t.n++
	t.slots[at] = uint32(t.n)
	if t.n > len(t.slots)/4*3 {
		t.grow()
	}
	return nil
}

func (t *table) grow() {
	t.slots = make([]uint32, 2*len(t.slots))
	for i := range uint32(t.n) {
		r := t.record(i)
		at, _ := t.slot(&r.name, t.packOf(r))
		t.slots[at] = i + 1
	}
}

// segment is the number of s. Blocks come segment by segment.
func (t *table) segment(s segment) uint32 {
	if n := len(t.segs); n == 0 || t.segs[n-1] != s {
		t.segs = append(t.segs, s)
	}
	return uint32(len(t.segs) - 1)
}

func (t *table) pack(k *packID) uint32 {
	if n := len(t.packIDs); n > 0 && t.packIDs[n-1].id == k.id {
		return uint32(n - 1)
	}
	num, ok := t.packNum[k.id]
	if !ok {
		num = uint32(len(t.packIDs))
		t.packNum[k.id] = num
		t.packIDs = append(t.packIDs, *k)
	}
	return num
}

// source begins the entries of an index object; list says that it lists a pack.
func (t *table) source(id Source) { t.ids = append(t.ids, id) }

func (t *table) list(k *packID) {
	t.listings[listing{t.pack(k), uint32(len(t.ids) - 1)}] = struct{}{}
}

// view is a table in ascending order.
type view struct {
	t    *table
	rows []record
	segs []segment
	keys []packID
	ids  []Source
	list []listing
}

// sorted is the table in ascending order. The table must not change while it is
// in use.
func (t *table) sorted() *view {
	v := &view{t: t}
	var packs, segs, ids []uint32
	v.keys, packs = order(t.packIDs, comparePacks)
	v.ids, ids = order(t.ids, compareSources)
	v.segs = slices.Clone(t.segs)
	for i := range v.segs {
		v.segs[i].pack = packs[v.segs[i].pack]
	}
	v.segs, segs = order(v.segs, compareSegments)
	for l := range t.listings {
		v.list = append(v.list, listing{packs[l.pack], ids[l.source]})
	}
	slices.SortFunc(v.list, func(a, b listing) int { return compareListings(&a, &b) })
	v.rows = make([]record, 0, t.n)
	for _, chunk := range t.chunks {
		v.rows = append(v.rows, chunk...)
	}
	for i := range v.rows {
		v.rows[i].place = v.rows[i].place.in(segs[v.rows[i].place.segment()])
	}
	slices.SortFunc(v.rows, func(a, b record) int { return compareRecords(&a, &b) })
	return v
}

// order sorts rows, equal ones being one, and says where each went.
func order[T any](rows []T, compare func(a, b *T) int) (sorted []T, to []uint32) {
	by := make([]uint32, len(rows))
	for i := range by {
		by[i] = uint32(i)
	}
	slices.SortFunc(by, func(a, b uint32) int { return compare(&rows[a], &rows[b]) })
	to = make([]uint32, len(rows))
	for _, i := range by {
		if n := len(sorted); n == 0 || compare(&sorted[n-1], &rows[i]) != 0 {
			sorted = append(sorted, rows[i])
		}
		to[i] = uint32(len(sorted) - 1)
	}
	return sorted, to
}

func (v *view) len() uint64 { return uint64(len(v.rows)) }

func (v *view) tableLen(section int) int {
	return map[int]int{secSources: len(v.ids), secPacks: len(v.keys), secSegments: len(v.segs), secListings: len(v.list)}[section]
}

func (v *view) sources() cursor[Source]   { return slice(v.ids) }
func (v *view) packs() cursor[packID]     { return slice(v.keys) }
func (v *view) segments() cursor[segment] { return slice(v.segs) }
func (v *view) listings() cursor[listing] { return slice(v.list) }
func (v *view) records() cursor[record]   { return slice(v.rows) }
