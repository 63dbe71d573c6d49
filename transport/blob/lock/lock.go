// Package lock is a decorator that locks what a repository must not lose, in the very
// moment of its creation: packs, index objects, restore points, and what is needed to
// open and to trust them. What comes and goes by itself is left alone: sessions,
// marks, leases, holds, the notes of a quarantine.
//
// A lock made here ends a fixed time after the object's creation. A restore point that
// reuses an older pack needs that pack for longer: repo's RenewLocks sees to it.
//
// It goes around retry, and the store below must be able to lock: otherwise Create
// fails with blob.ErrNoLocks, rather than to store what is not protected.
package lock

import (
	"context"
	"strings"
	"time"

	"github.com/lull-backup/lull/transport/blob"
)

// Policy says how objects are locked.
type Policy struct {
	Mode   blob.LockMode
	Period time.Duration    // from the creation of an object
	Now    func() time.Time // this host's clock; nil: time.Now
}

// Store is the decorator.
type Store struct {
	blob.Locker
	policy Policy
}

// New puts the decorator around a store.
func New(inner blob.Locker, p Policy) *Store {
	if p.Now == nil {
		p.Now = time.Now
	}
	return &Store{inner, p}
}

// Locked reports whether an object of that name is to be locked.
func Locked(name string) bool {
	if name == "config" {
		return true
	}
	kind, _, _ := strings.Cut(name, "/")
	switch kind {
	case "keys", "epochs", "packs", "index", "points", "forgotten", "revoked":
		return true
	}
	return false
}

func (s *Store) Create(ctx context.Context, name string, data []byte) error {
	if Locked(name) {
		ctx = blob.WithLock(ctx, blob.Lock{Mode: s.policy.Mode, Until: s.policy.Now().Add(s.policy.Period)})
	}
	return s.Locker.Create(ctx, name, data)
}

func (s *Store) Hidden(ctx context.Context, prefix string, fn func(blob.Hidden) error) error {
	return blob.HiddenOf(ctx, s.Locker, prefix, fn)
}

func (s *Store) Reveal(ctx context.Context, name string) error {
	return blob.Reveal(ctx, s.Locker, name)
}

// Unwrap is the store below.
func (s *Store) Unwrap() blob.Store { return s.Locker }
