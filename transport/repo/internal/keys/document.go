package keys

import (
	"fmt"

	"github.com/lull-backup/lull/transport/repo/internal/wire"
)

// SealDocument makes the object of a small document that every role may read: sealed
// as an index is, and signed by this key. name is the object's, or what all of its kind
// begin with when the object is named by its hash.
func (r *Ring) SealDocument(k wire.Kind, name string, plain []byte) ([]byte, error) {
	p := r.Prefix(k)
	b, err := r.SealIndex(p[:], k, plain)
	if err != nil {
		return nil, err
	}
	return r.appendTrailer(b, signDocument, name)
}

// OpenDocument opens what SealDocument made, and says who signed it. Whether that key
// may, and whether it was removed since, is for the caller to judge.
func (r *Ring) OpenDocument(k wire.Kind, name string, object []byte) ([]byte, *Certificate, error) {
	if err := r.WantPrefix(object, k); err != nil {
		return nil, nil, err
	}
	sealed, c, err := r.openTrailer(object, signDocument, name)
	if err != nil {
		return nil, nil, err
	}
	if len(sealed) < wire.PrefixSize {
		return nil, nil, fmt.Errorf("%w: document of %d bytes", wire.ErrDamaged, len(sealed))
	}
	plain, err := r.OpenIndex(k, sealed[wire.PrefixSize:])
	return plain, c, err
}
