package repo

import (
	"cmp"
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

// Hold keeps a point from being forgotten. It takes a key that may forget: the key of a host
// that was taken over is to keep nothing from being forgotten, nor does its store let it. A
// point that is being forgotten at this very moment is ErrNotFound.
func (r *Repository) Hold(ctx context.Context, p Point, reason string) error {
	if err := r.Allow(RoleMaintain, "hold restore points"); err != nil {
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
	if buried.has(s.point()) {
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

// Forget removes points: from then on nobody can restore them. What they alone needed is
// deleted by a prune. A point that is held is not forgotten: ErrHeld, and nothing is. That
// they may be missing is written down, signed, before they are.
//
// Points that the store keeps locked stay as they are, and come again when their time is
// over: the error is a LockedError then, and all others are forgotten.
func (r *Repository) Forget(ctx context.Context, points []Point) error {
	if err := r.Allow(RoleMaintain, "forget restore points"); err != nil {
		return err
	}
	if err := r.notHeld(ctx, points); err != nil {
		return err
	}
	kept := new(LockedError)
	free, err := r.unlocked(ctx, points, kept)
	if err != nil {
		return fmt.Errorf("forget: %w", err)
	}
	burials, err := r.burials(ctx, free)
	if err != nil {
		return fmt.Errorf("forget: %w", err)
	}
	for len(free) > 0 {
		n := fitting(burials)
		if err := r.forget(ctx, free[:n], burials[:n], kept); err != nil {
			return fmt.Errorf("forget: %w", err)
		}
		free, burials = free[n:], burials[n:]
	}
	if len(kept.Points) > 0 {
		return fmt.Errorf("forget: %w", kept)
	}
	return nil
}

// unlocked are the points that the store does not keep; the others go into kept. No
// tombstone is made of those: nothing may say that a point is gone that is to stay.
func (r *Repository) unlocked(ctx context.Context, points []Point, kept *LockedError) (free []Point, err error) {
	l := locks{store: r.store}
	for i := range points {
		until, err := l.until(ctx, pointPrefix+r.headOf(&points[i]).Point, r.now())
		if err != nil {
			return nil, err
		}
		if until.IsZero() {
			free = append(free, points[i])
		} else {
			kept.add(points[i].ID, until)
		}
	}
	return free, nil
}

// forget removes points that are not known to be locked. One that proves to be so is in a
// tombstone and stays all the same: a tombstone excuses what is missing, and says nothing
// of what is there.
func (r *Repository) forget(ctx context.Context, points []Point, burials []burial, kept *LockedError) error {
	if err := r.entomb(ctx, tombstone{Points: burials}); err != nil {
		return err
	}
	if err := r.notHeld(ctx, points); err != nil {
		return err
	}
	for i := range burials {
		gone, err := remove(ctx, r.store, pointPrefix+burials[i].Point)
		if err != nil {
			return err
		}
		if !gone {
			kept.add(points[i].ID, time.Time{})
		}
	}
	return nil
}

// ForgetDamaged gives up a restore point that cannot be read, by its id: nobody knows what
// it needs, so that rules and prunes stop at it. vm may be empty. One that can be read is
// left to Forget. One that the store keeps locked stays, and is a LockedError; but it is given
// up: rules and prunes pass over it as long as it is there as it was.
func (r *Repository) ForgetDamaged(ctx context.Context, vm, id string) error {
	if err := r.Allow(RoleMaintain, "forget restore points"); err != nil {
		return err
	}
	if err := r.mayList(); err != nil {
		return err
	}
	if err := r.forgetDamaged(ctx, vm, id); err != nil {
		return fmt.Errorf("forget damaged point %s: %w", id, err)
	}
	return nil
}

func (r *Repository) forgetDamaged(ctx context.Context, vm, id string) error {
	info, err := r.findObject(ctx, vm, id)
	if err != nil {
		return err
	}
	_, err = r.readPoint(ctx, r.store, info)
	switch {
	case err == nil || errors.Is(err, errFence):
		return ErrWhole
	case !errors.Is(err, ErrCorrupt):
		return err // of a newer version, say
	}
	s, ok := sidOf(info.Name)
	if !ok {
		return ErrNotFound
	}
	if _, err := r.store.Stat(ctx, holdPrefix+string(s)); !errors.Is(err, blob.ErrNotFound) {
		return cmp.Or(err, ErrHeld)
	}
	kept := new(LockedError)
	if err := r.buryDamaged(ctx, []blob.Info{info}, kept); err != nil {
		return err
	}
	if len(kept.Points) > 0 {
		return kept
	}
	// Was it a fence once, it must go on keeping its session from making the point.
	return r.fencePoint(ctx, s)
}

// findObject is the one object of a point that has that id.
func (r *Repository) findObject(ctx context.Context, vm, id string) (found blob.Info, err error) {
	prefix := pointPrefix
	if vm != "" {
		prefix = vmPrefix(r.ring.VM(vm))
	}
	infos, err := listPoints(ctx, r.store, prefix)
	if err != nil {
		return found, err
	}
	for _, i := range infos {
		if is, ok := pointID(i.Name); !ok || is != id {
			continue
		}
		if found.Name != "" {
			return found, fmt.Errorf("%w: several VMs have it, name one", ErrNotFound)
		}
		found = i
	}
	if found.Name == "" {
		return found, ErrNotFound
	}
	return found, nil
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
