package index

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/lull-backup/lull/transport/block"
)

// pageSlots is how many slots a page of entries takes: more than it has entries.
const pageSlots = 512

// View numbers the blocks of an index, so that who has something to remember of each
// needs a bit and not a name: 64 MB for 100 million entries. It is good as long as
// the index does not change.
type View struct {
	runs  runs
	first []uint64 // slot of each run
	slots uint64
}

// View makes a view of what the index holds now.
func (x *Index) View() *View {
	x.mu.RLock()
	defer x.mu.RUnlock()
	v := &View{runs: x.runs}
	for _, r := range v.runs {
		v.first = append(v.first, v.slots)
		v.slots += uint64(len(r.fences)) * pageSlots
	}
	return v
}

// Slots is how many slots there are.
func (v *View) Slots() uint64 { return v.slots }

// Slot is the number of a block, less than Slots; false when it is not there.
func (v *View) Slot(name block.Name) (slot uint64, found bool, err error) {
	err = guard(func() error {
		slot, found, err = v.slot(&name)
		return err
	})
	return slot, found, err
}

func (v *View) slot(name *block.Name) (uint64, bool, error) {
	for i, r := range v.runs {
		if !r.mayHold(name) {
			continue
		}
		n, found, err := r.slot(name)
		if found || err != nil {
			return v.first[i] + n, found, err
		}
	}
	return 0, false, nil
}

// slot is the number of a block in its run: always that of the same entry.
func (r *run) slot(name *block.Name) (uint64, bool, error) {
	key := binary.BigEndian.Uint32(name[:])
	for number := r.pageOf(name); number >= 0; number-- {
		p, err := r.entryPage(number)
		if err != nil {
			return 0, false, err
		}
		if p.count > pageSlots {
			return 0, false, r.damaged("page of %d entries", p.count)
		}
		if at, found := p.find(name); found {
			return uint64(number)*pageSlots + uint64(at), true, nil
		}
		if r.fences[number] < key {
			break
		}
	}
	return 0, false, nil
}

// find is the first entry of a name in the page.
func (p *entryPage) find(name *block.Name) (at int, found bool) {
	if !bytes.HasPrefix(name[:], p.shared) {
		return 0, false
	}
	rest := name[len(p.shared):]
	lo := 0
	for hi := p.count; lo < hi; {
		if mid := (lo + hi) / 2; bytes.Compare(p.rest(mid), rest) < 0 {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo, lo < p.count && bytes.Equal(p.rest(lo), rest)
}

// Each calls fn for every block in order of names, with all places where it lies,
// valid until fn returns.
func (v *View) Each(fn func(slot uint64, places []Location) error) error {
	err := guard(func() error { return v.each(fn) })
	if err != nil {
		return fmt.Errorf("walk index: %w", err)
	}
	return nil
}

func (v *View) each(fn func(uint64, []Location) error) error {
	var cursors []cursor[record]
	for _, r := range v.runs {
		cursors = append(cursors, r.records())
	}
	m, err := newMerger(cursors, compareRecords)
	if err != nil {
		return err
	}
	var places []Location
	for h := m.least(); h != nil; {
		name := h.row.name
		places = places[:0]
		for ; h != nil && h.row.name == name; h = m.least() {
			loc, err := v.runs[h.input].locate(h.row.place)
			if err != nil {
				return err
			}
			places = append(places, loc)
			if err := m.advance(); err != nil {
				return err
			}
		}
		slot, _, err := v.slot(&name)
		if err != nil {
			return err
		}
		if err := fn(slot, places); err != nil {
			return err
		}
	}
	return nil
}
