package repo

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/lull-backup/lull/transport/blob"
	"github.com/lull-backup/lull/transport/repo/internal/keys"
	"github.com/lull-backup/lull/transport/repo/internal/wire"
)

// trust is what is known of keys that were removed. Who holds a key says its
// certificate, which every signed object carries.
type trust struct {
	// problems are what is wrong with what the store says of keys. They are no reason
	// not to read; who lists restore points hears of them.
	problems []error
	// stale is why nothing may be written: what is sealed would be sealed to keys that
	// somebody meant to be done with.
	stale error

	mu      sync.Mutex
	revoked map[keys.Signer]removal
}

// removal is a key that was removed.
type removal struct {
	certificate *keys.Certificate
	at          time.Time // the store's
	// signed are the hashes of the objects that the key had signed by then: nothing else
	// counts. Nil where the record does not tell: then the store's times count.
	signed map[Hash]bool
}

// vouches tells whether an object of the key stays good, by its hash.
func (m *removal) vouches(info blob.Info, h Hash) bool {
	if m.signed == nil {
		return !info.Created.After(m.at)
	}
	return m.signed[h]
}

// stillGood tells whether an object that is named by its hash counts, which was good when it
// was read, and which a key has signed that may have been removed since.
func (t *trust) stillGood(by keys.Signer, info blob.Info) bool {
	h, ok := sumOf(info.Name)
	t.mu.Lock()
	defer t.mu.Unlock()
	end, removed := t.revoked[by]
	return !removed || ok && end.vouches(info, h)
}

// mayMake fails unless a key has one of the roles.
func mayMake(c *keys.Certificate, roles Roles) error {
	if c == nil || c.Roles.Has(roles) { // format 1 has no certificates
		return nil
	}
	return fmt.Errorf("%w: key %.64q is for %s", wire.ErrForged, c.Label, c.Roles)
}

// allows fails unless a key with one of the roles signed an object, and was not removed
// before.
func (t *trust) allows(c *keys.Certificate, roles Roles, info blob.Info, b []byte) error {
	if c == nil {
		return nil
	}
	if err := mayMake(c, roles); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	end, removed := t.revoked[c.Signer]
	switch {
	case !removed || end.vouches(info, sum(b)):
		return nil
	case end.signed == nil:
		return fmt.Errorf("%w: key %.64q was removed before, at %s", wire.ErrForged, c.Label, end.at.UTC().Format(time.RFC3339))
	}
	return fmt.Errorf("%w: key %.64q was removed, and had not signed this by then", wire.ErrForged, c.Label)
}

// revoke takes down that a key was removed. Of several records the earliest time counts,
// and what any of them lists.
func (t *trust) revoke(m removal) {
	t.mu.Lock()
	defer t.mu.Unlock()
	before, known := t.revoked[m.certificate.Signer]
	if known && before.at.Before(m.at) {
		m.at = before.at
	}
	if before.signed != nil {
		if m.signed == nil {
			m.signed = map[Hash]bool{}
		}
		maps.Copy(m.signed, before.signed)
	}
	t.revoked[m.certificate.Signer] = m
}

// reset forgets which keys were removed.
func (t *trust) reset() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.revoked = map[keys.Signer]removal{}
}

// holds tells whether a key was not removed.
func (t *trust) holds(s keys.Signer) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	_, gone := t.revoked[s]
	return !gone
}

// knows is holds for a key by what it is called; format 1 has no keys that could be removed.
func (t *trust) knows(signer string) bool { return !slices.Contains(t.signers(), signer) }

// signers are the keys that were removed.
func (t *trust) signers() (all []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for s := range t.revoked {
		all = append(all, s.String())
	}
	return all
}

// removedFrom are the keys of a domain that were removed.
func (t *trust) removedFrom(d Domain) (gone []keys.Signer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for s, m := range t.revoked {
		if d.takes(m.certificate) {
			gone = append(gone, s)
		}
	}
	return gone
}

// removed lists the keys that were removed.
func (t *trust) removed() []Key {
	t.mu.Lock()
	defer t.mu.Unlock()
	var all []Key
	for _, gone := range t.revoked {
		k := keyOf(gone.certificate)
		k.Removed = gone.at
		all = append(all, k)
	}
	return all
}
