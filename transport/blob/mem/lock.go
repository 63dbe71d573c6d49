package mem

import (
	"context"
	"fmt"

	"github.com/lull-backup/lull/transport/blob"
)

// newLock is the lock of an object that is created under ctx.
func (s *Store) newLock(ctx context.Context) (blob.Lock, error) {
	lock := blob.LockOf(ctx)
	switch {
	case !s.locking.Enabled:
		return blob.Lock{}, blob.NoLocks(ctx)
	case lock != (blob.Lock{}):
		return lock, lock.Check()
	case s.locking.For > 0:
		return blob.Lock{Mode: s.locking.Mode, Until: s.now().Add(s.locking.For)}, nil
	}
	return blob.Lock{}, nil
}

func (s *Store) Locking(ctx context.Context) (blob.Locking, error) { return s.locking, ctx.Err() }

func (s *Store) Retain(ctx context.Context, name string, l blob.Lock) error {
	if err := s.retain(ctx, name, l); err != nil {
		return fmt.Errorf("lock %s: %w", name, err)
	}
	return nil
}

func (s *Store) retain(ctx context.Context, name string, l blob.Lock) error {
	if _, err := s.lockable(ctx, name); err != nil {
		return err
	}
	if err := l.Check(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	o, found := s.objects[name]
	if !found {
		return blob.ErrNotFound
	}
	if o.lock.Holds(s.now()) {
		switch {
		case o.lock.Mode == blob.Compliance:
			l.Mode = blob.Compliance
		case l.Mode == blob.Compliance:
			return blob.ErrLocked
		}
		if !l.Until.After(o.lock.Until) {
			return nil
		}
	}
	o.lock = l
	s.objects[name] = o
	return nil
}

func (s *Store) Retention(ctx context.Context, name string) (blob.Lock, error) {
	o, err := s.lockable(ctx, name)
	if err != nil {
		return blob.Lock{}, fmt.Errorf("look at the lock of %s: %w", name, err)
	}
	return o.lock, nil
}

func (s *Store) lockable(ctx context.Context, name string) (object, error) {
	if !s.locking.Enabled {
		return object{}, blob.ErrNoLocks
	}
	return s.get(ctx, name)
}
