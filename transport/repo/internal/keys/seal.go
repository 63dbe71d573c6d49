package keys

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hpke"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/lull-backup/lull/transport/repo/internal/wire"
)

// ErrRole: this key has not the private half that opens what was to be read.
var ErrRole = errors.New("this key may not read that")

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
	p := r.Prefix(k)
	return append(p[:], r.repository[:]...)
}

// label is purpose, of this repository's format.
func (r *Ring) label(purpose string) string { return fmt.Sprintf("lull v%d %s", r.format, purpose) }

// indexAEAD is the cipher of one index object, directory or document, used once.
func (r *Ring) indexAEAD(salt []byte) (cipher.AEAD, error) {
	key, err := hkdf.Key(sha256.New, r.index, salt, r.label("sealed index"), 32)
	if err != nil {
		return nil, err
	}
	return newGCM(key)
}

// SealIndex appends plain to dst, sealed for every role: an index object, a document, or
// the directory of a pack, by the kind of the object that it is part of.
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

// sealTo seals plain to a public key and appends it to dst.
func (r *Ring) sealTo(dst []byte, to hpke.PublicKey, purpose string, aad, plain []byte) ([]byte, error) {
	enc, sender, err := hpke.NewSender(to, hpke.HKDFSHA256(), hpke.AES256GCM(), r.info(purpose))
	if err != nil {
		return nil, fmt.Errorf("seal %s: %w", purpose, err)
	}
	sealed, err := sender.Seal(aad, plain)
	if err != nil {
		return nil, fmt.Errorf("seal %s: %w", purpose, err)
	}
	return append(append(dst, enc...), sealed...), nil
}

// openFrom opens what sealTo sealed; ErrRole without a private key.
func (r *Ring) openFrom(private hpke.PrivateKey, purpose string, aad, sealed []byte) ([]byte, error) {
	if private == nil {
		return nil, fmt.Errorf("open %s: %w", purpose, ErrRole)
	}
	if len(sealed) < encSize+tagSize {
		return nil, fmt.Errorf("%w: %d sealed bytes", wire.ErrDamaged, len(sealed))
	}
	recipient, err := hpke.NewRecipient(sealed[:encSize], private, hpke.HKDFSHA256(), hpke.AES256GCM(), r.info(purpose))
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
	info := append([]byte(r.label(purpose)+" "), r.repository[:]...)
	return append(info, r.writers...)
}

// epochNumber is the number of an epoch as it stands in objects.
func epochNumber(n uint16) []byte { return binary.LittleEndian.AppendUint16(nil, n) }
