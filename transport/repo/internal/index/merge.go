package index

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/lull-backup/lull/transport/block"
)

// merger walks several sorted inputs as one, each name and pack once: of equal ones
// the earliest input's. It is a binary heap of cursors.
type merger struct {
	heap  []cursor
	packs [][]uint32 // common numbers of each input's packs
	last  block.Name
	in    []uint32 // packs in which last was found
}

type cursor struct {
	cur   record
	from  sorted
	input int
	next  int
}

func newMerger(inputs []sorted, packs [][]uint32) (*merger, error) {
	m := &merger{packs: packs}
	for i, in := range inputs {
		if in.len() == 0 {
			continue
		}
		c := cursor{from: in, input: i, cur: in.at(0), next: 1}
		if int(c.cur.pack) >= len(packs[i]) {
			return nil, fmt.Errorf("%w: pack %d of %d", ErrDamaged, c.cur.pack, len(packs[i]))
		}
		m.heap = append(m.heap, c)
	}
	for i := len(m.heap)/2 - 1; i >= 0; i-- {
		m.down(i)
	}
	return m, nil
}

func (m *merger) less(a, b *cursor) bool {
	if c := bytes.Compare(a.cur.name[:], b.cur.name[:]); c != 0 {
		return c < 0
	}
	return a.input < b.input
}

func (m *merger) down(i int) {
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

// next returns a record, whose pack is a common number, or ok false at the end.
func (m *merger) next() (rec record, ok bool, err error) {
	for len(m.heap) > 0 {
		rec = m.heap[0].cur
		rec.pack = m.packs[m.heap[0].input][rec.pack]
		if err := m.advance(); err != nil {
			return record{}, false, err
		}
		if rec.name != m.last {
			m.last, m.in = rec.name, m.in[:0]
		}
		if !slices.Contains(m.in, rec.pack) {
			m.in = append(m.in, rec.pack)
			return rec, true, nil
		}
	}
	return record{}, false, nil
}

// advance moves the least cursor on.
func (m *merger) advance() error {
	c := &m.heap[0]
	if c.next == c.from.len() {
		m.heap[0] = m.heap[len(m.heap)-1]
		m.heap = m.heap[:len(m.heap)-1]
		m.down(0)
		return nil
	}
	before := c.cur.name
	c.cur = c.from.at(c.next)
	c.next++
	if bytes.Compare(before[:], c.cur.name[:]) > 0 || int(c.cur.pack) >= len(m.packs[c.input]) {
		return fmt.Errorf("%w: entry %d out of order", ErrDamaged, c.next-1)
	}
	m.down(0)
	return nil
}
