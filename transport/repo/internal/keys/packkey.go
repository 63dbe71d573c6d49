package keys

import (
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"fmt"

	"github.com/lull-backup/lull/transport/repo/internal/wire"
)

const packKeySize = 32

// PackHeaderSize is the length of what a pack starts with: the prefix and the
// pack's key, sealed to the repository's public key.
const PackHeaderSize = wire.PrefixSize + encSize + packKeySize + tagSize

// PackOverhead is how much Seal adds to a segment, in bytes.
const PackOverhead = tagSize

// PackKey seals and opens the segments of one pack. Safe for concurrent use.
type PackKey struct {
	aead  cipher.AEAD
	bound []byte
}

// NewPackKey draws the key of a new pack and appends the pack's header to dst.
func (r *Ring) NewPackKey(dst []byte, k wire.Kind) ([]byte, *PackKey, error) {
	var key [packKeySize]byte
	rand.Read(key[:])
	p := wire.Prefix(k)
	header, err := r.sealPublic(append(dst, p[:]...), "pack", p[:], key[:])
	if err != nil {
		return nil, nil, err
	}
	pk, err := r.packKey(k, key[:])
	return header, pk, err
}

// OpenPackKey opens the header of a pack.
func (r *Ring) OpenPackKey(header []byte) (*PackKey, wire.Kind, error) {
	k, err := wire.ParsePrefix(header)
	if err != nil {
		return nil, 0, err
	}
	if k != wire.DataPack && k != wire.NodePack {
		return nil, 0, fmt.Errorf("%w: object kind %q is no pack", wire.ErrDamaged, rune(k))
	}
	if len(header) != PackHeaderSize {
		return nil, 0, fmt.Errorf("%w: header of %d bytes", wire.ErrDamaged, len(header))
	}
	p := wire.Prefix(k)
	key, err := r.openPublic("pack", p[:], header[wire.PrefixSize:])
	if err != nil {
		return nil, 0, err
	}
	pk, err := r.packKey(k, key)
	return pk, k, err
}

func (r *Ring) packKey(k wire.Kind, key []byte) (*PackKey, error) {
	aead, err := newGCM(key)
	if err != nil {
		return nil, fmt.Errorf("%w: pack key: %w", wire.ErrDamaged, err)
	}
	return &PackKey{aead: aead, bound: r.bound(k)}, nil
}

// Seal appends a segment that starts at offset of the pack to dst.
func (k *PackKey) Seal(dst []byte, offset uint32, plain []byte) []byte {
	return k.aead.Seal(dst, nonce(offset), plain, k.bound)
}

// Open appends what Seal sealed to dst. dst[:0] of sealed itself opens in place.
func (k *PackKey) Open(dst []byte, offset uint32, sealed []byte) ([]byte, error) {
	plain, err := k.aead.Open(dst, nonce(offset), sealed, k.bound)
	if err != nil {
		return nil, fmt.Errorf("%w: segment at %d: authentication failed", wire.ErrDamaged, offset)
	}
	return plain, nil
}

// nonce is the offset, big-endian: no two segments of a pack share one.
func nonce(offset uint32) []byte {
	n := make([]byte, 12)
	binary.BigEndian.PutUint32(n[8:], offset)
	return n
}
