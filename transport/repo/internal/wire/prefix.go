package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Errors to test for with errors.Is.
var (
	ErrDamaged = errors.New("not as written")
	ErrNewer   = errors.New("written by a newer version")
	ErrForged  = errors.New("not signed by a key of the repository")
)

// Version is the newest format, the one that is written. Oldest and all between are
// read.
const (
	Version Format = 2
	Oldest  Format = 1
)

// Format is the version of a repository's format. All objects of a repository have
// the same.
type Format byte

// Signed tells whether objects of the format carry signatures.
func (f Format) Signed() bool { return f >= 2 }

// Kind is what an object is.
type Kind byte

const (
	DataPack Kind = 'D' // a pack of disk data
	NodePack Kind = 'M' // a pack of map nodes
	Index    Kind = 'I'
	Point    Kind = 'P'

	// Small documents that every role reads, since format 2.
	Epoch      Kind = 'E' // public keys after a rotation
	Fence      Kind = 'F' // a restore point that was never to be
	Hold       Kind = 'H'
	Lease      Kind = 'L'
	Mark       Kind = 'K'
	Quarantine Kind = 'Q' // of what a check found damaged
	Revocation Kind = 'R' // of a key
	Session    Kind = 'S'
	Tombstone  Kind = 'T' // of restore points that were forgotten
)

// known tells whether a format has objects of the kind.
func (k Kind) known(f Format) bool {
	switch k {
	case DataPack, NodePack, Index, Point:
		return true
	case Epoch, Fence, Hold, Lease, Mark, Quarantine, Revocation, Session, Tombstone:
		return f >= 2
	}
	return false
}

// PrefixSize is the length of what every binary object starts with, in bytes.
const PrefixSize = 8

const magic = "lull"

// Prefix is what an object of a kind starts with.
func Prefix(f Format, k Kind) [PrefixSize]byte {
	return [PrefixSize]byte{magic[0], magic[1], magic[2], magic[3], byte(k), byte(f)}
}

// ParsePrefix tells the kind of the object that starts with b, in a repository of
// format f.
func ParsePrefix(f Format, b []byte) (Kind, error) {
	if len(b) < PrefixSize || string(b[:4]) != magic {
		return 0, fmt.Errorf("%w: no object of lull", ErrDamaged)
	}
	if got := Format(b[5]); got > Version {
		return 0, fmt.Errorf("%w: format version %d", ErrNewer, got)
	} else if got != f {
		return 0, fmt.Errorf("%w: format version %d in a repository of %d", ErrDamaged, got, f)
	}
	k := Kind(b[4])
	if !k.known(f) {
		return 0, fmt.Errorf("%w: object kind %#x", ErrDamaged, byte(k))
	}
	if flags := binary.LittleEndian.Uint16(b[6:]); flags != 0 {
		return 0, fmt.Errorf("%w: feature flags %#x", ErrNewer, flags)
	}
	return k, nil
}

// WantPrefix fails unless b starts an object of kind k.
func WantPrefix(f Format, b []byte, k Kind) error {
	got, err := ParsePrefix(f, b)
	if err == nil && got != k {
		return fmt.Errorf("%w: object kind %q, want %q", ErrDamaged, rune(got), rune(k))
	}
	return err
}
