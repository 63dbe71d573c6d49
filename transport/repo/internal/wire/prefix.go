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
)

// Version of the format that this package writes, and the newest that it reads.
const Version = 1

// Kind is what an object is.
type Kind byte

const (
	DataPack Kind = 'D' // a pack of disk data
	NodePack Kind = 'M' // a pack of map nodes
	Index    Kind = 'I'
	Point    Kind = 'P'
)

// PrefixSize is the length of what every binary object starts with, in bytes.
const PrefixSize = 8

const magic = "lull"

// Prefix is what an object of a kind starts with.
func Prefix(k Kind) [PrefixSize]byte {
	return [PrefixSize]byte{magic[0], magic[1], magic[2], magic[3], byte(k), Version}
}

// ParsePrefix tells the kind of the object that starts with b.
func ParsePrefix(b []byte) (Kind, error) {
	if len(b) < PrefixSize || string(b[:4]) != magic {
		return 0, fmt.Errorf("%w: no object of lull", ErrDamaged)
	}
	switch k := Kind(b[4]); k {
	case DataPack, NodePack, Index, Point:
	default:
		return 0, fmt.Errorf("%w: object kind %#x", ErrDamaged, byte(k))
	}
	if b[5] == 0 {
		return 0, fmt.Errorf("%w: format version 0", ErrDamaged)
	}
	if b[5] > Version {
		return 0, fmt.Errorf("%w: format version %d", ErrNewer, b[5])
	}
	if flags := binary.LittleEndian.Uint16(b[6:]); flags != 0 {
		return 0, fmt.Errorf("%w: feature flags %#x", ErrNewer, flags)
	}
	return Kind(b[4]), nil
}

// WantPrefix fails unless b starts an object of kind k.
func WantPrefix(b []byte, k Kind) error {
	got, err := ParsePrefix(b)
	if err == nil && got != k {
		return fmt.Errorf("%w: object kind %q, want %q", ErrDamaged, rune(got), rune(k))
	}
	return err
}
