package index

import (
	"bytes"
	"fmt"

	"github.com/lull-backup/lull/transport/block"
)

// merger walks several sorted inputs as one, each name once: of equal names the
// earliest input's. It is a binary heap of cursors.
type merger struct {
	heap []cursor
	last block.Name
	any  bool // last is set
}

type cursor struct {
	cur   record
	from  sorted
	input int
	next  int
	packs uint32
}

func newMerger(inputs []sorted) (*merger, error) {
	m := &merger{}
	for i, in := range inputs {
		if in.len() == 0 {
			continue
		}
		c := cursor{from: in, input: i, cur: in.at(0), next: 1, packs: uint32(len(in.packs()))}
		if c.cur.pack >= c.packs {
			return nil, fmt.Errorf("%w: pack %d of %d", ErrDamaged, c.cur.pack, c.packs)
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

// next returns a record, whose pack is a number of input's table, or ok false at
// the end.
func (m *merger) next() (rec record, input int, ok bool, err error) {
	for len(m.heap) > 0 {
		rec, input = m.heap[0].cur, m.heap[0].input
		if err := m.advance(); err != nil {
			return record{}, 0, false, err
		}
		if m.any && rec.name == m.last {
			continue
		}
		m.last, m.any = rec.name, true
		return rec, input, true, nil
	}
	return record{}, 0, false, nil
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
	if bytes.Compare(before[:], c.cur.name[:]) >= 0 || c.cur.pack >= c.packs {
		return fmt.Errorf("%w: entry %d out of order", ErrDamaged, c.next-1)
	}
	m.down(0)
	return nil
}
