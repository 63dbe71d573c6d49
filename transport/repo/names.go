package repo

import (
	"encoding/hex"
	"fmt"
	"path"
	"strconv"
	"strings"

	"github.com/lull-backup/lull/transport/blob"
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

	quarantinePrefix = "quarantine/" // BLAKE3 of the object

	sessionPrefix = "sessions/" // session id [. renewal | .end]
	markPrefix    = "marks/"    // number [.sessions | .done]
	leasePrefix   = "leases/"   // what / number [. renewal | .end]
	holdPrefix    = "holds/"    // session id of the point
)

func keyObject(sum [32]byte) string { return keyPrefix + hex.EncodeToString(sum[:]) }

func packObject(sum [32]byte) string {
	s := hex.EncodeToString(sum[:])
	return packPrefix + s[:2] + "/" + s
}

func epochObject(n int) string { return fmt.Sprintf("%s%05d", epochPrefix, n) }

func vmPrefix(vm [16]byte) string { return pointPrefix + hex.EncodeToString(vm[:]) + "/" }

// pointObject is where the point of an id lies. The store's names have no upper
// case.
func pointObject(vm [16]byte, id string) string { return vmPrefix(vm) + strings.ToLower(id) }

// pointID is the id of the point that an object holds.
func pointID(object string) (id string, ok bool) {
	s, ok := sidOf(object)
	if !ok {
		return "", false
	}
	name := string(s[33:])
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

// sid names a session: by the one restore point that it may make.
type sid string

func sessionID(vm [16]byte, id string) sid {
	return sid(hex.EncodeToString(vm[:]) + "." + strings.ToLower(id))
}

const sidLen = len(sidForm)

// cutSID reads the session id that a name under prefix begins with, and what follows.
func cutSID(object, prefix string) (s sid, rest string, ok bool) {
	name, ok := strings.CutPrefix(object, prefix)
	if !ok || len(name) < sidLen {
		return "", "", false
	}
	for i := range sidLen {
		if !fits(sidForm[i], name[i]) {
			return "", "", false
		}
	}
	return sid(name[:sidLen]), name[sidLen:], true
}

// sidForm is how a session's id looks: x stands for a hex digit, 0 for a decimal one. Whoever
// may announce sessions could else name one whose point no store can hold.
const sidForm = "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx.00000000t000000z-xxxxxxxx"

func fits(form, c byte) bool {
	digit := '0' <= c && c <= '9'
	switch form {
	case '0':
		return digit
	case 'x':
		return digit || 'a' <= c && c <= 'f'
	}
	return c == form
}

// sidOf is the session that makes the point of an object.
func sidOf(object string) (sid, bool) {
	name, ok := strings.CutPrefix(object, pointPrefix)
	if !ok || len(name) != sidLen || name[32] != '/' {
		return "", false
	}
	s, _, ok := cutSID(name[:32]+"."+name[33:], "")
	return s, ok
}

// isPoint tells whether a point may lie under a name. What else is under points/ is nobody's.
func isPoint(i blob.Info) bool {
	_, ok := sidOf(i.Name)
	return ok
}

func (s sid) vm() string { return string(s[:32]) }

// point is the object of the restore point that the session may make.
func (s sid) point() string { return pointPrefix + s.vm() + "/" + string(s[33:]) }

func (s sid) object(renewal int) string {
	if renewal == 0 {
		return sessionPrefix + string(s)
	}
	return sessionPrefix + string(s) + "." + strconv.Itoa(renewal)
}

// end is the object that says that the session is over.
func (s sid) end() string { return sessionPrefix + string(s) + ".end" }

// index is the name of the session's kth index object.
func (s sid) index(k int) string { return indexPrefix + string(s) + "." + strconv.Itoa(k) }

// indexNumber is the number of a session's index object. No session comes to 2^31.
func indexNumber(object string) (k int, ok bool) {
	_, rest, ok := cutSID(object, indexPrefix)
	if !ok || !strings.HasPrefix(rest, ".") {
		return 0, false
	}
	k, err := strconv.Atoi(rest[1:])
	return k, err == nil && k >= 0 && k < 1<<31
}

// made tells whether lull may have made an object, by its name. Of the kinds that are many it
// looks closely; of the others at the length.
func made(object string) bool {
	switch {
	case len(object) > maxName:
		return false
	case strings.HasPrefix(object, packPrefix):
		sum, ok := sumOf(object)
		return ok && packObject(sum) == object
	case strings.HasPrefix(object, pointPrefix):
		_, ok := sidOf(object)
		return ok
	case strings.HasPrefix(object, indexPrefix):
		sum, ok := sumOf(object)
		_, numbered := indexNumber(object)
		return ok && object == indexPrefix+hex.EncodeToString(sum[:]) || numbered || strings.HasPrefix(object, indexPrefix+"m")
	}
	return true
}

// sourceOf is how the index cache calls an index object: by the hash that it is named
// by in format 1, else by the hash of its name. Neither names two contents.
func sourceOf(object string) index.Source {
	if sum, ok := sumOf(object); ok {
		return sum
	}
	return sum([]byte(object))
}
