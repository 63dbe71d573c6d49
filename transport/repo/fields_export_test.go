package repo

import (
	"reflect"
	"strings"

	"github.com/lull-backup/lull/transport/repo/internal/keys"
	"github.com/lull-backup/lull/transport/repo/internal/wire"
)

// OpenJSON opens all JSON that an object holds, by what it is: with an owner's keys everything
// but blocks. Whether its signer may sign such a thing is not looked at.
func OpenJSON(r *Repository, object string, b []byte) (map[string][]byte, error) {
	folder, _, _ := strings.Cut(object, "/")
	if folder == "config" || folder == "keys" {
		return map[string][]byte{folder: b}, nil
	}
	_, c, err := keys.CutCertificate(b[:len(b)-keys.SignatureSize])
	if err != nil {
		return nil, err
	}
	docs := map[string][]byte{"certificate": c[:len(c)-keys.SignatureSize-2]}
	name := object
	switch kind := wire.Kind(b[4]); kind {
	case wire.DataPack, wire.NodePack, wire.Index:
		return docs, nil
	case wire.Point:
		return docs, openPointJSON(r, object, b, docs)
	case wire.Fence:
		folder = "fences"
	case wire.Mark:
		_, part, _ := cutMark(object)
		folder += part
	case wire.Tombstone, wire.Revocation, wire.Quarantine:
		name = folder + "/"
	}
	docs[folder], _, err = r.ring.OpenDocument(wire.Kind(b[4]), name, b)
	return docs, err
}

// JSONTypes are what that JSON is written from and read into, but for package keys'.
func JSONTypes() map[string]reflect.Type {
	return map[string]reflect.Type{
		"config": reflect.TypeFor[config](), "points": reflect.TypeFor[Point](), "outlines": reflect.TypeFor[outline](),
		"marks": reflect.TypeFor[markDoc](), "marks.sessions": reflect.TypeFor[sessionsDoc](), "marks.done": reflect.TypeFor[decision](),
		"sessions": reflect.TypeFor[sessionDoc](), "fences": reflect.TypeFor[fenceDoc](), "leases": reflect.TypeFor[leaseDoc](),
		"holds": reflect.TypeFor[Held](), "quarantine": reflect.TypeFor[quarantine](), "forgotten": reflect.TypeFor[tombstone](),
		"revoked": reflect.TypeFor[revocation](),
	}
}

func openPointJSON(r *Repository, object string, b []byte, docs map[string][]byte) error {
	p, err := r.ring.ParsePoint(object, b)
	if err != nil {
		return err
	}
	for kind, open := range map[string]func(*keys.SealedPoint) ([]byte, error){"points": r.ring.OpenPoint, "outlines": r.ring.OpenOutline} {
		packed, err := open(p)
		if err != nil {
			return err
		}
		if docs[kind], err = decompress(packed); err != nil {
			return err
		}
	}
	return nil
}
