package keys

import (
	"bytes"
	"crypto/hpke"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/zeebo/blake3"

	"github.com/lull-backup/lull/transport/repo/internal/wire"
)

// MaxEpochs bounds the rotations of a repository.
const MaxEpochs = 1<<16 - 1

// epoch is the two key pairs that writers seal to for a time. A key that was removed
// has no private half of what comes after.
type epoch struct{ data, meta pair }

// pair is a key pair; private is nil for a role that has none.
type pair struct {
	public  hpke.PublicKey
	private hpke.PrivateKey
	seed    seed // that private is made of
}

// newPair checks a private key, the zero one for none, against the public one.
func newPair(public []byte, private seed) (p pair, err error) {
	if p.public, err = publicKey(public); err != nil || private == (seed{}) {
		return p, err
	}
	if p.private, err = keyPair(private); err != nil {
		return p, fmt.Errorf("derive keys: %w", err)
	}
	if !bytes.Equal(p.private.PublicKey().Bytes(), public) {
		return p, fmt.Errorf("%w: the public key is another one", wire.ErrForged)
	}
	p.seed = private
	return p, nil
}

func (r *Ring) addEpoch(data, meta []byte, private epochSecrets) error {
	d, err := newPair(data, private.data)
	if err != nil {
		return err
	}
	m, err := newPair(meta, private.meta)
	if err != nil {
		return err
	}
	r.rotating.Lock()
	defer r.rotating.Unlock()
	r.epochs = append(r.epochs, epoch{d, m})
	return nil
}

// Epochs is the number of the newest epoch, which is the one that is sealed to.
func (r *Ring) Epochs() int {
	n, _ := r.newest()
	return int(n)
}

// newest is the epoch that is sealed to.
func (r *Ring) newest() (uint16, epoch) {
	r.rotating.RLock()
	defer r.rotating.RUnlock()
	n := len(r.epochs)
	return uint16(n), r.epochs[n-1]
}

// epochOf is the epoch that an object was sealed to. The owner opens what it was sealed to
// even when the document of the epoch is lost.
func (r *Ring) epochOf(n uint16) (epoch, error) {
	r.rotating.RLock()
	defer r.rotating.RUnlock()
	switch {
	case n == 0:
		return epoch{}, fmt.Errorf("%w: sealed to keys of epoch 0", wire.ErrDamaged)
	case int(n) <= len(r.epochs):
		return r.epochs[n-1], nil
	case r.CanOwn():
		return r.master.from2(r.repository).lost(int(n))
	}
	return epoch{}, fmt.Errorf("%w: it is sealed to keys of epoch %d, and %d are known", ErrRole, n, len(r.epochs))
}

// lost derives an epoch of which there is no document.
func (d *deriver) lost(n int) (e epoch, err error) {
	data, meta := d.epoch("data", n), d.epoch("meta", n)
	if e.data.private, err = keyPair(data); err == nil {
		e.meta.private, err = keyPair(meta)
	}
	if err = errors.Join(d.err, err); err != nil {
		return e, fmt.Errorf("derive keys: %w", err)
	}
	return e, nil
}

// rotation is the document of an epoch.
type rotation struct {
	Epoch  int     `json:"epoch"`
	Data   []byte  `json:"data"`
	Meta   []byte  `json:"meta"`
	Grants []grant `json:"grants"`
}

// grant is the private halves of an epoch for a key that was made before, sealed to
// its box.
type grant struct {
	Signer Signer `json:"signer"`
	Sealed []byte `json:"sealed"`
}

// Recipient is a key that a new epoch is granted to.
type Recipient struct {
	Certificate *Certificate
	Box         []byte // public key
}

// Rotate makes the document of the next epoch, for the recipients that read. Only the
// owner can.
func (r *Ring) Rotate(to []Recipient) (plain []byte, err error) {
	n := r.Epochs() + 1
	if !r.CanOwn() || n > MaxEpochs {
		return nil, fmt.Errorf("make epoch %d: %w", n, ErrNoSigner)
	}
	d := r.master.from2(r.repository)
	secrets := epochSecrets{data: d.epoch("data", n), meta: d.epoch("meta", n)}
	doc := rotation{Epoch: n, Grants: []grant{}}
	data, err := keyPair(secrets.data)
	if err != nil {
		return nil, fmt.Errorf("make epoch: %w", err)
	}
	meta, err := keyPair(secrets.meta)
	if err != nil {
		return nil, fmt.Errorf("make epoch: %w", err)
	}
	doc.Data, doc.Meta = data.PublicKey().Bytes(), meta.PublicKey().Bytes()
	for _, c := range to {
		if c.Certificate.Roles.Has(Owner) || !c.Certificate.Roles.Has(Restore|Maintain) {
			continue // derives it, or has none
		}
		g, err := r.grant(c, n, secrets)
		if err != nil {
			return nil, err
		}
		doc.Grants = append(doc.Grants, g)
	}
	return json.Marshal(doc)
}

func (r *Ring) grant(to Recipient, n int, s epochSecrets) (grant, error) {
	if blake3.Sum256(to.Box) != to.Certificate.Box {
		return grant{}, fmt.Errorf("%w: box of %.40q", wire.ErrForged, to.Certificate.Label)
	}
	public, err := publicKey(to.Box)
	if err != nil {
		return grant{}, err
	}
	if !to.Certificate.Roles.Has(Restore) {
		s.data = seed{}
	}
	sealed, err := r.sealTo(nil, public, "grant", epochNumber(uint16(n)), append(s.data[:], s.meta[:]...))
	return grant{Signer: to.Certificate.Signer, Sealed: sealed}, err
}

// AddEpoch takes in the document of the next epoch, whose signer is an owner.
func (r *Ring) AddEpoch(plain []byte) error {
	var doc rotation
	if err := json.Unmarshal(plain, &doc); err != nil || doc.Epoch != r.Epochs()+1 || doc.Epoch > MaxEpochs {
		return fmt.Errorf("%w: document of an epoch", wire.ErrDamaged)
	}
	private, err := r.private(&doc)
	if err != nil {
		return err
	}
	return r.addEpoch(doc.Data, doc.Meta, private)
}

// private is what this key has of an epoch's private halves.
func (r *Ring) private(doc *rotation) (s epochSecrets, err error) {
	switch {
	case r.roles.Has(Owner):
		d := r.master.from2(r.repository)
		return d.epochs(Owner, doc.Epoch)[doc.Epoch-1], d.err
	case doc.Epoch <= len(r.granted):
		return r.granted[doc.Epoch-1], nil
	case r.certificate == nil || !r.CanReadMaps():
		return s, nil
	}
	for _, g := range doc.Grants {
		if g.Signer != r.certificate.Signer {
			continue
		}
		b, err := r.openFrom(r.box, "grant", epochNumber(uint16(doc.Epoch)), g.Sealed)
		if err != nil || len(b) != 2*seedSize {
			return s, fmt.Errorf("%w: grant of epoch %d", wire.ErrDamaged, doc.Epoch)
		}
		return epochSecrets{data: seed(b), meta: seed(b[seedSize:])}, nil
	}
	return s, nil // what was made since this key was removed stays shut
}
