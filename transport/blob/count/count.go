// Package count is a decorator that counts requests to a store and bytes moved,
// for the summary of a run. Below retry it counts every try.
package count

import (
	"context"
	"sync/atomic"

	"github.com/lull-backup/lull/transport/blob"
)

// Totals are the counts so far.
type Totals struct {
	Requests int64 // calls of any kind, failed ones too; a List is one
	Failed   int64 // of those, the ones that returned an error
	Created  int64 // objects
	Deleted  int64 // calls of Delete that succeeded
	Written  int64 // bytes of objects created
	Read     int64 // bytes that Read returned
}

// Sub is what came since earlier.
func (t Totals) Sub(earlier Totals) Totals {
	return Totals{
		t.Requests - earlier.Requests, t.Failed - earlier.Failed, t.Created - earlier.Created,
		t.Deleted - earlier.Deleted, t.Written - earlier.Written, t.Read - earlier.Read,
	}
}

// Store is the decorator.
type Store struct {
	inner                                             blob.Store
	requests, failed, created, deleted, written, read atomic.Int64
}

// New puts the decorator around inner.
func New(inner blob.Store) *Store { return &Store{inner: inner} }

// Totals are the counts of now.
func (s *Store) Totals() Totals {
	return Totals{
		s.requests.Load(), s.failed.Load(), s.created.Load(), s.deleted.Load(), s.written.Load(), s.read.Load(),
	}
}

func (s *Store) done(err error) error {
	s.requests.Add(1)
	if err != nil {
		s.failed.Add(1)
	}
	return err
}

func (s *Store) Create(ctx context.Context, name string, data []byte) error {
	err := s.inner.Create(ctx, name, data)
	if err == nil {
		s.created.Add(1)
		s.written.Add(int64(len(data)))
	}
	return s.done(err)
}

func (s *Store) Read(ctx context.Context, name string, off, length int64) ([]byte, error) {
	data, err := s.inner.Read(ctx, name, off, length)
	s.read.Add(int64(len(data)))
	return data, s.done(err)
}

func (s *Store) Stat(ctx context.Context, name string) (blob.Info, error) {
	info, err := s.inner.Stat(ctx, name)
	return info, s.done(err)
}

func (s *Store) List(ctx context.Context, prefix string, fn func(blob.Info) error) error {
	return s.done(s.inner.List(ctx, prefix, fn))
}

func (s *Store) Delete(ctx context.Context, name string) error {
	err := s.inner.Delete(ctx, name)
	if err == nil {
		s.deleted.Add(1)
	}
	return s.done(err)
}

func (s *Store) Locking(ctx context.Context) (blob.Locking, error) {
	l, err := blob.LockingOf(ctx, s.inner)
	return l, s.done(err)
}

func (s *Store) Retain(ctx context.Context, name string, l blob.Lock) error {
	return s.done(blob.Retain(ctx, s.inner, name, l))
}

func (s *Store) Retention(ctx context.Context, name string) (blob.Lock, error) {
	l, err := blob.RetentionOf(ctx, s.inner, name)
	return l, s.done(err)
}

func (s *Store) Hidden(ctx context.Context, prefix string, fn func(blob.Hidden) error) error {
	return s.done(blob.HiddenOf(ctx, s.inner, prefix, fn))
}

func (s *Store) Reveal(ctx context.Context, name string) error {
	return s.done(blob.Reveal(ctx, s.inner, name))
}

func (s *Store) String() string { return s.inner.String() }
