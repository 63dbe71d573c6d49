package repo

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"

	"github.com/lull-backup/lull/transport/blob"
	"github.com/lull-backup/lull/transport/repo/internal/wire"
)

// tombstone is the document that says which points were forgotten on purpose, and which
// the store may be without therefore. It is written before they are deleted, and stays.
type tombstone struct {
	Points []Head `json:"points"`
}

// headOf names a point.
func (r *Repository) headOf(p *Point) Head {
	return Head{Point: strings.TrimPrefix(pointObject(r.ring.VM(p.VM), p.ID), pointPrefix), Hash: p.Hash}
}

// entomb says, signed by this key, that points are forgotten. Only then may they be
// deleted.
func (r *Repository) entomb(ctx context.Context, points []Head) error {
	if err := r.Allow(RoleMaintain, "forget restore points"); err != nil {
		return err
	}
	plain, err := json.Marshal(tombstone{points})
	if err != nil {
		return fmt.Errorf("write tombstone: %w", err)
	}
	if err := r.createNamed(ctx, wire.Tombstone, forgottenPrefix, plain); err != nil {
		return fmt.Errorf("write tombstone: %w", err)
	}
	return nil
}

// forgotten reads what was forgotten on purpose: the hash of each point by its object. Only
// who reads what misses something asks.
func (r *Repository) forgotten(ctx context.Context) (map[string]Hash, error) {
	infos, err := list(ctx, r.store, forgottenPrefix)
	if err != nil {
		return nil, err
	}
	all := map[string]Hash{}
	for _, info := range infos {
		points, err := r.readTombstone(ctx, info)
		if err != nil && !passable(err) {
			return nil, err // a damaged one excuses nothing
		}
		for _, p := range points {
			all[pointPrefix+p.Point] = p.Hash
		}
	}
	return all, nil
}

func (r *Repository) readTombstone(ctx context.Context, info blob.Info) ([]Head, error) {
	if known, ok := r.tombstones.get(info.Name); ok {
		return known, nil
	}
	plain, _, err := r.readDocument(ctx, wire.Tombstone, info, forgottenPrefix, RoleMaintain)
	if err != nil {
		return nil, err
	}
	var doc tombstone
	if err := json.Unmarshal(plain, &doc); err != nil {
		return nil, objectErr(info.Name, fmt.Errorf("%w: no tombstone", wire.ErrDamaged))
	}
	r.tombstones.put(info.Name, doc.Points)
	return doc.Points, nil
}

// tombstones are those that were read; they never change.
type tombstones struct {
	mu   sync.Mutex
	read map[string][]Head
}

func (t *tombstones) get(object string) ([]Head, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	points, ok := t.read[object]
	return points, ok
}

func (t *tombstones) put(object string, points []Head) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.read == nil {
		t.read = map[string][]Head{}
	}
	t.read[object] = points
}
