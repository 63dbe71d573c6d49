package index

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"math"
)

// input is what a run is written from: a table in memory, or another run.
type input interface {
	len() uint64      // entries
	tableLen(int) int // rows of a section
	sources() cursor[Source]
	packs() cursor[packID]
	segments() cursor[segment]
	listings() cursor[listing]
	records() cursor[record]
}

// cursor moves to the next row, in ascending order, until ok is false.
type cursor[T any] func(row *T) (ok bool, err error)

// none is the number of what is left out.
const none = math.MaxUint32

// merger walks several cursors as one. It is a binary heap of them.
type merger[T any] struct {
	heap    []head[T]
	compare func(a, b *T) int
}

// head is the row that a cursor stands at.
type head[T any] struct {
	row    T
	number int // of the row in its input
	input  int
	next   cursor[T]
}

func newMerger[T any](cursors []cursor[T], compare func(a, b *T) int) (*merger[T], error) {
	m := &merger[T]{compare: compare}
	for i, next := range cursors {
		h := head[T]{input: i, next: next}
		ok, err := next(&h.row)
		if err != nil {
			return nil, err
		}
		if ok {
			m.heap = append(m.heap, h)
		}
	}
	for i := len(m.heap)/2 - 1; i >= 0; i-- {
		m.down(i)
	}
	return m, nil
}

func (m *merger[T]) less(a, b *head[T]) bool {
	c := m.compare(&a.row, &b.row)
	return c < 0 || c == 0 && a.input < b.input
}

func (m *merger[T]) down(i int) {
	for {
		least := i
		for c := 2*i + 1; c <= 2*i+2 && c < len(m.heap); c++ {
			if m.less(&m.heap[c], &m.heap[least]) {
				least = c
			}
		}
		if least == i {
			return
		}
		m.heap[i], m.heap[least] = m.heap[least], m.heap[i]
		i = least
	}
}

// least is the head with the least row; nil at the end. It is valid until advance.
func (m *merger[T]) least() *head[T] {
	if len(m.heap) == 0 {
		return nil
	}
	return &m.heap[0]
}

// advance moves the least cursor on.
func (m *merger[T]) advance() error {
	h := &m.heap[0]
	before := h.row
	ok, err := h.next(&h.row)
	if err != nil {
		return err
	}
	if !ok {
		last := len(m.heap) - 1
		m.heap[0] = m.heap[last]
		m.heap[last] = head[T]{}
		m.heap = m.heap[:last]
	} else if h.number++; m.compare(&before, &h.row) > 0 {
		return fmt.Errorf("%w: rows out of order", ErrDamaged)
	}
	m.down(0)
	return nil
}

func compareSources(a, b *Source) int { return bytes.Compare(a[:], b[:]) }
func comparePacks(a, b *packID) int   { return bytes.Compare(a.id[:], b.id[:]) }

func compareSegments(a, b *segment) int {
	return cmp.Or(cmp.Compare(a.pack, b.pack), cmp.Compare(a.offset, b.offset), cmp.Compare(a.length, b.length))
}

func compareListings(a, b *listing) int {
	return cmp.Or(cmp.Compare(a.pack, b.pack), cmp.Compare(a.source, b.source))
}

func compareRecords(a, b *record) int {
	x, y := binary.BigEndian.Uint64(a.name[:]), binary.BigEndian.Uint64(b.name[:])
	if x != y {
		return cmp.Compare(x, y)
	}
	return cmp.Or(bytes.Compare(a.name[8:], b.name[8:]), cmp.Compare(a.place.segment(), b.place.segment()))
}
