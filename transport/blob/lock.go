package blob

import (
	"context"
	"fmt"
	"time"
)

// LockMode says who may undo a lock before its time.
type LockMode string

const (
	// Governance locks are undone by who holds a right of their own to do so.
	Governance LockMode = "governance"
	// Compliance locks are undone by nobody, the owner of the store included.
	Compliance LockMode = "compliance"
)

// Lock is a store's promise that nobody deletes or changes an object before Until.
// The zero Lock promises nothing.
type Lock struct {
	Mode  LockMode
	Until time.Time // by the store's clock; whole seconds count
}

// Holds reports whether there is a lock and it is not over at the time now.
func (l Lock) Holds(now time.Time) bool { return l.Mode != "" && l.Until.After(now) }

// Check fails with ErrBadLock for what is no lock.
func (l Lock) Check() error {
	if (l.Mode != Governance && l.Mode != Compliance) || l.Until.IsZero() {
		return fmt.Errorf("%w: mode %q until %v", ErrBadLock, l.Mode, l.Until)
	}
	return nil
}

// Locking is what a store says about locks.
type Locking struct {
	Enabled bool
	// Mode and For are what the store locks every new object with by itself; For
	// is 0 where it does not.
	Mode LockMode
	For  time.Duration
	// Versioned stores keep what is deleted or overwritten as older versions.
	Versioned bool
}

// Locker is a Store that can lock objects. A decorator is one whatever is below it,
// so having the methods promises nothing: where the innermost store has no locks all
// of them fail with ErrNoLocks.
//
// On a Locker, Delete of an object whose lock holds fails with ErrLocked and changes
// nothing.
type Locker interface {
	Store

	// Locking says what the store can do. A store without locks is no error here,
	// unless it is not even a Locker.
	Locking(ctx context.Context) (Locking, error)

	// Retain makes an object's lock last at least until l.Until: ErrNotFound. A
	// lock that lasts longer stays as it is, and so does the mode of one that
	// holds and is stricter; making a governance lock a compliance one before it
	// is over fails with ErrLocked. Nothing is ever weakened.
	Retain(ctx context.Context, name string, l Lock) error

	// Retention is the lock of an object, zero where it has none: ErrNotFound.
	// One that is over may be returned or not.
	Retention(ctx context.Context, name string) (Lock, error)
}

type lockKey struct{}

// WithLock makes Create lock what it creates, in the same moment. A store that
// cannot fails with ErrNoLocks then, and creates nothing.
func WithLock(ctx context.Context, l Lock) context.Context {
	return context.WithValue(ctx, lockKey{}, l)
}

// LockOf is the lock that Create under ctx makes; zero: none.
func LockOf(ctx context.Context) Lock {
	l, _ := ctx.Value(lockKey{}).(Lock)
	return l
}

// NoLocks is for stores that cannot lock: the error of a Create under WithLock.
func NoLocks(ctx context.Context) error {
	if LockOf(ctx) != (Lock{}) {
		return ErrNoLocks
	}
	return nil
}

// LockingOf is Locking of a store, or ErrNoLocks.
func LockingOf(ctx context.Context, s Store) (Locking, error) {
	if l, ok := s.(Locker); ok {
		return l.Locking(ctx)
	}
	return Locking{}, fmt.Errorf("look at locks of %s: %w", s, ErrNoLocks)
}

// Retain is Retain of a store, or ErrNoLocks.
func Retain(ctx context.Context, s Store, name string, lock Lock) error {
	if l, ok := s.(Locker); ok {
		return l.Retain(ctx, name, lock)
	}
	return fmt.Errorf("lock %s in %s: %w", name, s, ErrNoLocks)
}

// RetentionOf is Retention of a store, or ErrNoLocks.
func RetentionOf(ctx context.Context, s Store, name string) (Lock, error) {
	if l, ok := s.(Locker); ok {
		return l.Retention(ctx, name)
	}
	return Lock{}, fmt.Errorf("look at the lock of %s in %s: %w", name, s, ErrNoLocks)
}
