// Package mem is a store in memory, for tests. It keeps the whole contract, lost
// replies included, and lets a test look at and damage what is stored. With NewLocking
// it has locks, by its own clock.
package mem

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/lull-backup/lull/transport/blob"
)

// Store is a blob.Store in memory.
type Store struct {
	now func() time.Time

	mu      sync.Mutex
	objects map[string]object
	locking blob.Locking
}

// object is never changed once it is stored, so that readers and clones share it.
type object struct {
	data    []byte
	created time.Time
	nonce   string
	lock    blob.Lock
}

// New makes an empty store that takes its time from the system.
func New() *Store { return NewAt(time.Now) }

// NewAt makes an empty store with a clock of its own.
func NewAt(now func() time.Time) *Store {
	return &Store{now: now, objects: map[string]object{}}
}

// NewLocking makes an empty store that can lock objects, and locks new ones by itself
// where l says so.
func NewLocking(now func() time.Time, l blob.Locking) *Store {
	s := NewAt(now)
	s.locking = l
	return s
}

// Clone is a copy that changes on its own: the store as a crash leaves it.
func (s *Store) Clone() *Store {
	s.mu.Lock()
	defer s.mu.Unlock()
	return &Store{now: s.now, objects: maps.Clone(s.objects), locking: s.locking}
}

// Names lists all objects, sorted.
func (s *Store) Names() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.objects))
}

// Damage replaces the content of an object by what fn makes of a copy of it. It
// is no operation of the contract. Without such an object fn gets nil.
func (s *Store) Damage(name string, fn func(data []byte) []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	o, found := s.objects[name]
	if !found {
		o.created = s.now()
	}
	o.data = fn(slices.Clone(o.data))
	s.objects[name] = o
}

func (s *Store) Create(ctx context.Context, name string, data []byte) error {
	if err := begin(ctx, name); err != nil {
		return fmt.Errorf("create %s: %w", name, err)
	}
	if len(data) > blob.MaxSize {
		return fmt.Errorf("create %s: %w", name, blob.ErrTooBig)
	}
	nonce := blob.Nonce(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	lock, err := s.newLock(ctx)
	if err != nil {
		return fmt.Errorf("create %s: %w", name, err)
	}
	if o, taken := s.objects[name]; taken {
		if o.nonce == nonce {
			return nil
		}
		return fmt.Errorf("create %s: %w", name, blob.ErrExists)
	}
	s.objects[name] = object{slices.Clone(data), s.now(), nonce, lock}
	return nil
}

func (s *Store) Read(ctx context.Context, name string, off, length int64) ([]byte, error) {
	o, err := s.get(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	n, err := blob.CheckRange(int64(len(o.data)), off, length)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return append(make([]byte, 0, n), o.data[off:off+n]...), nil
}

func (s *Store) Stat(ctx context.Context, name string) (blob.Info, error) {
	o, err := s.get(ctx, name)
	if err != nil {
		return blob.Info{}, fmt.Errorf("stat %s: %w", name, err)
	}
	return o.info(name), nil
}

func (s *Store) List(ctx context.Context, prefix string, fn func(blob.Info) error) error {
	s.mu.Lock()
	var found []blob.Info
	for name, o := range s.objects {
		if strings.HasPrefix(name, prefix) {
			found = append(found, o.info(name))
		}
	}
	s.mu.Unlock()
	slices.SortFunc(found, func(a, b blob.Info) int { return strings.Compare(a.Name, b.Name) })
	for _, info := range found {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("list %q: %w", prefix, err)
		}
		if err := fn(info); err != nil {
			return err
		}
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("list %q: %w", prefix, err)
	}
	return nil
}

func (s *Store) Delete(ctx context.Context, name string) error {
	if err := begin(ctx, name); err != nil {
		return fmt.Errorf("delete %s: %w", name, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.objects[name].lock.Holds(s.now()) {
		return fmt.Errorf("delete %s: %w", name, blob.ErrLocked)
	}
	delete(s.objects, name)
	return nil
}

func (s *Store) String() string { return "memory" }

func (s *Store) get(ctx context.Context, name string) (object, error) {
	if err := begin(ctx, name); err != nil {
		return object{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	o, found := s.objects[name]
	if !found {
		return object{}, blob.ErrNotFound
	}
	return o, nil
}

func (o object) info(name string) blob.Info {
	return blob.Info{Name: name, Size: int64(len(o.data)), Created: o.created}
}

func begin(ctx context.Context, name string) error {
	if err := blob.CheckName(name); err != nil {
		return err
	}
	return ctx.Err()
}

// CloneAt is a Clone with another clock.
func (s *Store) CloneAt(now func() time.Time) *Store {
	c := s.Clone()
	c.now = now
	return c
}
