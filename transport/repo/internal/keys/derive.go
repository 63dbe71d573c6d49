package keys

import (
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/hpke"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"

	"github.com/lull-backup/lull/transport/block"
	"github.com/lull-backup/lull/transport/repo/internal/wire"
)

// seed is a secret of which a key pair is made.
type seed = [seedSize]byte

const seedSize = 32

// deriver makes keys of one secret until the first error.
type deriver struct {
	format wire.Format
	secret []byte
	salt   Repository
	err    error
}

func (d *deriver) key(purpose string, length int) []byte {
	k, err := hkdf.Key(sha256.New, d.secret, d.salt[:], fmt.Sprintf("lull v%d %s", d.format, purpose), length)
	d.err = errors.Join(d.err, err)
	if err != nil {
		return make([]byte, length)
	}
	return k
}

func (d *deriver) seed(purpose string) seed { return seed(d.key(purpose, seedSize)) }

func (d *deriver) namer(purpose string) block.Namer {
	n, err := block.NewNamer(d.key(purpose, block.KeySize))
	d.err = errors.Join(d.err, err)
	return n
}

// epoch is the seed of one of the two key pairs of an epoch.
func (d *deriver) epoch(which string, n int) seed { return d.seed(which + " " + strconv.Itoa(n)) }

func keyPair(s seed) (hpke.PrivateKey, error) { return hpke.MLKEM768X25519().DeriveKeyPair(s[:]) }

func publicKey(b []byte) (hpke.PublicKey, error) {
	if len(b) != PublicKeySize {
		return nil, fmt.Errorf("%w: public key of %d bytes", wire.ErrDamaged, len(b))
	}
	k, err := hpke.MLKEM768X25519().NewPublicKey(b)
	if err != nil {
		return nil, fmt.Errorf("%w: public key: %w", wire.ErrDamaged, err)
	}
	return k, nil
}

// from2 derives what only the owner has, of the master secret, in format 2.
func (m Master) from2(id Repository) *deriver {
	return &deriver{format: 2, secret: m[:], salt: id}
}

func (d *deriver) root() ed25519.PrivateKey {
	s := d.seed("root")
	return ed25519.NewKeyFromSeed(s[:])
}

func appendBase64(b []byte) []byte { return base64.StdEncoding.AppendEncode(nil, b) }

// decodeBase64 fills dst, all of it.
func decodeBase64(dst, text []byte) error {
	b, err := base64.StdEncoding.AppendDecode(nil, text)
	if err != nil || len(b) != len(dst) {
		return fmt.Errorf("%w: %d bytes of base64, want %d", wire.ErrDamaged, len(b), len(dst))
	}
	copy(dst, b)
	return nil
}
