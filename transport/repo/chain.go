package repo

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/lull-backup/lull/transport/blob"
	"github.com/lull-backup/lull/transport/repo/internal/wire"
)

// chain is the proof that the store shows all restore points that there must be: each
// point names its parent and the newest of other VMs, with the hashes of their objects,
// and this host remembers the newest that it saw. What is not there must have been
// forgotten, by the word of a key that may.
type chain struct {
	r      *Repository
	prefix string          // of the points that were listed
	there  listed          // objects
	hashes map[string]Hash // of those that were read

	buried   buried          // nil: not asked for yet
	followed map[string]bool // forgotten points
	reasons  map[string]error
	asked    int // for how many points that are not listed
}

// maxAsked bounds what is asked of the store: a point that was made to mislead may name
// thousands that never were.
const maxAsked = 1000

// checkChain proves that nothing is left out of a listing of points under a prefix, all
// of them or those of a VM, some of which were read. It returns what is missing or was
// exchanged, each object once. cannot means that it could not go on.
func (r *Repository) checkChain(ctx context.Context, prefix string, infos []blob.Info, read []Point) (problems []error, cannot error) {
	if !r.ring.Format().Signed() {
		return nil, nil
	}
	c := &chain{
		r: r, prefix: prefix, there: listedOf(infos),
		hashes: map[string]Hash{}, followed: map[string]bool{}, reasons: map[string]error{},
	}
	for i := range read {
		c.hashes[pointPrefix+r.headOf(&read[i]).Point] = read[i].Hash
	}
	for i := range read {
		if err := c.point(ctx, &read[i]); err != nil {
			return nil, err
		}
	}
	var gone []Head
	for _, h := range r.memory.newest(strings.Trim(strings.TrimPrefix(prefix, pointPrefix), "/")) {
		forgotten, err := c.want(ctx, h, "this host has seen it")
		if err != nil {
			return nil, err
		}
		if forgotten {
			gone = append(gone, h)
		}
	}
	r.memory.forget(gone...)
	c.remember(read)
	return append(c.problems(), r.trust.problems...), nil
}

// point checks what a point says of others.
func (c *chain) point(ctx context.Context, p *Point) error {
	for _, h := range links(c.r.headOf(p), p.Parent, p.ParentHash, p.Heads) {
		if _, err := c.want(ctx, h, "point "+p.ID+" names it"); err != nil {
			return err
		}
	}
	return nil
}

// want takes down a problem unless a point is there as it was, or was forgotten: then those
// are wanted that it named, and so on. Without a hash the point was gone when it was named.
func (c *chain) want(ctx context.Context, h Head, why string) (forgotten bool, err error) {
	forgotten, err = c.look(ctx, h, why)
	for left := c.follow(h, forgotten); len(left) > 0 && err == nil; left = left[1:] {
		var gone bool
		gone, err = c.look(ctx, left[0], "a point that was forgotten named it")
		left = append(left, c.follow(left[0], gone)...)
	}
	return forgotten, err
}

// follow are the points that a forgotten one named, once.
func (c *chain) follow(h Head, forgotten bool) []Head {
	object := pointPrefix + h.Point
	if !forgotten || c.followed[object] {
		return nil
	}
	c.followed[object] = true
	return slices.Clip(c.buried[object].links)
}

// look takes down a problem unless a point is there as it was, or was forgotten.
func (c *chain) look(ctx context.Context, h Head, why string) (forgotten bool, err error) {
	object := pointPrefix + h.Point
	if !strings.HasPrefix(object, c.prefix) {
		return false, nil // not listed
	}
	if _, there := c.there[object]; there {
		if is, read := c.hashes[object]; read && is != h.Hash && h.Hash != (Hash{}) {
			c.reasons[object] = objectErr(object, fmt.Errorf("%w: another point is in its place; %s", wire.ErrForged, why))
		}
		return false, nil
	}
	if c.buried == nil {
		if c.buried, err = c.r.forgotten(ctx); err != nil {
			return false, err
		}
	}
	if c.buried.excuses(object, h.Hash) {
		return true, nil
	}
	if c.reasons[object] != nil {
		return false, nil
	}
	if c.asked++; c.asked > maxAsked {
		c.reasons[c.prefix] = objectErr(c.prefix, fmt.Errorf("%w: and others that are named", ErrOmitted))
		return false, nil
	}
	// It may have come after it was listed.
	_, err = c.r.store.Stat(ctx, object)
	if !errors.Is(err, blob.ErrNotFound) && !errors.Is(err, blob.ErrBadName) { // a lie is no reason not to go on
		return false, err
	}
	c.reasons[object] = objectErr(object, fmt.Errorf("%w: %s, and nobody has forgotten it", ErrOmitted, why))
	return false, nil
}

func (c *chain) problems() []error {
	var objects []string
	for object := range c.reasons {
		objects = append(objects, object)
	}
	slices.Sort(objects)
	var errs []error
	for _, object := range objects {
		errs = append(errs, c.reasons[object])
	}
	return errs
}

// remember takes down the newest point of each VM that was read, but for those whose
// word is doubtful.
func (c *chain) remember(read []Point) {
	newest := map[string]Head{}
	for i := range read {
		h := c.r.headOf(&read[i])
		if c.reasons[pointPrefix+h.Point] == nil && newest[h.vmOf()].Point < h.Point {
			newest[h.vmOf()] = h
		}
	}
	heads := make([]Head, 0, len(newest))
	for _, h := range newest {
		heads = append(heads, h)
	}
	slices.SortFunc(heads, func(a, b Head) int { return cmp.Compare(a.Point, b.Point) })
	c.r.memory.see(false, heads...)
}

// parentHash is the hash of the object of a point, which is read unless this host
// remembers it. A point that is gone has none.
func (r *Repository) parentHash(ctx context.Context, store blob.Store, object string) (Hash, error) {
	vm := path.Base(path.Dir(object))
	for _, h := range r.memory.newest(vm) {
		if pointPrefix+h.Point == object {
			return h.Hash, nil
		}
	}
	b, err := readObject(ctx, store, object, maxManifest)
	if errors.Is(err, blob.ErrNotFound) {
		return Hash{}, nil
	}
	return Hash(sum(b)), err
}
