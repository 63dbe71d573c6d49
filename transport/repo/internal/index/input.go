package index

import "encoding/binary"

// aheadPages is how far a merge reads ahead, 1 MiB; as much behind it is let go.
const aheadPages = 256

func (r *run) len() uint64              { return r.count }
func (r *run) tableLen(section int) int { return int(r.rows[section]) }

// rowsOf decodes the rows of a table.
func rowsOf[T any](r *run, section int, decode func(b []byte, row *T) error) cursor[T] {
	r.willNeed(r.from[section], r.pages(section))
	s := scan{m: r.mapped, section: section}
	return func(row *T) (bool, error) {
		b, ok, err := s.row()
		if !ok || err != nil {
			return false, err
		}
		return true, decode(b, row)
	}
}

func (r *run) sources() cursor[Source] {
	return rowsOf(r, secSources, func(b []byte, id *Source) error { *id = Source(b); return nil })
}

func (r *run) packs() cursor[packID] {
	signer, number := [32]byte{}, uint32(none)
	return rowsOf(r, secPacks, func(b []byte, k *packID) error {
		if n := binary.LittleEndian.Uint32(b[32:]); n != number {
			s, err := r.row(secSigners, n)
			if err != nil {
				return err
			}
			signer, number = [32]byte(s), n
		}
		k.id, k.signer = [32]byte(b), signer
		return nil
	})
}

func (r *run) segments() cursor[segment] {
	return rowsOf(r, secSegments, func(b []byte, s *segment) error { *s = decodeSegment(b); return nil })
}

func (r *run) listings() cursor[listing] {
	return rowsOf(r, secListings, func(b []byte, l *listing) error {
		*l = listing{binary.LittleEndian.Uint32(b), binary.LittleEndian.Uint32(b[4:])}
		return nil
	})
}

// records walks all entries, reads ahead and lets go of what it has read: neither
// memory nor the disk's speed depend on the run's length.
func (r *run) records() cursor[record] {
	number, at := -1, 0
	var page entryPage
	return func(rec *record) (bool, error) {
		if at == page.count {
			if number++; number == len(r.fences) {
				return false, nil
			}
			if number%aheadPages == 0 {
				r.stride(number)
			}
			var err error
			if page, err = r.entryPage(number); err != nil {
				return false, err
			}
			at = 0
		}
		page.record(at, rec)
		at++
		return true, nil
	}
}

// stride moves the part of the entries that is in memory on to page number.
func (r *run) stride(number int) {
	first, n := r.from[secEntries], len(r.fences)
	if number == 0 {
		r.willNeed(first, int64(min(aheadPages, n)))
	} else {
		r.forget(first+int64(number-aheadPages), aheadPages)
	}
	if next := number + aheadPages; next < n {
		r.willNeed(first+int64(next), int64(min(aheadPages, n-next)))
	}
}

// listed is an input of entries that one index object lists.
type listed struct {
	input
	id Source
}

func (l listed) tableLen(section int) int {
	switch section {
	case secSources:
		return 1
	case secListings:
		return l.input.tableLen(secPacks)
	}
	return l.input.tableLen(section)
}

func (l listed) sources() cursor[Source] { return slice([]Source{l.id}) }

func (l listed) listings() cursor[listing] {
	n := uint32(0)
	return func(row *listing) (bool, error) {
		*row = listing{pack: n}
		n++
		return n <= uint32(l.tableLen(secPacks)), nil
	}
}

// slice walks rows in memory.
func slice[T any](rows []T) cursor[T] {
	at := 0
	return func(row *T) (bool, error) {
		if at == len(rows) {
			return false, nil
		}
		*row = rows[at]
		at++
		return true, nil
	}
}
