package index

import (
	"fmt"

	"github.com/lull-backup/lull/transport/block"
)

// Known tells of each name whether Lookup would find it, in known, which is as
// long. Those of one window are best asked together: a name that is in no run
// costs a cache line of each run's filter, and the pages of the others are read
// from the disk at the same time.
func (s *Session) Known(names []block.Name, known []bool) error {
	if err := s.ownKnown(names, known); err != nil {
		return err
	}
	return s.x.known(names, known, s.usable)
}

// ownKnown sets known from this session's entries.
func (s *Session) ownKnown(names []block.Name, known []bool) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for i := range names {
		_, known[i] = s.table.slot(&names[i], none)
	}
	return s.runs.known(names, known, hit{})
}

func (x *Index) known(names []block.Name, known []bool, usable func(*Location) bool) error {
	return x.read(func() error {
		return x.runs.known(names, known, hit{hidden: &x.hidden, usable: usable})
	})
}

// known sets what is found in good packs.
func (rs runs) known(names []block.Name, known []bool, h hit) error {
	if len(rs) == 0 {
		return nil
	}
	h.only = true
	err := guard(func() error {
		maybe := make([]int, 0, len(names))
		for _, r := range rs {
			if err := r.known(names, known, h, maybe); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("look up blocks: %w", err)
	}
	return nil
}

// known looks up what is not known yet. maybe is its memory.
func (r *run) known(names []block.Name, known []bool, h hit, maybe []int) error {
	for i := range names {
		if !known[i] && r.mayHold(&names[i]) {
			maybe = append(maybe, i)
		}
	}
	if len(maybe) > 1 { // so that the disk reads them at the same time
		for _, i := range maybe {
			if p := r.pageOf(&names[i]); p >= 0 {
				r.willNeed(r.from[secEntries]+int64(p), 1)
			}
		}
	}
	for _, i := range maybe {
		one := h
		if err := r.lookup(&names[i], &one); err != nil {
			return err
		}
		known[i] = one.good
	}
	return nil
}
