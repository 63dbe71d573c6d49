package block

import (
	"encoding/hex"
	"errors"
)

var errBadName = errors.New("block name: want 64 hex digits")

// Name of a block: its keyed BLAKE3 hash. Equal names mean equal content within
// one repository, and say nothing to who has not the key.
type Name [32]byte

func (n Name) String() string { return hex.EncodeToString(n[:]) }

// IsZero reports whether n names no block.
func (n Name) IsZero() bool { return n == Name{} }

// MarshalText and UnmarshalText write a name in hex.
func (n Name) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, n[:]), nil }

func (n *Name) UnmarshalText(b []byte) error {
	if len(b) != 2*len(n) {
		return errBadName
	}
	if _, err := hex.Decode(n[:], b); err != nil {
		return errBadName
	}
	return nil
}
