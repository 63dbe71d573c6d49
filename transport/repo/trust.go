package repo

import (
	"fmt"
	"sync"
	"time"

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

// removal is a key that was removed, and when: the store's time.
type removal struct {
	certificate *keys.Certificate
	at          time.Time
}

// allows fails unless a key with one of the roles signed, at a time of the store's when
// it was not removed yet.
func (t *trust) allows(c *keys.Certificate, roles Roles, at time.Time) error {
	if c == nil {
		return nil // format 1
	}
	if !c.Roles.Has(roles) {
		return fmt.Errorf("%w: key %.64q is for %s", wire.ErrForged, c.Label, c.Roles)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if end, removed := t.revoked[c.Signer]; removed && at.After(end.at) {
		return fmt.Errorf("%w: key %.64q was removed before, at %s", wire.ErrForged, c.Label, end.at.UTC().Format(time.RFC3339))
	}
	return nil
}

// revoke takes down that a key was removed; the earliest time counts.
func (t *trust) revoke(c *keys.Certificate, at time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if before, ok := t.revoked[c.Signer]; !ok || at.Before(before.at) {
		t.revoked[c.Signer] = removal{c, at}
	}
}

// holds tells whether a key was not removed.
func (t *trust) holds(s keys.Signer) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	_, gone := t.revoked[s]
	return !gone
}

// signers are the keys that were removed.
func (t *trust) signers() (all []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for s := range t.revoked {
		all = append(all, s.String())
	}
	return all
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
