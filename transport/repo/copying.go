package repo

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/lull-backup/lull/transport/blob"
)

// Origin is where a copied restore point comes from.
type Origin struct {
	Repository string `json:"repository"` // its id
	Point      string `json:"point"`
	// SignedBy is the label of the key that made the point there, as who copied it
	// has found it: never what the point says.
	SignedBy string `json:"signed_by,omitempty"`
	Hash     Hash   `json:"hash,omitzero"` // of the point's object
}

// OriginOf is what a copy of p says of it. A copy of a copy comes from where the first did,
// if that is to be believed; else from p itself: a host that was taken over could say of its
// points that they are copies of any other's.
func (r *Repository) OriginOf(p *Point) Origin {
	if p.Origin != nil && p.Believed {
		return *p.Origin
	}
	return Origin{Repository: r.id.String(), Point: p.ID, SignedBy: p.SignedBy, Hash: p.Hash}
}

var errPointID = errors.New("no id of a restore point")

// BeginCopy starts the session of a copy of another repository's restore point, which
// keeps its id: so there is one copy at most, however many hosts make it with one key. It is
// blob.ErrExists when there is one, and ErrBusy while another host makes it.
//
// Where a copy was begun and never ended, as by a host that crashed, a fence stands or will
// stand in the way of that id, and a point of that id that is not to be believed to be the
// copy does so, too: then the copy gets another one, of the same time.
func (r *Repository) BeginCopy(ctx context.Context, vm, id string, origin Origin) (*Session, error) {
	if vm == "" {
		return nil, errNoVM
	}
	if back, ok := pointID(pointObject(r.ring.VM(vm), id)); !ok || back != id {
		return nil, fmt.Errorf("begin session: %w: %.60q", errPointID, id)
	}
	if err := r.Allow(RoleBackup, "store copies"); err != nil {
		return nil, err
	}
	id, other, err := r.copyID(ctx, vm, id, origin)
	if err != nil {
		return nil, fmt.Errorf("begin session: %w", err)
	}
	s, err := r.beginPoint(ctx, vm, id)
	if err != nil || other.IsZero() {
		return s, err
	}
	// The session's own object tells the store's time.
	own, err := r.store.Stat(ctx, s.sid.object(0))
	if err == nil && own.Created.Sub(other) < goneAfter {
		err = fmt.Errorf("%w, or was until %s", ErrBusy, other.UTC().Format(time.RFC3339))
	}
	if err != nil {
		return nil, fmt.Errorf("begin session: %w", errors.Join(err, s.Close()))
	}
	return s, nil
}

const (
	// goneAfter is how long a copy that does not renew itself is waited for. Whoever gives up
	// waiting too early has the point twice, which is no harm.
	goneAfter = 2 * renewEvery
	// maxCopies bounds the ids that are tried.
	maxCopies = 256
)

// copyID is the id of a copy: the first of those that a point may have that nobody has
// taken. other is when a session that holds one of them, and has not ended, was heard of
// last.
func (r *Repository) copyID(ctx context.Context, vm, first string, origin Origin) (id string, other time.Time, err error) {
	for n := range maxCopies {
		id := nthCopyID(first, n)
		s := sessionID(r.ring.VM(vm), id)
		taken, err := r.copyTaken(ctx, s, origin)
		if err != nil {
			return "", other, err
		}
		sessions, err := r.announcedSessions(ctx, s)
		if err != nil {
			return "", other, err
		}
		if a := sessions[s]; a != nil && !a.ended && a.last.After(other) {
			other = a.last
		}
		if !taken && len(sessions) == 0 {
			return id, other, nil
		}
	}
	return "", other, fmt.Errorf("%w: %d ids that a copy of %s could have are taken", ErrFenced, maxCopies, first)
}

// copyTaken tells whether something else stands in place of the point that a session may
// make: a fence, what cannot be read and is no copy therefore, or the point of a key that is
// not believed, or of another origin. The copy itself is blob.ErrExists, and so is a point of
// the own key whose origin it cannot read, or that has none.
func (r *Repository) copyTaken(ctx context.Context, s sid, origin Origin) (bool, error) {
	info, err := r.store.Stat(ctx, s.point())
	if errors.Is(err, blob.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	p, err := r.readPoint(ctx, r.store, info)
	switch {
	case err == nil && (!p.Believed || p.Origin != nil && *p.Origin != origin):
		return true, nil
	case err == nil:
		return true, blob.ErrExists
	case errors.Is(err, errFence) || errors.Is(err, ErrCorrupt):
		return true, nil
	}
	return true, err
}

// nthCopyID is the id that a copy of a point has when n others cannot be had: its time
// stays, and what is random in it changes.
func nthCopyID(id string, n int) string {
	if n == 0 {
		return id
	}
	const random = 4 // digits
	h := sum([]byte(fmt.Sprintf("%s %d", id, n)))
	return id[:len(id)-random] + hex.EncodeToString(h[:random/2])
}

// Inherits tells whether the stream has a parent to Keep windows of.
func (st *Stream) Inherits() bool { return st.parent != nil }
