package index

import (
	"context"
	"errors"
	"iter"
)

// loadLimit is how many entries a Loader gathers before they become a run of the
// index, and are not read again if the process ends: some hundred MB of disk.
const loadLimit = 8 << 20

// Loader takes in many index objects, such as all of them after the cache was
// lost: in bounded memory, and so that each entry is written a few times at most.
// It serves one goroutine.
type Loader struct {
	s     *Session
	limit int
	open  bool // an object's entries came only in part
}

// Loader starts taking index objects in. Close it.
func (x *Index) Loader() *Loader { return &Loader{s: x.Session(), limit: loadLimit} }

var errPartial = errors.New("entries of an index object are missing")

// Add takes in the entries of the index object id, in any order. After an error,
// which may be that of entries, nothing more can be added.
func (l *Loader) Add(ctx context.Context, id Source, entries iter.Seq2[Entry, error]) error {
	if l.open {
		return errPartial
	}
	l.open = true
	l.s.begin(id)
	for e, err := range entries {
		if err == nil {
			err = l.s.add(ctx, id, &e)
		}
		if err != nil {
			return err
		}
	}
	l.open = false
	if l.s.Len() < l.limit {
		return nil
	}
	return l.Flush(ctx)
}

// Flush makes what was added part of the index, durably.
func (l *Loader) Flush(ctx context.Context) error {
	if l.open {
		return errPartial
	}
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	if len(l.s.runs) == 0 && len(l.s.table.ids) == 0 {
		return nil
	}
	return l.s.commit(ctx, l.s.inputs())
}

// Close forgets what was not flushed.
func (l *Loader) Close() error { return l.s.Close() }

// begin starts the entries of an index object, of which there may be none.
func (s *Session) begin(id Source) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.table.source(id)
}

// add inserts an entry of the index object that was begun last.
func (s *Session) add(ctx context.Context, id Source, e *Entry) error {
	if err := s.Insert(ctx, e.Name, e.Location); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.table.ids) == 0 { // Insert wrote the table out
		s.table.source(id)
	}
	s.table.list(&packID{e.Pack, e.Signer})
	return nil
}
