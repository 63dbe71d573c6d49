package keys

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/zeebo/blake3"
	"golang.org/x/crypto/argon2"

	"github.com/lull-backup/lull/transport/repo/internal/wire"
)

// ErrPassphrase: the passphrase opens no key file.
var ErrPassphrase = errors.New("wrong passphrase")

// MaxFile bounds a key file in bytes.
const MaxFile = 64 << 10

// Cost of argon2id, RFC 9106.
type Cost struct {
	Time    uint32 `json:"time"`       // passes
	Memory  uint32 `json:"memory_kib"` // KiB
	Threads uint8  `json:"threads"`
}

// DefaultCost is the second recommended choice of RFC 9106, for machines where
// 2 GiB are too much.
func DefaultCost() Cost { return Cost{Time: 3, Memory: 64 << 10, Threads: 4} }

// Limits of what a key file may ask of who opens it: a store must not be able to
// make a host run out of memory or time.
const (
	maxMemory  = 1 << 20 // KiB
	maxTime    = 64
	maxThreads = 64
	maxWork    = 8 << 20 // KiB × passes
)

func (c Cost) check() error {
	if c.Time < 1 || c.Time > maxTime || c.Threads < 1 || c.Threads > maxThreads ||
		c.Memory < 8*uint32(c.Threads) || c.Memory > maxMemory || uint64(c.Memory)*uint64(c.Time) > maxWork {
		return fmt.Errorf("%w: argon2id of %d passes, %d KiB, %d threads", wire.ErrDamaged, c.Time, c.Memory, c.Threads)
	}
	return nil
}

// file is a key file as it is stored.
type file struct {
	Lull    string `json:"lull"` // "key"
	Version int    `json:"version"`
	Config  string `json:"config"` // BLAKE3 of the config object, hex
	KDF     string `json:"kdf"`    // "argon2id"
	Cost
	Salt   []byte `json:"salt"`
	Sealed []byte `json:"sealed"`
}

// roleAll is the first byte of a sealed bundle that holds the master secret.
// Other roles have numbers and bundles of their own.
const roleAll = 1

// Lock makes the key file of a master secret. It is bound to the config object:
// whoever changes that locks everyone out instead of fooling them.
func Lock(m Master, config, passphrase []byte, c Cost) ([]byte, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	f := file{Lull: "key", Version: wire.Version, Config: digest(config), KDF: "argon2id", Cost: c, Salt: make([]byte, saltSize)}
	rand.Read(f.Salt)
	aead, err := newGCM(stretch(passphrase, f.Salt, c))
	if err != nil {
		return nil, fmt.Errorf("lock key: %w", err)
	}
	f.Sealed = aead.Seal(nil, make([]byte, aead.NonceSize()), append([]byte{roleAll}, m[:]...), f.bound())
	b, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("lock key: %w", err)
	}
	return append(b, '\n'), nil
}

// Unlock opens a key file. ErrPassphrase; wire.ErrDamaged and wire.ErrNewer.
func Unlock(b, config, passphrase []byte) (m Master, err error) {
	f, err := parseFile(b)
	if err != nil {
		return m, err
	}
	if f.Config != digest(config) {
		return m, fmt.Errorf("%w: config and key file do not belong together", wire.ErrDamaged)
	}
	aead, err := newGCM(stretch(passphrase, f.Salt, f.Cost))
	if err != nil {
		return m, fmt.Errorf("unlock key: %w", err)
	}
	bundle, err := aead.Open(nil, make([]byte, aead.NonceSize()), f.Sealed, f.bound())
	if err != nil {
		return m, ErrPassphrase
	}
	if len(bundle) != 1+len(m) || bundle[0] != roleAll {
		return m, fmt.Errorf("%w: key of an unknown role", wire.ErrNewer)
	}
	copy(m[:], bundle[1:])
	return m, nil
}

func parseFile(b []byte) (f file, err error) {
	if len(b) > MaxFile {
		return f, fmt.Errorf("%w: key file of %d bytes", wire.ErrDamaged, len(b))
	}
	d := json.NewDecoder(bytes.NewReader(b))
	if err := d.Decode(&f); err != nil || f.Lull != "key" || f.Version < 1 {
		return f, fmt.Errorf("%w: no key file", wire.ErrDamaged)
	}
	if f.Version > wire.Version || f.KDF != "argon2id" {
		return f, fmt.Errorf("%w: key file version %d, %.20q", wire.ErrNewer, f.Version, f.KDF)
	}
	if len(f.Salt) != saltSize {
		return f, fmt.Errorf("%w: salt of %d bytes", wire.ErrDamaged, len(f.Salt))
	}
	return f, f.check()
}

// bound is the associated data of the sealed bundle. Cost and salt need no place
// in it: they make the key.
func (f *file) bound() []byte { return []byte("lull v1 key " + f.Config) }

func stretch(passphrase, salt []byte, c Cost) []byte {
	return argon2.IDKey(passphrase, salt, c.Time, c.Memory, c.Threads, 32)
}

func digest(b []byte) string {
	sum := blake3.Sum256(b)
	return fmt.Sprintf("%x", sum)
}
