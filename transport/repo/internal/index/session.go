package index

import (
	"context"
	"fmt"
	"sync"

	"github.com/lull-backup/lull/transport/block"
)

// tableLimit is how many new entries gather in memory, about 31 MB, before they
// are written out as a run.
const tableLimit = 512 << 10

// Session holds entries that no index object has yet: nobody else sees them, and
// they end with it unless they are committed. Its methods are safe for concurrent
// use; what is inserted while Commit begins may miss its index object.
type Session struct {
	x *Index

	mu    sync.RWMutex
	limit int // entries in table
	table *table
	runs  runs // of files without a name
}

// Session starts an empty session.
func (x *Index) Session() *Session {
	return &Session{x: x, limit: tableLimit, table: newTable()}
}

// Insert makes a block known to this session; a name that it has in the same pack keeps its place.
func (s *Session) Insert(ctx context.Context, name block.Name, loc Location) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.table.insert(&name, &loc)
	if s.table.n < s.limit {
		return nil
	}
	r, err := writeRun(ctx, s.x.cache.dir, []sorted{s.table.sorted()}, nil)
	if err != nil {
		return err
	}
	s.runs, s.table = s.runs.with(r, nil), newTable()
	return s.compact(ctx)
}

func (s *Session) compact(ctx context.Context) error {
	for due := s.runs.due(); due != nil; due = s.runs.due() {
		merged, err := due.merge(ctx, s.x.cache.dir, false)
		if err != nil {
			return fmt.Errorf("merge index runs of the session: %w", err)
		}
		s.runs = s.runs.with(merged, due)
		if err := due.discard(); err != nil {
			return fmt.Errorf("drop index runs of the session: %w", err)
		}
	}
	return nil
}

// Lookup finds a block among this session's entries, then in the index, but for
// packs that are doubted: what it does not find is to be stored.
func (s *Session) Lookup(name block.Name) (Location, bool, error) {
	loc, found, err := s.own(&name)
	if found || err != nil {
		return loc, found, err
	}
	h, err := s.x.lookup(&name)
	return h.loc, h.good, err
}

// own finds a block among this session's entries.
func (s *Session) own(name *block.Name) (Location, bool, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if loc, found := s.table.lookup(name); found {
		return loc, true, nil
	}
	var h hit
	err := s.runs.lookup(name, &h)
	return h.loc, h.found, err
}

// Len is the number of this session's own entries.
func (s *Session) Len() int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.table.n + int(s.runs.count())
}

func (s *Session) inputs() []sorted {
	in := []sorted{s.table.sorted()}
	for _, r := range s.runs {
		in = append(in, r)
	}
	return in
}

// Commit says that the store's index objects ids hold this session's entries,
// all of them and no others: they belong to the index then, and the session is
// empty. When it fails the entries may still be this session's.
func (s *Session) Commit(ctx context.Context, ids ...Source) error {
	if len(ids) == 0 {
		return errNoSource
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	err := guard(func() error { return s.x.adopt(ctx, s.inputs(), ids) })
	if err != nil {
		return fmt.Errorf("commit index entries: %w", err)
	}
	return s.reset()
}

// Close forgets what was not committed. It may be called more than once.
func (s *Session) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reset()
}

func (s *Session) reset() error {
	gone := s.runs
	s.runs, s.table = nil, newTable()
	return gone.discard()
}
