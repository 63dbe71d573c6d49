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
	Lull        string      `json:"lull"` // "key"
	Version     wire.Format `json:"version"`
	Config      string      `json:"config"`                // BLAKE3 of the config object, hex
	Certificate []byte      `json:"certificate,omitempty"` // since format 2
	Box         []byte      `json:"box,omitempty"`         // public key, since format 2
	KDF         string      `json:"kdf"`                   // "argon2id"
	Cost
	Salt   []byte `json:"salt"`
	Sealed []byte `json:"sealed"`
}

// roleAll is the first byte of a sealed bundle of format 1, with the master secret.
const roleAll = 1

// Lock makes the key file of secrets. It is bound to the config object: whoever changes
// that locks everyone out instead of fooling them.
func Lock(s *Secrets, id Repository, c *Certificate, config, passphrase []byte, cost Cost) ([]byte, error) {
	if err := cost.check(); err != nil {
		return nil, err
	}
	_, box, err := s.hostKeys(id)
	if err != nil {
		return nil, err
	}
	f := file{Lull: "key", Version: wire.Version, Config: digest(config), KDF: "argon2id", Cost: cost, Salt: make([]byte, saltSize)}
	f.Certificate, f.Box = c.Bytes(), box.PublicKey().Bytes()
	rand.Read(f.Salt)
	aead, err := newGCM(stretch(passphrase, f.Salt, cost))
	if err != nil {
		return nil, fmt.Errorf("lock key: %w", err)
	}
	f.Sealed = aead.Seal(nil, make([]byte, aead.NonceSize()), s.bundle(), f.bound())
	b, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("lock key: %w", err)
	}
	return append(b, '\n'), nil
}

// Unlock opens a key file, and returns its secrets with the certificate, which Ring
// verifies. ErrPassphrase; wire.ErrDamaged and wire.ErrNewer.
func Unlock(b, config, passphrase []byte) (s *Secrets, certificate []byte, err error) {
	f, err := parseFile(b)
	if err != nil {
		return nil, nil, err
	}
	if f.Config != digest(config) {
		return nil, nil, fmt.Errorf("%w: config and key file do not belong together", wire.ErrDamaged)
	}
	aead, err := newGCM(stretch(passphrase, f.Salt, f.Cost))
	if err != nil {
		return nil, nil, fmt.Errorf("unlock key: %w", err)
	}
	bundle, err := aead.Open(nil, make([]byte, aead.NonceSize()), f.Sealed, f.bound())
	if err != nil {
		return nil, nil, ErrPassphrase
	}
	if f.Version.Signed() {
		s, err = parseBundle(bundle)
		return s, f.Certificate, err
	}
	if len(bundle) != 1+len(Master{}) || bundle[0] != roleAll {
		return nil, nil, fmt.Errorf("%w: key of an unknown role", wire.ErrNewer)
	}
	return &Secrets{Roles: Owner, master: Master(bundle[1:])}, nil, nil
}

// Master1 is the master secret of a key file of format 1.
func (s *Secrets) Master1() Master { return s.master }

// ParseFile reads what a key file says in the open: whose it is, with its box. Believed
// is only what the certificate says.
func (r *Ring) ParseFile(b []byte) (Recipient, error) {
	f, err := parseFile(b)
	if err != nil {
		return Recipient{}, err
	}
	c, err := r.ParseCertificate(f.Certificate)
	if err == nil && blake3.Sum256(f.Box) != c.Box {
		err = fmt.Errorf("%w: box of %.40q", wire.ErrForged, c.Label)
	}
	return Recipient{Certificate: c, Box: f.Box}, err
}

// Belongs tells whether a key file was made for a config object. One that was not is what
// an init leaves that did not get as far as its config.
func Belongs(b, config []byte) bool {
	f, err := parseFile(b)
	return err != nil || f.Config == digest(config)
}

// FileLabel is the label that a key file claims, to find the right one among many.
func FileLabel(b []byte) string {
	f, err := parseFile(b)
	if err != nil {
		return ""
	}
	return labelOf(f.Certificate)
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
func (f *file) bound() []byte { return fmt.Appendf(nil, "lull v%d key %s", f.Version, f.Config) }

func stretch(passphrase, salt []byte, c Cost) []byte {
	return argon2.IDKey(passphrase, salt, c.Time, c.Memory, c.Threads, 32)
}

func digest(b []byte) string {
	sum := blake3.Sum256(b)
	return fmt.Sprintf("%x", sum)
}
