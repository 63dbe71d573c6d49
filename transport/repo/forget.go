package repo

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/lull-backup/lull/transport/blob"
	"github.com/lull-backup/lull/transport/repo/internal/wire"
)

// Held is a point that no rule and nobody's hand forgets until it is released.
type Held struct {
	Point  string    `json:"point"` // id
	VM     string    `json:"vm"`
	Reason string    `json:"reason,omitempty"`
	By     string    `json:"by"`    // label of the key
	Since  time.Time `json:"since"` // by the host's clock
}

// Hold keeps a point from being forgotten. A point that is being forgotten at this very
// moment is ErrNotFound.
func (r *Repository) Hold(ctx context.Context, p Point, reason string) error {
	if err := r.Allow(RoleBackup|RoleMaintain, "hold restore points"); err != nil {
		return err
	}
	s := sessionID(r.ring.VM(p.VM), p.ID)
	doc := Held{Point: p.ID, VM: p.VM, Reason: reason, By: r.Label(), Since: r.now().UTC()}
	err := r.createJSON(ctx, r.store, wire.Hold, holdPrefix+string(s), doc)
	if err != nil && !errors.Is(err, blob.ErrExists) {
		return fmt.Errorf("hold point %s: %w", p.ID, err)
	}
	// Whoever forgets says so first and looks for holds then; so one of the two sees the
	// other.
	if err := r.stillThere(ctx, s); err != nil {
		return fmt.Errorf("hold point %s: %w", p.ID, errors.Join(err, r.store.Delete(ctx, holdPrefix+string(s))))
	}
	return nil
}

func (r *Repository) stillThere(ctx context.Context, s sid) error {
	buried, err := r.forgotten(ctx)
	if err != nil {
		return err
	}
	if _, going := buried[s.point()]; going {
		return fmt.Errorf("%w: it is being forgotten", ErrNotFound)
	}
	_, err = r.store.Stat(ctx, s.point())
	if errors.Is(err, blob.ErrNotFound) {
		err = ErrNotFound
	}
	return err
}

// Release ends a hold. A point that is not held is no error.
func (r *Repository) Release(ctx context.Context, p Point) error {
	if err := r.Allow(RoleMaintain, "release restore points"); err != nil {
		return err
	}
	s := sessionID(r.ring.VM(p.VM), p.ID)
	if err := r.store.Delete(ctx, holdPrefix+string(s)); err != nil {
		return fmt.Errorf("release point %s: %w", p.ID, err)
	}
	return nil
}

// Holds are the points that are held, by their ids. A hold whose document cannot be read
// holds all the same.
func (r *Repository) Holds(ctx context.Context) (map[string]Held, error) {
	infos, err := list(ctx, r.store, holdPrefix)
	if err != nil {
		return nil, err
	}
	all := map[string]Held{}
	for _, info := range infos {
		s, _, ok := cutSID(info.Name, holdPrefix)
		if !ok {
			continue
		}
		id, _ := pointID(s.point())
		var doc Held
		err := r.readJSON(ctx, r.store, wire.Hold, info, maxNote, &doc)
		if err != nil && !passable(err) {
			return nil, err
		}
		doc.Point = id
		all[id] = doc
	}
	return all, nil
}

// maxForgotten is how many points one tombstone is about.
const maxForgotten = 1000

// Forget removes points: from then on nobody can restore them. What they alone needed is
// deleted by a prune. A point that is held is not forgotten: ErrHeld, and nothing is. That
// they may be missing is written down, signed, before they are.
func (r *Repository) Forget(ctx context.Context, points []Point) error {
	if err := r.Allow(RoleMaintain, "forget restore points"); err != nil {
		return err
	}
	if err := r.notHeld(ctx, points); err != nil {
		return err
	}
	for len(points) > 0 {
		n := min(len(points), maxForgotten)
		if err := r.forget(ctx, points[:n]); err != nil {
			return fmt.Errorf("forget: %w", err)
		}
		points = points[n:]
	}
	return nil
}

func (r *Repository) forget(ctx context.Context, points []Point) error {
	heads := make([]Head, len(points))
	for i := range points {
		heads[i] = r.headOf(&points[i])
	}
	if err := r.entomb(ctx, heads); err != nil {
		return err
	}
	if err := r.notHeld(ctx, points); err != nil {
		return err
	}
	for _, h := range heads {
		if err := r.store.Delete(ctx, pointPrefix+h.Point); err != nil {
			return err
		}
	}
	return nil
}

func (r *Repository) notHeld(ctx context.Context, points []Point) error {
	held, err := r.Holds(ctx)
	if err != nil {
		return err
	}
	var ids []string
	for i := range points {
		if _, is := held[points[i].ID]; is {
			ids = append(ids, points[i].ID)
		}
	}
	if len(ids) > 0 {
		return fmt.Errorf("%w: %s", ErrHeld, strings.Join(ids, ", "))
	}
	return nil
}
