package repo

import (
	"context"
	"fmt"

	"github.com/lull-backup/lull/transport/blob"
	"github.com/lull-backup/lull/transport/repo/internal/keys"
	"github.com/lull-backup/lull/transport/repo/internal/wire"
)

// maxSmall bounds a small document in bytes, as stored.
const maxSmall = 16 << 20

// author is who signed a document.
type author struct {
	*keys.Certificate
}

// sealDocument makes the object of a small document that every role may read, and that
// this key signs. name is the object's, or its folder ("marks/") when the object is
// named by its hash.
func (r *Repository) sealDocument(k wire.Kind, name string, plain []byte) ([]byte, error) {
	b, err := r.ring.SealDocument(k, name, plain)
	if err != nil {
		return nil, fmt.Errorf("seal %s: %w", name, err)
	}
	return b, nil
}

// readDocument reads a small document of an author with one of the roles: others may not
// sign such a thing, and what was signed after its key was removed is nobody's
// (ErrForged). folder is that of an object named by its hash, which is checked, else
// empty.
func (r *Repository) readDocument(ctx context.Context, k wire.Kind, info blob.Info, folder string, roles Roles) ([]byte, author, error) {
	read, name := readSized, info.Name
	if folder != "" {
		read, name = readNamed, folder
	}
	b, err := read(ctx, r.store, info, maxSmall)
	if err != nil {
		return nil, author{}, objectErr(info.Name, err)
	}
	plain, c, err := r.ring.OpenDocument(k, name, b)
	if err == nil {
		err = r.trust.allows(c, roles, info, b)
	}
	if err != nil {
		return nil, author{}, objectErr(info.Name, err)
	}
	return plain, author{c}, nil
}
