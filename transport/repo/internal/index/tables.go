package index

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
)

// The tables of several inputs become one: equal rows are one row, and each
// input's rows get new numbers, in the same order. A row may be left out; what
// refers to it is left out too.

// numbers says which row of the new table each input's rows became.
type numbers [][]uint32

func newNumbers(inputs []input, section int) numbers {
	n := make(numbers, len(inputs))
	for i, in := range inputs {
		n[i] = make([]uint32, in.tableLen(section))
		for j := range n[i] {
			n[i][j] = none
		}
	}
	return n
}

// of is the new number of an input's row.
func (n numbers) of(input int, row uint32) (uint32, error) {
	if uint64(row) >= uint64(len(n[input])) {
		return 0, fmt.Errorf("%w: row %d of %d", ErrDamaged, row, len(n[input]))
	}
	return n[input][row], nil
}

// table is how the rows of a section are merged.
type tableOf[T any] struct {
	section int
	rows    func(input) cursor[T]
	// renumber gives the row of an input its numbers in the tables written before,
	// or leaves the row out.
	renumber func(input int, number int, row *T) (keep bool, err error)
	compare  func(a, b *T) int
	encode   func(b []byte, row *T)
}

// fuse writes the table of a section.
func fuse[T any](w *runWriter, t tableOf[T]) (numbers, error) {
	n := newNumbers(w.inputs, t.section)
	cursors := make([]cursor[T], len(w.inputs))
	places := make([][]uint32, len(w.inputs)) // of the rows that are kept
	for i, in := range w.inputs {
		cursors[i] = kept(t.rows(in), func(number int, row *T) (bool, error) {
			keep, err := t.renumber(i, number, row)
			if keep && number < len(n[i]) {
				places[i] = append(places[i], uint32(number))
			}
			return keep, err
		})
	}
	m, err := newMerger(cursors, t.compare)
	if err != nil {
		return nil, err
	}
	var last T
	row := make([]byte, rowLen(t.section))
	for h := m.least(); h != nil; h = m.least() {
		if w.h.rows[t.section] == 0 || t.compare(&last, &h.row) != 0 {
			last = h.row
			t.encode(row, &last)
			w.row(t.section, row)
		}
		n[h.input][places[h.input][h.number]] = uint32(w.h.rows[t.section] - 1)
		if err := m.advance(); err != nil {
			return nil, err
		}
	}
	return n, w.endTable()
}

// kept passes over rows that keep leaves out.
func kept[T any](next cursor[T], keep func(number int, row *T) (bool, error)) cursor[T] {
	number := -1
	return func(row *T) (bool, error) {
		for {
			ok, err := next(row)
			if !ok || err != nil {
				return false, err
			}
			number++
			if k, err := keep(number, row); k || err != nil {
				return k, err
			}
		}
	}
}

// writeTables writes all tables and returns the numbers of segments.
func (w *runWriter) writeTables() (numbers, error) {
	sources, err := fuse(w, tableOf[Source]{secSources, input.sources,
		func(_, _ int, id *Source) (bool, error) { return !w.isVanished(*id), nil },
		compareSources, func(b []byte, id *Source) { copy(b, id[:]) }})
	if err != nil {
		return nil, err
	}
	lost, err := w.lostPacks(sources)
	if err != nil {
		return nil, err
	}
	signers, err := w.writeSigners()
	if err != nil {
		return nil, err
	}
	packs, err := fuse(w, tableOf[packID]{secPacks, input.packs,
		func(in, number int, _ *packID) (bool, error) { return !lost[in][uint32(number)], nil },
		comparePacks, func(b []byte, k *packID) {
			copy(b, k.id[:])
			binary.LittleEndian.PutUint32(b[32:], signers[k.signer])
		}})
	if err != nil {
		return nil, err
	}
	segments, err := w.writeSegments(packs)
	if err != nil {
		return nil, err
	}
	return segments, w.writeListings(packs, sources)
}

// writeSigners writes who signed any pack of the inputs.
func (w *runWriter) writeSigners() (map[[32]byte]uint32, error) {
	signers := map[[32]byte]uint32{}
	for _, in := range w.inputs {
		next := in.packs()
		for {
			var k packID
			ok, err := next(&k)
			if err != nil {
				return nil, err
			}
			if !ok {
				break
			}
			signers[k.signer] = 0
		}
	}
	var ids [][32]byte
	for id := range signers {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, func(a, b [32]byte) int { return bytes.Compare(a[:], b[:]) })
	for i, id := range ids {
		signers[id] = uint32(i)
		w.row(secSigners, id[:])
	}
	return signers, w.endTable()
}

func (w *runWriter) writeSegments(packs numbers) (numbers, error) {
	return fuse(w, tableOf[segment]{secSegments, input.segments,
		func(in, _ int, s *segment) (keep bool, err error) {
			s.pack, err = packs.of(in, s.pack)
			return s.pack != none, err
		},
		compareSegments, func(b []byte, s *segment) {
			binary.LittleEndian.PutUint32(b, s.pack)
			binary.LittleEndian.PutUint32(b[4:], s.offset)
			binary.LittleEndian.PutUint32(b[8:], s.length)
		}})
}

func (w *runWriter) writeListings(packs, sources numbers) error {
	_, err := fuse(w, tableOf[listing]{secListings, input.listings,
		func(in, _ int, l *listing) (keep bool, err error) {
			if l.pack, err = packs.of(in, l.pack); err != nil {
				return false, err
			}
			l.source, err = sources.of(in, l.source)
			return l.pack != none && l.source != none, err
		},
		compareListings, func(b []byte, l *listing) {
			binary.LittleEndian.PutUint32(b, l.pack)
			binary.LittleEndian.PutUint32(b[4:], l.source)
		}})
	return err
}

// lostPacks is, for each input, the packs that only index objects list that are
// gone. Whoever else lists such a pack brings its entries too.
func (w *runWriter) lostPacks(sources numbers) ([]map[uint32]bool, error) {
	lost := make([]map[uint32]bool, len(w.inputs))
	if len(w.vanished) == 0 {
		return lost, nil
	}
	for i, in := range w.inputs {
		lost[i] = map[uint32]bool{}
		next := in.listings()
		last := uint32(none)
		for {
			var l listing
			ok, err := next(&l)
			if err != nil {
				return nil, err
			}
			if !ok {
				break
			}
			source, err := sources.of(i, l.source)
			if err != nil {
				return nil, err
			}
			switch { // rows of one pack follow one another
			case source != none:
				delete(lost[i], l.pack)
			case l.pack != last:
				lost[i][l.pack] = true
			}
			last = l.pack
		}
	}
	return lost, nil
}
