package repo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/lull-backup/lull/transport/blob"
	"github.com/lull-backup/lull/transport/repo/internal/wire"
)

// quarantine is what a check found damaged, for all hosts to know. As long as it is in
// the store, sessions take blocks in its packs for unknown, so that they store again
// what they meet of them, and build on no parent that is hurt.
//
// It is lifted by a later check (see lift), as when its packs were repaired.
type quarantine struct {
	Found time.Time `json:"found"`
	// Packs that are damaged or missing.
	Packs []Hash `json:"packs,omitempty"`
	// Roots are the top nodes of streams that have lost something.
	Roots []Hash `json:"roots,omitempty"`

	unread bool // what it says is not known
}

func (q *quarantine) empty() bool { return len(q.Packs) == 0 && len(q.Roots) == 0 }

func (q *quarantine) equal(o *quarantine) bool {
	return slices.Equal(q.Packs, o.Packs) && slices.Equal(q.Roots, o.Roots)
}

// readQuarantine reads one.
func (r *Repository) readQuarantine(ctx context.Context, info blob.Info) (q quarantine, err error) {
	plain, _, err := r.readDocument(ctx, wire.Quarantine, info, quarantinePrefix, RoleRestore|RoleMaintain)
	if err != nil {
		return q, err
	}
	if err := json.Unmarshal(plain, &q); err != nil {
		return q, objectErr(info.Name, fmt.Errorf("%w: %w", wire.ErrDamaged, err))
	}
	return q, nil
}

// signs tells whether the key may say what is damaged.
func (r *Repository) signs() bool {
	return r.ring.Format().Signed() && r.ring.Certificate() != nil && r.ring.CanReadMaps()
}

// writeQuarantine puts one into the store.
func (r *Repository) writeQuarantine(ctx context.Context, q *quarantine) (object string, err error) {
	plain, err := json.Marshal(q)
	if err != nil {
		return "", fmt.Errorf("encode quarantine: %w", err)
	}
	b, err := r.sealDocument(wire.Quarantine, quarantinePrefix, plain)
	if err != nil {
		return "", err
	}
	object = quarantinePrefix + Hash(sum(b)).String()
	if err := r.store.Create(ctx, object, b); err != nil {
		return "", fmt.Errorf("store %s: %w", object, err)
	}
	return object, nil
}

// findings is what this check found.
func (c *checker) findings() *quarantine {
	q := &quarantine{Found: c.r.now().UTC()}
	for _, p := range c.damagedPacks() {
		q.Packs = append(q.Packs, p)
	}
	for _, root := range c.hurt {
		q.Roots = append(q.Roots, Hash(root.Node))
	}
	slices.SortFunc(q.Roots, func(a, b Hash) int { return slices.Compare(a[:], b[:]) })
	q.Roots = slices.Compact(q.Roots)
	return q
}

// note makes known what is damaged: to all hosts by a quarantine and, where that cannot
// be written, to this one. That it could not is a problem too, but no reason to hide
// the others.
func (c *checker) note(ctx context.Context) {
	found := c.findings()
	object, err := c.publish(ctx, found)
	if err == nil {
		err = c.r.doubts.settle(nil)
		c.r.doubts.learn(object, found)
	} else {
		if errors.Is(err, ErrReadOnly) {
			err = nil // no quarantine in format 1, and none by who may not sign one
		}
		err = errors.Join(err, c.noteHere(found))
	}
	if err != nil {
		c.bad[quarantinePrefix] = &Problem{Object: quarantinePrefix, Err: err.Error()}
	}
}

// noteHere keeps what is damaged for this host's backups to come.
func (c *checker) noteHere(q *quarantine) error {
	var objects []string
	for _, p := range q.Packs {
		objects = append(objects, packObject(p))
	}
	if len(q.Roots) > 0 {
		objects = append(objects, indexPrefix)
	}
	if c.o.ReadAll {
		return c.r.doubts.settle(objects)
	}
	return c.r.doubts.add(objects...)
}

// publish puts a quarantine of what was found into the store, unless there is one like
// it, and lifts those that it makes needless.
func (c *checker) publish(ctx context.Context, found *quarantine) (object string, err error) {
	if !c.r.signs() {
		return "", ErrReadOnly
	}
	var old []blob.Info
	for _, info := range c.quarantines {
		q, err := c.r.readQuarantine(ctx, info)
		if err != nil {
			if passable(err) {
				continue // it is among the problems
			}
			return "", err
		}
		switch {
		case object == "" && q.equal(found):
			object = info.Name
		case c.settled(info, &q, found):
			old = append(old, info)
		}
	}
	if object == "" && !found.empty() {
		if object, err = c.r.writeQuarantine(ctx, found); err != nil {
			return "", err
		}
	}
	for _, info := range old {
		if err := c.r.store.Delete(ctx, info.Name); err != nil {
			return "", fmt.Errorf("lift %s: %w", info.Name, err)
		}
	}
	return object, nil
}

// settled tells whether a quarantine can be lifted: nothing of it is in doubt but what
// was found again, and every session that did not know of it has ended before the
// points were listed that this check has walked over.
func (c *checker) settled(info blob.Info, q, found *quarantine) bool {
	for _, s := range c.sessions {
		if !s.first.After(info.Created) {
			return false
		}
	}
	for _, name := range q.Packs {
		if slices.Contains(found.Packs, name) {
			continue
		}
		if p := c.packs[name]; p != nil && p.listed && !p.chosen {
			return false // not looked into this time
		}
	}
	return true
}
