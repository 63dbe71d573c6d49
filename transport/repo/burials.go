package repo

import (
	"context"
	"errors"

	"github.com/lull-backup/lull/transport/repo/internal/wire"
)

// undertaker makes the burials of points. A tombstone stays for ever and is followed by
// everybody: so of what a point names it takes only what it can prove. Else the word of a key
// that only backs up would outlive its points, and miss points that never were.
type undertaker struct {
	r      *Repository
	there  listed
	buried buried
	hashes map[string]Hash // of objects that are there
}

// undertaker lists first what is there, then what was forgotten: what goes in between is in
// one of the two.
func (r *Repository) undertaker(ctx context.Context, points []Point) (*undertaker, error) {
	infos, err := listPoints(ctx, r.store, pointPrefix)
	if err != nil {
		return nil, err
	}
	u := &undertaker{r: r, there: listedOf(infos), hashes: map[string]Hash{}}
	if u.buried, err = r.forgotten(ctx); err != nil {
		return nil, err
	}
	for i := range points {
		h := r.headOf(&points[i])
		u.hashes[pointPrefix+h.Point] = h.Hash
	}
	return u, nil
}

// burial is what a tombstone says of a point, and which of the points it names are neither
// there as it names them, nor forgotten.
func (u *undertaker) burial(ctx context.Context, p *Point) (b burial, unproven []Head, err error) {
	b = u.r.burialOf(p)
	if parent := links(b.Head, b.Parent, b.ParentHash, nil); len(parent) > 0 {
		is, err := u.proves(ctx, parent[0])
		if err != nil {
			return b, nil, err
		}
		if !is {
			unproven, b.Parent, b.ParentHash = parent, "", Hash{}
		}
	}
	var heads []Head
	for _, h := range b.Heads {
		is, err := u.proves(ctx, h)
		switch {
		case err != nil:
			return b, nil, err
		case is:
			heads = append(heads, h)
		default:
			unproven = append(unproven, h)
		}
	}
	b.Heads = heads
	return b, unproven, nil
}

// burials are what tombstones say of points.
func (r *Repository) burials(ctx context.Context, points []Point) ([]burial, error) {
	if len(points) == 0 {
		return nil, nil
	}
	u, err := r.undertaker(ctx, points)
	if err != nil {
		return nil, err
	}
	all := make([]burial, len(points))
	for i := range points {
		if all[i], _, err = u.burial(ctx, &points[i]); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// proves tells whether a point is there, with the hash that another one has of it, if any, or
// was forgotten.
func (u *undertaker) proves(ctx context.Context, h Head) (bool, error) {
	object := pointPrefix + h.Point
	if u.buried.excuses(object, h.Hash) {
		return true, nil
	}
	if _, there := u.there[object]; !there {
		return false, nil
	}
	if h.Hash == (Hash{}) {
		return true, nil
	}
	is, known := u.hashes[object]
	if !known {
		var err error
		is, err = u.r.parentHash(ctx, u.r.store, object)
		if passable(err) || errors.Is(err, wire.ErrDamaged) {
			err = nil // too large to be a point: no hash of it is known
		}
		if err != nil {
			return false, err
		}
		u.hashes[object] = is
	}
	return is == h.Hash, nil
}

// Unproven is a point that another one names.
type Unproven struct {
	By     string // id of the point that names it
	Object string // of the point that is named
}

// Unproven are the points that some others name and that are neither in the store as named,
// nor forgotten: the store leaves them out, or who made those others lies. While those are
// there they are missed (ErrOmitted, ErrForged); when they are forgotten nobody asks any more.
func (r *Repository) Unproven(ctx context.Context, points []Point) (all []Unproven, err error) {
	u, err := r.undertaker(ctx, points)
	if err != nil {
		return nil, err
	}
	for i := range points {
		_, heads, err := u.burial(ctx, &points[i])
		if err != nil {
			return nil, err
		}
		for _, h := range heads {
			all = append(all, Unproven{points[i].ID, pointPrefix + h.Point})
		}
	}
	return all, nil
}
