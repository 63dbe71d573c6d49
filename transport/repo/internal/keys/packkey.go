package keys

import (
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"fmt"

	"github.com/lull-backup/lull/transport/repo/internal/wire"
)

const packKeySize = 32

// PackHeaderSize is the length of what a pack starts with: the prefix, the epoch since
// format 2, and the pack's key, sealed to a public key.
func (r *Ring) PackHeaderSize() int {
	n := wire.PrefixSize + encSize + packKeySize + tagSize
	if r.format.Signed() {
		n += epochSize
	}
	return n
}

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
	p := r.Prefix(k)
	n, e := r.newest()
	head := append(p[:], epochNumber(n)...)
	header, err := r.sealTo(append(dst, head...), e.pack(k).public, "pack", head, key[:])
	if err != nil {
		return nil, nil, err
	}
	pk, err := r.packKey(k, key[:])
	return header, pk, err
}

// pack is the key pair that the packs of a kind are sealed to.
func (e epoch) pack(k wire.Kind) pair {
	if k == wire.NodePack {
		return e.meta
	}
	return e.data
}

// OpenPackKey opens the header of a pack: ErrRole for who may not read packs of its kind.
func (r *Ring) OpenPackKey(header []byte) (*PackKey, wire.Kind, error) {
	k, err := r.ParsePrefix(header)
	if err != nil {
		return nil, 0, err
	}
	if k != wire.DataPack && k != wire.NodePack {
		return nil, 0, fmt.Errorf("%w: object kind %q is no pack", wire.ErrDamaged, rune(k))
	}
	if len(header) != r.PackHeaderSize() {
		return nil, 0, fmt.Errorf("%w: header of %d bytes", wire.ErrDamaged, len(header))
	}
	head, n := header[:wire.PrefixSize], uint16(1)
	if r.format.Signed() {
		head = header[:wire.PrefixSize+epochSize]
		n = binary.LittleEndian.Uint16(head[wire.PrefixSize:])
	}
	e, err := r.epochOf(n)
	if err != nil {
		return nil, 0, err
	}
	key, err := r.openFrom(e.pack(k).private, "pack", head, header[len(head):])
	if err != nil {
		return nil, 0, err
	}
	pk, err := r.packKey(k, key)
	return pk, k, err
}

// SignPack signs a pack under its name, for which content, the plain listing of what it
// holds, is believed. The signature stands in the pack and in index objects.
func (r *Ring) SignPack(name [32]byte, content []byte) ([]byte, error) {
	return r.sign(signPack, name[:], content)
}

// VerifyPack checks a signature of SignPack.
func (r *Ring) VerifyPack(c *Certificate, signature []byte, name [32]byte, content []byte) error {
	return r.verify(c, signPack, signature, name[:], content)
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
