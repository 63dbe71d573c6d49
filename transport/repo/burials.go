package repo

import (
	"context"
	"errors"

	"github.com/lull-backup/lull/transport/blob"
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

// undertaker buries points that were read.
func (r *Repository) undertaker(points []Point) *undertaker {
	u := &undertaker{r: r, hashes: map[string]Hash{}}
	for i := range points {
		h := r.headOf(&points[i])
		u.hashes[pointPrefix+h.Point] = h.Hash
	}
	return u
}

// look lists, once, first what is there, then what was forgotten: what goes in between is in
// one of the two.
func (u *undertaker) look(ctx context.Context) error {
	if u.buried != nil {
		return nil
	}
	infos, err := listPoints(ctx, u.r.store, pointPrefix)
	if err != nil {
		return err
	}
	u.there = listedOf(infos)
	u.buried, err = u.r.forgotten(ctx)
	return err
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
func (r *Repository) burials(ctx context.Context, points []Point) (_ []burial, err error) {
	u, all := r.undertaker(points), make([]burial, len(points))
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
	if is, known := u.hashes[object]; known && (is == h.Hash || h.Hash == Hash{}) {
		return true, nil
	}
	if err := u.look(ctx); err != nil {
		return false, err
	}
	if u.buried.excuses(object, h.Hash) {
		return true, nil
	}
	info, there := u.there[object]
	if !there {
		return false, nil
	}
	if h.Hash == (Hash{}) {
		return true, nil
	}
	is, known := u.hashes[object]
	if !known {
		var err error
		is, err = hashOf(ctx, u.r.store, info)
		if err != nil && !errors.Is(err, blob.ErrNotFound) { // gone meanwhile: no hash of it is known
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
	u := r.undertaker(points)
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
