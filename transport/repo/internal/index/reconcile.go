package index

import (
	"bytes"
	"fmt"
	"slices"
)

// Reconcile takes the index objects that the store holds, all of them, and
// returns those whose entries are to be added. Packs that only objects not among
// them list do not count any more, so the caller opens the index first and lists
// the store then: an object that another process adds in between is not taken for
// gone. No session may be open.
func (x *Index) Reconcile(present []Source) (missing []Source, err error) {
	x.writing.Lock()
	defer x.writing.Unlock()
	if x.closed {
		return nil, ErrClosed
	}
	err = guard(func() error {
		missing, x.vanished, err = x.compare(present)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("compare index sources: %w", err)
	}
	if err := x.dropVanished(); err != nil {
		return nil, fmt.Errorf("drop index runs: %w", err)
	}
	gone := map[[32]byte]struct{}{}
	if len(x.vanished) > 0 {
		if err := guard(func() error { return x.runs.unlisted(x.vanished, gone) }); err != nil {
			return nil, fmt.Errorf("look for packs that are gone: %w", err)
		}
	}
	x.mu.Lock()
	x.hidden.gone = gone
	x.mu.Unlock()
	return missing, nil
}

// Missing returns the index objects among present whose entries are not held.
func (x *Index) Missing(present []Source) (missing []Source, err error) {
	x.writing.Lock()
	defer x.writing.Unlock()
	if x.closed {
		return nil, ErrClosed
	}
	err = guard(func() error {
		missing, _, err = x.compare(present)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("compare index sources: %w", err)
	}
	return missing, nil
}

// compare returns which of present are not held, and which that are held are not
// present. What was missed once and is there again is not held: its packs do not
// count until it is added. A damaged run is dropped.
func (x *Index) compare(present []Source) (missing, vanished []Source, err error) {
	present = slices.Clone(present)
	slices.SortFunc(present, func(a, b Source) int { return compareSources(&a, &b) })
	for {
		missing, vanished, err = x.runs.compare(present)
		bad := x.runs.blamed(err)
		if bad == nil {
			break
		}
		if err := x.swap(nil, runs{bad}); err != nil {
			return nil, nil, err
		}
	}
	for _, id := range slices.Compact(present) {
		if contains(x.vanished, id) && !contains(missing, id) {
			missing = append(missing, id)
		}
	}
	return missing, vanished, err
}

// compare walks all sources beside present, which is ascending.
func (rs runs) compare(present []Source) (missing, vanished []Source, err error) {
	cursors := []cursor[Source]{slice(present)}
	for _, r := range rs {
		cursors = append(cursors, r.sources())
	}
	err = groups(cursors, compareSources, func(id *Source, among []int) error {
		switch there := among[0] == 0; {
		case there && len(among) == 1:
			missing = append(missing, *id)
		case !there:
			vanished = append(vanished, *id)
		}
		return nil
	})
	return missing, vanished, err
}

// groups walks cursors as one and calls fn for each row with the cursors that have
// it, in ascending order and each once.
func groups[T any](cursors []cursor[T], compare func(a, b *T) int, fn func(row *T, among []int) error) error {
	m, err := newMerger(cursors, compare)
	if err != nil {
		return err
	}
	var among []int
	for h := m.least(); h != nil; {
		row := h.row
		among = among[:0]
		for h != nil && compare(&row, &h.row) == 0 {
			if n := len(among); n == 0 || among[n-1] != h.input {
				among = append(among, h.input)
			}
			if err := m.advance(); err != nil {
				return err
			}
			h = m.least()
		}
		if err := fn(&row, among); err != nil {
			return err
		}
	}
	return nil
}

func contains(sorted []Source, id Source) bool {
	_, found := slices.BinarySearchFunc(sorted, id, func(a, b Source) int { return compareSources(&a, &b) })
	return found
}

// dropVanished drops the runs that have no source left in the store.
func (x *Index) dropVanished() error {
	var gone runs
	for _, r := range x.runs {
		left := false
		err := guard(func() error {
			next := r.sources()
			for {
				var id Source
				ok, err := next(&id)
				if left = left || ok && !contains(x.vanished, id); left || !ok || err != nil {
					return err
				}
			}
		})
		if err != nil {
			return err
		}
		if !left {
			gone = append(gone, r)
		}
	}
	return x.swap(nil, gone)
}

// listedPack is a pack and whether an index object in the store lists it.
type listedPack struct {
	id   [32]byte
	live bool
}

// unlisted adds the packs to gone that only vanished sources list.
func (rs runs) unlisted(vanished []Source, gone map[[32]byte]struct{}) error {
	var cursors []cursor[listedPack]
	for _, r := range rs {
		next, err := r.listedPacks(vanished)
		if err != nil {
			return err
		}
		cursors = append(cursors, next)
	}
	m, err := newMerger(cursors, func(a, b *listedPack) int { return bytes.Compare(a.id[:], b.id[:]) })
	if err != nil {
		return err
	}
	for h := m.least(); h != nil; {
		p := h.row
		for h != nil && h.row.id == p.id {
			p.live = p.live || h.row.live
			if err := m.advance(); err != nil {
				return err
			}
			h = m.least()
		}
		if !p.live {
			gone[p.id] = struct{}{}
		}
	}
	return nil
}

// listedPacks walks the run's listings.
func (r *run) listedPacks(vanished []Source) (cursor[listedPack], error) {
	live := make([]bool, 0, r.tableLen(secSources))
	for next := r.sources(); ; {
		var id Source
		ok, err := next(&id)
		if err != nil {
			return nil, err
		}
		if !ok {
			break
		}
		live = append(live, !contains(vanished, id))
	}
	next := r.listings()
	return func(p *listedPack) (bool, error) {
		var l listing
		ok, err := next(&l)
		if !ok || err != nil {
			return false, err
		}
		b, err := r.row(secPacks, l.pack)
		if err != nil {
			return false, err
		}
		if int(l.source) >= len(live) {
			return false, r.damaged("listing of source %d", l.source)
		}
		p.id, p.live = [32]byte(b), live[l.source]
		return true, nil
	}, nil
}

// comeBack makes the packs count again that inputs list, whatever was missed
// before. The caller holds writing.
func (x *Index) comeBack(inputs []input) error {
	return guard(func() error {
		for _, in := range inputs {
			if err := each(in.sources(), func(id *Source) {
				x.vanished = slices.DeleteFunc(x.vanished, func(v Source) bool { return v == *id })
			}); err != nil {
				return err
			}
			if len(x.hidden.gone) == 0 {
				continue
			}
			x.mu.Lock()
			err := each(in.packs(), func(k *packID) { delete(x.hidden.gone, k.id) })
			x.mu.Unlock()
			if err != nil {
				return err
			}
		}
		return nil
	})
}

func each[T any](next cursor[T], fn func(*T)) error {
	for {
		var row T
		ok, err := next(&row)
		if !ok || err != nil {
			return err
		}
		fn(&row)
	}
}
