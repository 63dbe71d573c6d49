package keys

import (
	"bytes"
	"crypto/ed25519"
	"crypto/hpke"
	"crypto/rand"
	"fmt"
	"sync"

	"github.com/zeebo/blake3"

	"github.com/lull-backup/lull/transport/block"
	"github.com/lull-backup/lull/transport/repo/internal/wire"
)

// Master is the secret of a repository from which all others derive.
type Master [32]byte

// Repository is the random identity of a repository.
type Repository [16]byte

// Suite of HPKE, RFC 9180: X25519 with ML-KEM-768 ("X-Wing").
const (
	KEM  uint16 = 0x647a
	KDF  uint16 = 1 // HKDF-SHA256
	AEAD uint16 = 2 // AES-256-GCM
)

// PublicKeySize is the length of the suite's public key in bytes.
const PublicKeySize = 1216

// Ring holds the keys of an open repository: those that its role has. Safe for
// concurrent use.
type Ring struct {
	Data   block.Namer // names of data blocks
	Nodes  block.Namer // names of map nodes
	Cutter block.Cutter

	format     wire.Format
	repository Repository
	roles      Roles
	index      []byte
	vms        []byte
	writers    []byte
	rotating   sync.RWMutex
	epochs     []epoch        // number 1 first
	granted    []epochSecrets // by the key file; later ones by the epochs' documents
	root       ed25519.PublicKey

	shared      seed               // what all roles derive from; the owner needs none
	master      Master             // the owner's
	signer      ed25519.PrivateKey // nil: none
	box         hpke.PrivateKey    // nil: none
	certificate *Certificate       // of signer
	verified    sync.Map           // certificates by their bytes, as they stand in objects
}

// NewMaster draws a master secret.
func NewMaster() (m Master) {
	rand.Read(m[:]) // never fails: crypto/rand
	return m
}

// Ring1 derives the keys of a repository of format 1. There is one role then.
func (m Master) Ring1(id Repository) (*Ring, error) {
	r := &Ring{format: 1, repository: id, roles: Owner, master: m}
	d := deriver{format: 1, secret: m[:], salt: id}
	both, err := keyPair(d.seed("read"))
	if err != nil {
		return nil, fmt.Errorf("derive keys: %w", err)
	}
	p := pair{public: both.PublicKey(), private: both}
	r.epochs = []epoch{{data: p, meta: p}}
	return r, r.derive(&d)
}

// Ring makes the keys of a repository of format 2 of the secrets of a key and its
// certificate; without one (nil) nothing can be signed.
func (s *Secrets) Ring(id Repository, public Public, certificate []byte) (*Ring, error) {
	r := &Ring{format: 2, repository: id, roles: s.Roles, root: public.Root, master: s.master, shared: s.shared}
	if s.root != nil && !bytes.Equal(s.root, public.Root) {
		return nil, errRoot()
	}
	shared := s.shared
	first := epochSecrets{}
	if len(s.epochs) > 0 {
		first = s.epochs[0]
	}
	if s.Roles.Has(Owner) {
		m := s.master.from2(id)
		shared = m.seed("shared")
		first = m.epochs(Owner, 1)[0]
		if m.err != nil || !bytes.Equal(m.root().Public().(ed25519.PublicKey), public.Root) {
			return nil, errRoot()
		}
	}
	if err := r.derive(&deriver{format: 2, secret: shared[:], salt: id}); err != nil {
		return nil, err
	}
	r.granted = s.epochs
	if err := r.addEpoch(public.Data, public.Meta, first); err != nil {
		return nil, err
	}
	if certificate == nil {
		return r, nil
	}
	return r, r.certify(s, certificate)
}

// errRoot is what is wrong with a config whose certificates are signed by another root.
func errRoot() error { return fmt.Errorf("%w: the root key is another one", wire.ErrForged) }

// derive makes the secrets that every role has.
func (r *Ring) derive(d *deriver) error {
	r.index = d.key("index", 32)
	r.vms = d.key("vm names", 32)
	r.writers = d.key("writers", 32)
	r.Cutter = block.NewCutter([block.CutKeySize]byte(d.key("cut", block.CutKeySize)))
	r.Data = d.namer("data names")
	r.Nodes = d.namer("node names")
	if d.err != nil {
		return fmt.Errorf("derive keys: %w", d.err)
	}
	return nil
}

// certify takes in what the key signs with.
func (r *Ring) certify(s *Secrets, certificate []byte) error {
	c, err := r.ParseCertificate(certificate)
	if err != nil {
		return err
	}
	signer, box, err := s.hostKeys(r.repository)
	if err != nil {
		return err
	}
	if c.Signer != Signer(signer.Public().(ed25519.PublicKey)) || c.Roles != s.Roles {
		return fmt.Errorf("%w: the certificate is another key's", wire.ErrForged)
	}
	r.certificate, r.signer, r.box = c, signer, box
	return nil
}

// Format is the version of the repository's format.
func (r *Ring) Format() wire.Format { return r.format }

// Certificate is that of this key; nil when it signs nothing.
func (r *Ring) Certificate() *Certificate { return r.certificate }

// Roles is what this key may do.
func (r *Ring) Roles() Roles { return r.roles }

// CanRead tells whether this key opens disk data.
func (r *Ring) CanRead() bool { return r.roles.Has(Restore) }

// CanReadMaps tells whether this key opens map nodes and what maintenance needs of
// restore points.
func (r *Ring) CanReadMaps() bool { return r.roles.Has(Restore | Maintain) }

// CanBackup tells whether what this key writes is believed.
func (r *Ring) CanBackup() bool { return r.signer != nil && r.roles.Has(Backup) }

// CanMaintain tells whether this key may forget and prune.
func (r *Ring) CanMaintain() bool { return r.signer != nil && r.roles.Has(Maintain) }

// CanOwn tells whether this key may make and remove keys.
func (r *Ring) CanOwn() bool { return r.format.Signed() && r.roles.Has(Owner) }

// Prefix is what an object of a kind starts with in this repository.
func (r *Ring) Prefix(k wire.Kind) [wire.PrefixSize]byte { return wire.Prefix(r.format, k) }

// WantPrefix fails unless b starts an object of kind k of this repository's format.
func (r *Ring) WantPrefix(b []byte, k wire.Kind) error { return wire.WantPrefix(r.format, b, k) }

// ParsePrefix tells the kind of the object that starts with b.
func (r *Ring) ParsePrefix(b []byte) (wire.Kind, error) { return wire.ParsePrefix(r.format, b) }

// VM is the name under which the store knows a VM.
func (r *Ring) VM(name string) (id [16]byte) {
	h, err := blake3.NewKeyed(r.vms)
	if err != nil {
		return id // not reached: the key has 32 bytes
	}
	h.WriteString(name)
	copy(id[:], h.Sum(nil))
	return id
}

// PublicKey1 is the one public key of format 1.
func (r *Ring) PublicKey1() []byte { return r.epochs[0].data.public.Bytes() }
