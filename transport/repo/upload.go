package repo

import (
	"context"
	"fmt"
	"sync"

	"github.com/lull-backup/lull/transport/block"
	"github.com/lull-backup/lull/transport/repo/internal/pack"
)

// listing is what the next index object will hold.
type listing struct {
	mu     sync.Mutex
	packs  []pack.Listing
	blocks int
}

// upload puts packs into the store until there are no more.
func (s *Session) upload(ctx context.Context) {
	for {
		select {
		case j := <-s.jobs:
			if err := s.uploadPack(ctx, j); err != nil {
				s.fail(err)
			}
			j.lane.buffers <- j.pack.Bytes[:0]
		case <-s.stop:
			return
		}
	}
}

func (s *Session) uploadPack(ctx context.Context, j job) error {
	object := packObject(j.pack.Pack)
	if err := s.store.Create(ctx, object, j.pack.Bytes); err != nil {
		return fmt.Errorf("store %s: %w", object, err)
	}
	return s.stored(ctx, j.pack.Listing)
}

// stored makes the blocks of a pack known that is in the store.
func (s *Session) stored(ctx context.Context, l pack.Listing) error {
	s.listing.mu.Lock()
	defer s.listing.mu.Unlock()
	var names []block.Name
	for e := range entries(s.r.ring, &l) {
		if err := s.index.Insert(ctx, e.Name, e.Location); err != nil {
			return err
		}
		names = append(names, e.Name)
	}
	s.claims.drop(names)
	s.listing.packs = append(s.listing.packs, l)
	s.listing.blocks += len(names)
	if s.listing.blocks < s.r.limits.index {
		return nil
	}
	return s.writeIndex(ctx)
}

// writeIndex puts an index object for what was stored since the last one, under
// the listing's lock. Only then may other sessions build on these blocks.
func (s *Session) writeIndex(ctx context.Context) error {
	if len(s.listing.packs) == 0 {
		return nil
	}
	name := s.sid.index(s.indexes)
	object, err := pack.SealIndex(s.r.ring, name, s.listing.packs)
	if err != nil {
		return err
	}
	if err := s.create(ctx, name, object); err != nil {
		return err
	}
	s.indexes++
	s.listing.packs, s.listing.blocks = nil, 0
	return s.index.Commit(ctx, sourceOf(name))
}
