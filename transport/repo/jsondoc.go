package repo

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/lull-backup/lull/transport/blob"
	"github.com/lull-backup/lull/transport/repo/internal/wire"
)

// maxNote bounds the documents of sessions, fences, leases and holds in bytes.
const maxNote = 16 << 10

// sealJSON makes the object of a small document: JSON, for every role to read,
// bound to the object's name.
func (r *Repository) sealJSON(k wire.Kind, object string, doc any) ([]byte, error) {
	plain, err := json.Marshal(doc)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", object, err)
	}
	return r.sealDocument(k, object, plain)
}

// signersOf is who may sign a kind of document.
func signersOf(k wire.Kind) Roles {
	switch k {
	case wire.Mark, wire.Fence, wire.Lease, wire.Tombstone:
		return RoleMaintain
	}
	return RoleBackup | RoleMaintain
}

// openJSON opens what sealJSON made.
func (r *Repository) openJSON(k wire.Kind, info blob.Info, b []byte, doc any) error {
	plain, signer, err := r.ring.OpenDocument(k, info.Name, b)
	if err == nil {
		err = r.trust.allows(signer, signersOf(k), info, b)
	}
	if err != nil {
		return objectErr(info.Name, err)
	}
	if err := json.Unmarshal(plain, doc); err != nil {
		return objectErr(info.Name, fmt.Errorf("%w: %w", wire.ErrDamaged, err))
	}
	return nil
}

// createJSON puts a new document into the store.
func (r *Repository) createJSON(ctx context.Context, store blob.Store, k wire.Kind, object string, doc any) error {
	b, err := r.sealJSON(k, object, doc)
	if err != nil {
		return err
	}
	if err := store.Create(ctx, object, b); err != nil {
		return fmt.Errorf("store %s: %w", object, err)
	}
	return nil
}

// readJSON reads a document of at most limit bytes.
func (r *Repository) readJSON(ctx context.Context, store blob.Store, k wire.Kind, info blob.Info, limit int64, doc any) error {
	b, err := readSized(ctx, store, info, limit)
	if err != nil {
		return objectErr(info.Name, err)
	}
	return r.openJSON(k, info, b, doc)
}
