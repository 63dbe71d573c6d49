package keys

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hpke"
	"crypto/rand"
	"crypto/sha256"
	"fmt"

	"github.com/lull-backup/lull/transport/repo/internal/wire"
)

const (
	saltSize = 32
	tagSize  = 16
	// encSize is the length of HPKE's encapsulated key.
	encSize = 1120

	// IndexOverhead is how much SealIndex adds to a plaintext, in bytes.
	IndexOverhead = saltSize + tagSize
)

// newGCM makes AES-256-GCM with 12-byte nonces.
func newGCM(key []byte) (cipher.AEAD, error) {
	c, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(c)
}

// bound is the associated data of everything sealed in an object of a kind.
func (r *Ring) bound(k wire.Kind) []byte {
	p := wire.Prefix(k)
	return append(p[:], r.repository[:]...)
}

// indexAEAD is the cipher of one index object or directory, used once.
func (r *Ring) indexAEAD(salt []byte) (cipher.AEAD, error) {
	key, err := hkdf.Key(sha256.New, r.index, salt, "lull v1 sealed index", 32)
	if err != nil {
		return nil, err
	}
	return newGCM(key)
}

// SealIndex appends plain to dst, sealed for every role: an index object, or the
// directory of a pack, by the kind of the object that it is part of.
func (r *Ring) SealIndex(dst []byte, k wire.Kind, plain []byte) ([]byte, error) {
	var salt [saltSize]byte
	rand.Read(salt[:])
	aead, err := r.indexAEAD(salt[:])
	if err != nil {
		return nil, fmt.Errorf("seal index: %w", err)
	}
	dst = append(dst, salt[:]...)
	return aead.Seal(dst, make([]byte, aead.NonceSize()), plain, r.bound(k)), nil
}

// OpenIndex opens what SealIndex sealed.
func (r *Ring) OpenIndex(k wire.Kind, sealed []byte) ([]byte, error) {
	if len(sealed) < IndexOverhead {
		return nil, fmt.Errorf("%w: %d sealed bytes", wire.ErrDamaged, len(sealed))
	}
	aead, err := r.indexAEAD(sealed[:saltSize])
	if err != nil {
		return nil, fmt.Errorf("open index: %w", err)
	}
	plain, err := aead.Open(nil, make([]byte, aead.NonceSize()), sealed[saltSize:], r.bound(k))
	if err != nil {
		return nil, fmt.Errorf("%w: authentication failed", wire.ErrDamaged)
	}
	return plain, nil
}

// sealPublic seals plain to the public key and appends it to dst.
func (r *Ring) sealPublic(dst []byte, purpose string, aad, plain []byte) ([]byte, error) {
	enc, sender, err := hpke.NewSender(r.public, hpke.HKDFSHA256(), hpke.AES256GCM(), r.info(purpose))
	if err != nil {
		return nil, fmt.Errorf("seal %s: %w", purpose, err)
	}
	sealed, err := sender.Seal(aad, plain)
	if err != nil {
		return nil, fmt.Errorf("seal %s: %w", purpose, err)
	}
	return append(append(dst, enc...), sealed...), nil
}

// openPublic opens what sealPublic sealed.
func (r *Ring) openPublic(purpose string, aad, sealed []byte) ([]byte, error) {
	if len(sealed) < encSize+tagSize {
		return nil, fmt.Errorf("%w: %d sealed bytes", wire.ErrDamaged, len(sealed))
	}
	recipient, err := hpke.NewRecipient(sealed[:encSize], r.private, hpke.HKDFSHA256(), hpke.AES256GCM(), r.info(purpose))
	if err != nil {
		return nil, fmt.Errorf("%w: encapsulated key: %w", wire.ErrDamaged, err)
	}
	plain, err := recipient.Open(aad, sealed[encSize:])
	if err != nil {
		return nil, fmt.Errorf("%w: authentication failed", wire.ErrDamaged)
	}
	return plain, nil
}

// info enters the keys that HPKE derives. The public key is no secret of the
// repository: it is the writers' secret in here that keeps the store, or anyone
// else who knows the public key, from making packs and points of its own.
func (r *Ring) info(purpose string) []byte {
	info := append([]byte("lull v1 "+purpose+" "), r.repository[:]...)
	return append(info, r.writers...)
}

// SealPoint seals a restore point for who may read, under the name of its object.
func (r *Ring) SealPoint(object string, plain []byte) ([]byte, error) {
	p := wire.Prefix(wire.Point)
	return r.sealPublic(p[:], "point", append(p[:], object...), plain)
}

// OpenPoint opens the object of a restore point.
func (r *Ring) OpenPoint(object string, sealed []byte) ([]byte, error) {
	if err := wire.WantPrefix(sealed, wire.Point); err != nil {
		return nil, err
	}
	p := wire.Prefix(wire.Point)
	return r.openPublic("point", append(p[:], object...), sealed[wire.PrefixSize:])
}
