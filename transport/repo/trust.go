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
	mu      sync.Mutex
	revoked map[keys.Signer]time.Time // the store's time of the removal
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
	if end, removed := t.revoked[c.Signer]; removed && at.After(end) {
		return fmt.Errorf("%w: key %.64q was removed before, at %s", wire.ErrForged, c.Label, end.UTC().Format(time.RFC3339))
	}
	return nil
}
