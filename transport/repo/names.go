package repo

import (
	"encoding/hex"
	"fmt"
	"path"
	"strings"

	"github.com/lull-backup/lull/transport/repo/internal/index"
)

// Names of objects. All but config are either random or the hash of the content.
const (
	configObject = "config"
	keyPrefix    = "keys/"   // BLAKE3 of the file
	packPrefix   = "packs/"  // first byte / BLAKE3 of the pack
	indexPrefix  = "index/"  // BLAKE3 of the object
	pointPrefix  = "points/" // VM id / point id

	epochPrefix     = "epochs/"    // number, five digits
	revokedPrefix   = "revoked/"   // BLAKE3 of the object
	forgottenPrefix = "forgotten/" // BLAKE3 of the object
)

func keyObject(sum [32]byte) string { return keyPrefix + hex.EncodeToString(sum[:]) }

func packObject(sum [32]byte) string {
	s := hex.EncodeToString(sum[:])
	return packPrefix + s[:2] + "/" + s
}

func indexObject(id index.Source) string { return indexPrefix + hex.EncodeToString(id[:]) }

func epochObject(n int) string { return fmt.Sprintf("%s%05d", epochPrefix, n) }

func vmPrefix(vm [16]byte) string { return pointPrefix + hex.EncodeToString(vm[:]) + "/" }

// pointObject is where the point of an id lies. The store's names have no upper
// case.
func pointObject(vm [16]byte, id string) string { return vmPrefix(vm) + strings.ToLower(id) }

// pointID is the id of the point that an object holds.
func pointID(object string) (id string, ok bool) {
	name := path.Base(object)
	if !strings.HasPrefix(object, pointPrefix) || len(name) != len(idTime)+1+8 {
		return "", false
	}
	return strings.ToUpper(name[:len(idTime)]) + name[len(idTime):], true
}

// sumOf reads the hash that an object is named by, the last part of its name.
func sumOf(object string) (sum [32]byte, ok bool) {
	s := path.Base(object)
	if len(s) != 2*len(sum) {
		return sum, false
	}
	_, err := hex.Decode(sum[:], []byte(s))
	return sum, err == nil
}
