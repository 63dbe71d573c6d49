package repo

import (
	"context"
	"encoding/json"
	"fmt"
	"path"
	"strings"

	"github.com/lull-backup/lull/transport/blob"
	"github.com/lull-backup/lull/transport/repo/internal/wire"
)

// tombstone is the document that says which points were forgotten on purpose, and which
// the store may be without therefore. It is written before they are deleted, and stays.
type tombstone struct {
	Points []burial `json:"points"`
	// Damaged are points that could not be read any more, with the hashes of what was
	// there. What they were, others may remember: they are excused by their names.
	Damaged []Head `json:"damaged,omitempty"`
}

// burial is a point that was forgotten, and those that it named and nothing later leads to:
// so that who follows the chain of what is there finds the way past it. Tombstones of before
// have none of those.
type burial struct {
	Head
	Parent     string `json:"parent,omitempty"` // id
	ParentHash Hash   `json:"parent_hash,omitzero"`
	Heads      []Head `json:"heads,omitempty"`
}

// Bounds of a tombstone: points, and bytes of JSON by about.
const (
	maxForgotten = 1000
	maxTombstone = 4 << 20
	// What a burial and one of its heads take, about.
	burialCost = 512
	headCost   = 192
)

// cost is about how many bytes the burial takes.
func (b *burial) cost() int { return burialCost + headCost*len(b.Heads) }

// burialOf is what a tombstone would say of a point that is believed.
func (r *Repository) burialOf(p *Point) burial {
	b := burial{Head: r.headOf(p), Parent: p.Parent, ParentHash: p.ParentHash, Heads: r.leading(p.Heads)}
	if most := maxTombstone / headCost; len(b.Heads) > most {
		b.Heads = b.Heads[:most] // thousands of VMs on one host
	}
	return b
}

// leading are the heads of whose VMs this host knows no later point. To the others the later
// ones lead, by their parents: else the tombstones of a host's VMs would name each other's
// points once for each, and grow with the square of their number.
func (r *Repository) leading(heads []Head) (few []Head) {
	newest := r.memory.now().Newest
	for _, h := range heads {
		if newest[h.vmOf()].Point <= h.Point { // ids sort by time
			few = append(few, h)
		}
	}
	return few
}

// fitting is how many of some burials one tombstone takes.
func fitting(all []burial) int {
	n, size := 0, 0
	for n < len(all) && n < maxForgotten && (n == 0 || size+all[n].cost() <= maxTombstone) {
		size += all[n].cost()
		n++
	}
	return n
}

// links are the points that a point names: its parent first.
func links(own Head, parent string, hash Hash, heads []Head) []Head {
	if parent == "" {
		return heads
	}
	return append([]Head{{Point: path.Join(own.vmOf(), strings.ToLower(parent)), Hash: hash}}, heads...)
}

// buried is what was forgotten on purpose, by object.
type buried map[string]grave

type grave struct {
	hash    Hash
	any     bool   // whatever it was
	damaged []Hash // of what was given up as it could not be read; zero: it was too large
	links   []Head
}

func (b buried) take(t *tombstone) {
	for i := range t.Points {
		p := &t.Points[i]
		g := b[pointPrefix+p.Point]
		b[pointPrefix+p.Point] = grave{p.Hash, g.any, g.damaged, links(p.Head, p.Parent, p.ParentHash, p.Heads)}
	}
	for _, p := range t.Damaged {
		g := b[pointPrefix+p.Point]
		b[pointPrefix+p.Point] = grave{p.Hash, true, append(g.damaged, p.Hash), g.links}
	}
}

func (b buried) has(object string) bool {
	_, is := b[object]
	return is
}

// excuses tells whether a point may be missing, of which no hash is known if h is zero.
func (b buried) excuses(object string, h Hash) bool {
	g, is := b[object]
	return is && (g.any || g.hash == h || h == Hash{})
}

// headOf names a point.
func (r *Repository) headOf(p *Point) Head {
	return Head{Point: strings.TrimPrefix(pointObject(r.ring.VM(p.VM), p.ID), pointPrefix), Hash: p.Hash}
}

// entomb says, signed by this key, that points are forgotten. Only then may they be
// deleted.
func (r *Repository) entomb(ctx context.Context, t tombstone) error {
	if err := r.Allow(RoleMaintain, "forget restore points"); err != nil {
		return err
	}
	plain, err := json.Marshal(t)
	if err != nil {
		return fmt.Errorf("write tombstone: %w", err)
	}
	if err := r.createNamed(ctx, wire.Tombstone, forgottenPrefix, plain); err != nil {
		return fmt.Errorf("write tombstone: %w", err)
	}
	return nil
}

// forgotten reads what was forgotten on purpose. Only who misses something asks.
func (r *Repository) forgotten(ctx context.Context) (buried, error) {
	infos, err := list(ctx, r.store, forgottenPrefix)
	if err != nil {
		return nil, err
	}
	r.tombstones.load()
	defer r.tombstones.save()
	all := buried{}
	for _, info := range infos {
		t, err := r.readTombstone(ctx, info)
		if err != nil && !passable(err) {
			return nil, err // a damaged one excuses nothing
		}
		all.take(&t)
	}
	return all, nil
}

func (r *Repository) readTombstone(ctx context.Context, info blob.Info) (tombstone, error) {
	if known, ok := r.tombstones.get(info.Name); ok && r.trust.stillGood(known.Signer, info) {
		return known.Doc, nil
	}
	plain, by, err := r.readDocument(ctx, wire.Tombstone, info, forgottenPrefix, RoleMaintain)
	if err != nil {
		return tombstone{}, err
	}
	var doc tombstone
	if err := json.Unmarshal(plain, &doc); err != nil {
		return tombstone{}, objectErr(info.Name, fmt.Errorf("%w: no tombstone", wire.ErrDamaged))
	}
	r.tombstones.put(keptTombstone{info.Name, by.Signer, doc})
	return doc, nil
}
