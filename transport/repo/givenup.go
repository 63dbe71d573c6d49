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

	mu   sync.Mutex
	read buried // nil: not asked for yet
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
	if g.read == nil {
		g.read, err = g.r.forgotten(ctx)
	}
	return g.read, err
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
