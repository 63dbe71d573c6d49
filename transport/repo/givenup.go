package repo

import (
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/lull-backup/lull/transport/blob"
	"github.com/lull-backup/lull/transport/repo/internal/wire"
)

// givenUp tells of points that cannot be read whether somebody who may has given them up. The
// store may keep such an object for years (object lock), whoever put it there: that it was
// given up counts all the same, for that content and no other.
type givenUp struct {
	r *Repository

	mu     sync.Mutex
	buried buried // nil: not asked for yet
}

// read is readPoint, but that a point that was given up is none: errFence.
func (g *givenUp) read(ctx context.Context, store blob.Store, info blob.Info) (Point, error) {
	p, err := g.r.readPoint(ctx, store, info)
	if err == nil {
		return p, nil
	}
	is, failed := g.is(ctx, store, info, err)
	switch {
	case failed != nil:
		return Point{}, failed
	case is:
		return Point{}, errFence
	}
	return p, err
}

// is tells it of a point that was read with an error.
func (g *givenUp) is(ctx context.Context, store blob.Store, info blob.Info, err error) (bool, error) {
	if !errors.Is(err, ErrCorrupt) || errors.Is(err, blob.ErrNotFound) || !g.r.ring.Format().Signed() {
		return false, nil
	}
	all, err := g.all(ctx)
	if err != nil || len(all[info.Name].damaged) == 0 {
		return false, err
	}
	h, err := hashOf(ctx, store, info)
	if errors.Is(err, blob.ErrNotFound) {
		return false, nil
	}
	return err == nil && slices.Contains(all[info.Name].damaged, h), err
}

// all reads the tombstones once, however many points cannot be read.
func (g *givenUp) all(ctx context.Context) (_ buried, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.buried == nil {
		g.buried, err = g.r.forgotten(ctx)
	}
	return g.buried, err
}

// hashOf is the hash of a point's object, zero of one that is too large to be any.
func hashOf(ctx context.Context, store blob.Store, info blob.Info) (Hash, error) {
	b, err := readSized(ctx, store, info, maxManifest)
	switch {
	case errors.Is(err, wire.ErrDamaged):
		return Hash{}, nil
	case err != nil:
		return Hash{}, err
	}
	return sum(b), nil
}
