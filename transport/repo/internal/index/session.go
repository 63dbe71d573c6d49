package index

import (
	"context"
	"fmt"
	"sync"

	"github.com/lull-backup/lull/transport/block"
)

const (
	// tableLimit is how many new entries gather in memory, about 25 MB and as
	// much again while they are sorted, before they are written out as a run.
	tableLimit = 512 << 10
	// sessionFanIn runs of a session are merged into one. They are few and short.
	sessionFanIn = 16
)

// Session holds entries that no index object has yet: nobody else sees them, and
// they end with it unless they are committed. Its methods are safe for concurrent
// use; what is inserted while Commit begins may miss its index object.
type Session struct {
	x      *Index
	usable func(*Location) bool

	mu    sync.RWMutex
	limit int // entries in table
	table *table
	runs  runs // of files without a name
}

// Session starts an empty session, which will ask the filters first: the kernel
// begins to read them.
func (x *Index) Session() *Session {
	x.mu.RLock()
	defer x.mu.RUnlock()
	for _, r := range x.runs {
		r.willNeed(r.from[secFilter], r.pages(secFilter))
	}
	return &Session{x: x, limit: tableLimit, table: newTable()}
}

// Only limits what the session knows of the index to the places that usable
// accepts, which is called on many goroutines. It is to be called before any
// look-up.
func (s *Session) Only(usable func(*Location) bool) { s.usable = usable }

// Insert makes a block known to this session; a name that it has in the same pack
// keeps its place.
func (s *Session) Insert(ctx context.Context, name block.Name, loc Location) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.table.insert(&name, &loc); err != nil {
		return fmt.Errorf("insert index entry: %w", err)
	}
	if s.table.n < s.limit {
		return nil
	}
	return s.spill(ctx)
}

// spill writes the table out as a run.
func (s *Session) spill(ctx context.Context) error {
	r, err := writeRun(ctx, s.x.cache, plan{inputs: []input{s.table.sorted()}})
	if err != nil {
		return err
	}
	s.runs, s.table = s.runs.with(r, nil), newTable()
	for due := s.runs.due(sessionFanIn); due != nil; due = s.runs.due(sessionFanIn) {
		merged, err := writeRun(ctx, s.x.cache, plan{inputs: due.inputs()})
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
// packs that are doubted or not usable: what it does not find is to be stored.
func (s *Session) Lookup(name block.Name) (Location, bool, error) {
	loc, found, err := s.own(&name)
	if found || err != nil {
		return loc, found, err
	}
	h := hit{usable: s.usable}
	err = s.x.lookup(&name, &h)
	return h.loc, h.good, err
}

// own finds a block among this session's entries.
func (s *Session) own(name *block.Name) (Location, bool, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if loc, found := s.table.lookup(name); found {
		return loc, true, nil
	}
	h := hit{filtered: true}
	err := s.runs.lookup(name, &h)
	return h.loc, h.found, err
}

// Len is the number of this session's own entries.
func (s *Session) Len() int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.table.n + int(s.runs.count())
}

// Commit says that the store's index object id holds this session's entries,
// all of them and no others: they belong to the index then, and the session is
// empty. When it fails the entries may still be this session's.
func (s *Session) Commit(ctx context.Context, id Source) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var inputs []input
	for _, in := range s.inputs() {
		inputs = append(inputs, listed{in, id})
	}
	return s.commit(ctx, inputs)
}

func (s *Session) inputs() []input { return append(s.runs.inputs(), s.table.sorted()) }

func (s *Session) commit(ctx context.Context, inputs []input) error {
	if err := s.x.adopt(ctx, inputs); err != nil {
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
