package repo

import (
	"context"
	"errors"
	"fmt"
)

// Origin is where a copied restore point comes from.
type Origin struct {
	Repository string `json:"repository"` // its id
	Point      string `json:"point"`
	// SignedBy is the label of the key that made the point there, as who copied it
	// has found it.
	SignedBy string `json:"signed_by,omitempty"`
	Hash     Hash   `json:"hash,omitzero"` // of the point's object
}

// OriginOf is what a copy of p says of it.
func (r *Repository) OriginOf(p *Point) Origin {
	if p.Origin != nil {
		return *p.Origin // a copy of a copy
	}
	return Origin{Repository: r.id.String(), Point: p.ID, SignedBy: p.SignedBy, Hash: p.Hash}
}

var errPointID = errors.New("no id of a restore point")

// BeginCopy starts the session of a copy of another repository's restore point, which
// keeps its id: so there is one copy at most, however many hosts make it.
func (r *Repository) BeginCopy(ctx context.Context, vm, id string) (*Session, error) {
	if vm == "" {
		return nil, errNoVM
	}
	if back, ok := pointID(pointObject(r.ring.VM(vm), id)); !ok || back != id {
		return nil, fmt.Errorf("begin session: %w: %.60q", errPointID, id)
	}
	if err := r.Allow(RoleBackup, "store copies"); err != nil {
		return nil, err
	}
	return r.beginPoint(ctx, vm, id)
}

// Inherits tells whether the stream has a parent to Keep windows of.
func (st *Stream) Inherits() bool { return st.parent != nil }
