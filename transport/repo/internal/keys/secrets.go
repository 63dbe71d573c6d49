package keys

import (
	"crypto/ed25519"
	"crypto/hpke"
	"crypto/rand"
	"fmt"
	"time"

	"github.com/zeebo/blake3"

	"github.com/lull-backup/lull/transport/repo/internal/wire"
)

// Secrets is what a key file holds under its passphrase.
type Secrets struct {
	Roles  Roles
	host   seed   // of this key alone: signs, and opens what is granted to it
	master Master // the owner's
	shared seed   // everyone's but the owner's, who derives it
	epochs []epochSecrets
	root   ed25519.PublicKey // on paper: what the repository's must be; nil: not known
}

// epochSecrets are the private halves of an epoch that a role has.
type epochSecrets struct{ data, meta seed }

// bundle is the secrets as bytes: roles, host, and the master secret or what every role
// has and the private halves of each epoch so far.
func (s *Secrets) bundle() []byte {
	b := append([]byte{byte(s.Roles)}, s.host[:]...)
	if s.Roles.Has(Owner) {
		return append(b, s.master[:]...)
	}
	b = append(b, s.shared[:]...)
	for _, e := range s.epochs {
		if s.Roles.Has(Restore) {
			b = append(b, e.data[:]...)
		}
		b = append(b, e.meta[:]...)
	}
	return b
}

// parseBundle reads a bundle of format 2.
func parseBundle(b []byte) (*Secrets, error) {
	r := wire.NewReader(b)
	s := &Secrets{Roles: Roles(r.Byte()), host: r.Name()}
	if s.Roles == 0 || s.Roles >= Owner<<1 {
		return nil, fmt.Errorf("%w: key of unknown roles %#x", wire.ErrNewer, byte(s.Roles))
	}
	if s.Roles.Has(Owner) {
		s.master = r.Name()
		return s, r.Done()
	}
	s.shared = r.Name()
	for r.Len() > 0 && r.Err() == nil && s.Roles.Has(Restore|Maintain) {
		var e epochSecrets
		if s.Roles.Has(Restore) {
			e.data = r.Name()
		}
		e.meta = r.Name()
		s.epochs = append(s.epochs, e)
	}
	return s, r.Done()
}

// Public is what a repository's config says of its keys.
type Public struct {
	Data []byte            // seals the keys of data packs, and restore points: of epoch 1
	Meta []byte            // seals the keys of node packs, and what maintenance reads of restore points
	Root ed25519.PublicKey // verifies certificates
}

// Public derives the public keys of a new repository.
func (m Master) Public(id Repository) (Public, error) {
	d := m.from2(id)
	data, err := keyPair(d.epoch("data", 1))
	if err != nil {
		return Public{}, fmt.Errorf("derive keys: %w", err)
	}
	meta, err := keyPair(d.epoch("meta", 1))
	if err != nil {
		return Public{}, fmt.Errorf("derive keys: %w", err)
	}
	p := Public{Data: data.PublicKey().Bytes(), Meta: meta.PublicKey().Bytes()}
	p.Root = d.root().Public().(ed25519.PublicKey) // always: of an ed25519.PrivateKey
	return p, d.err
}

// NewKey makes the secrets of a new key and the certificate for it, of which the
// label, roles, time and epoch are given.
func (m Master) NewKey(id Repository, of Certificate) (*Secrets, *Certificate, error) {
	d := m.from2(id)
	s := &Secrets{Roles: of.Roles}
	rand.Read(s.host[:])
	if of.Roles.Has(Owner) {
		s.master = m
	} else {
		s.shared = d.seed("shared")
		if of.Roles.Has(Restore | Maintain) {
			s.epochs = d.epochs(of.Roles, of.Epoch)
		}
	}
	signer, box, err := s.hostKeys(id)
	if err != nil {
		return nil, nil, err
	}
	of.Signer = Signer(signer.Public().(ed25519.PublicKey))
	of.Box = blake3.Sum256(box.PublicKey().Bytes())
	c, err := newCertificate(d.root(), id, of)
	if d.err != nil {
		err = d.err
	}
	return s, c, err
}

// NewKey makes a key of some roles. Only the owner can.
func (r *Ring) NewKey(label string, roles Roles, created time.Time) (*Secrets, *Certificate, error) {
	if !r.CanOwn() {
		return nil, nil, fmt.Errorf("make key: %w", ErrRole)
	}
	return r.master.NewKey(r.repository, Certificate{Label: label, Roles: roles, Created: created, Epoch: r.Epochs()})
}

// epochs are the private halves of all epochs so far that roles have.
func (d *deriver) epochs(roles Roles, n int) []epochSecrets {
	all := make([]epochSecrets, n)
	for i := range all {
		if roles.Has(Restore) {
			all[i].data = d.epoch("data", i+1)
		}
		all[i].meta = d.epoch("meta", i+1)
	}
	return all
}

// hostKeys are the key that signs and the one that opens grants.
func (s *Secrets) hostKeys(id Repository) (ed25519.PrivateKey, hpke.PrivateKey, error) {
	d := deriver{format: 2, secret: s.host[:], salt: id}
	sign := d.seed("signer")
	box, err := keyPair(d.seed("box"))
	if err != nil || d.err != nil {
		return nil, nil, fmt.Errorf("derive keys: %w", err)
	}
	return ed25519.NewKeyFromSeed(sign[:]), box, nil
}
