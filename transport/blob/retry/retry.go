// Package retry is a decorator that tries an operation again when a store fails
// for a moment: a connection cut, a server restarted, a network away for a minute.
//
// Permanent errors (blob.Permanent) and the end of ctx stop it at once. A creation
// keeps its nonce over all tries, so that one whose reply was lost is known again.
// The decorator goes outermost: what is below it sees every try.
package retry

import (
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/lull-backup/lull/transport/blob"
)

// Options say how long to go on. The zero value is right for a backup.
type Options struct {
	// Total is how long one operation is tried, from its first failure: 3
	// minutes by default, three times the longest cut that a run survives.
	Total time.Duration
	// First is the same for a store that has not answered once yet, 15 seconds
	// by default: a wrong address is said while someone is still looking.
	First time.Duration
	// Base and Cap bound the wait between two tries: it doubles from Base, 200 ms
	// by default, to Cap, 10 s by default, less up to half of it by chance.
	Base, Cap time.Duration
	// Rand returns a number in [0,1); rand.Float64 by default.
	Rand func() float64
	// Log is told once an operation that it will be tried again; may be nil.
	Log *slog.Logger
}

// Store is the decorator.
type Store struct {
	inner    blob.Store
	o        Options
	names    int         // of a listing that are remembered
	answered atomic.Bool // the store has done something, or refused it
}

// maxNames bounds the names of one listing that are remembered: more than any that lull takes
// has, and some 600 MiB. A listing that is longer is not begun again.
const maxNames = 1 << 24

// New puts the decorator around inner.
func New(inner blob.Store, o Options) *Store {
	o.Total = orElse(o.Total, 3*time.Minute)
	o.First = orElse(o.First, 15*time.Second)
	o.Base = orElse(o.Base, 200*time.Millisecond)
	o.Cap = orElse(o.Cap, 10*time.Second)
	if o.Rand == nil {
		o.Rand = rand.Float64
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Store{inner: inner, o: o, names: maxNames}
}

func orElse(d, standard time.Duration) time.Duration {
	if d <= 0 {
		return standard
	}
	return d
}

// do calls op until it succeeds or trying on is of no use, and returns its last
// error.
func (s *Store) do(ctx context.Context, what, name string, op func() error) error {
	var failed time.Time
	for try := 1; ; try++ {
		err := op()
		if err == nil || blob.Permanent(err) {
			s.answered.Store(s.answered.Load() || ctx.Err() == nil)
			return err
		}
		if ctx.Err() != nil {
			return err
		}
		if failed.IsZero() {
			failed = time.Now()
			s.o.Log.WarnContext(ctx, "store failed, trying again", "operation", what, "object", name, "error", err)
		}
		wait := s.wait(try)
		if spent := time.Since(failed) + wait; spent > s.budget() {
			return fmt.Errorf("%w (gave up after %d tries in %v)", err, try, time.Since(failed).Round(time.Second))
		}
		if !sleep(ctx, wait) {
			return fmt.Errorf("%w; before that: %w", ctx.Err(), err)
		}
	}
}

func (s *Store) budget() time.Duration {
	if s.answered.Load() {
		return s.o.Total
	}
	return min(s.o.First, s.o.Total)
}

// wait is the time between try number try and the next one.
func (s *Store) wait(try int) time.Duration {
	d := s.o.Cap
	if try < 32 {
		d = min(d, s.o.Base<<(try-1))
	}
	return d - time.Duration(float64(d)/2*s.o.Rand())
}

// sleep reports whether it slept to the end.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func (s *Store) Create(ctx context.Context, name string, data []byte) error {
	ctx = blob.WithNonce(ctx)
	return s.do(ctx, "create", name, func() error { return s.inner.Create(ctx, name, data) })
}

func (s *Store) Read(ctx context.Context, name string, off, length int64) (data []byte, err error) {
	err = s.do(ctx, "read", name, func() error {
		data, err = s.inner.Read(ctx, name, off, length)
		return err
	})
	return data, err
}

func (s *Store) Stat(ctx context.Context, name string) (info blob.Info, err error) {
	err = s.do(ctx, "stat", name, func() error {
		info, err = s.inner.Stat(ctx, name)
		return err
	})
	return info, err
}

// List remembers what fn was told, so that a listing that starts again after it
// broke off tells nothing twice.
func (s *Store) List(ctx context.Context, prefix string, fn func(blob.Info) error) error {
	o := once[blob.Info]{fn: fn, name: func(i blob.Info) string { return i.Name }, names: s.names}
	return o.result(s.do(ctx, "list", prefix, func() error {
		return o.tried(s.inner.List(ctx, prefix, o.tell))
	}))
}

// once tells fn each name once, however often a listing starts again.
type once[T any] struct {
	fn    func(T) error
	name  func(T) string
	names int
	told  map[[16]byte]struct{} // by hash: names may be long
	more  bool                  // were told than are remembered
	own   error                 // fn's, which is nothing to try again
}

func (o *once[T]) tell(t T) error {
	h := sha256.Sum256([]byte(o.name(t)))
	key := [16]byte(h[:])
	if _, again := o.told[key]; again {
		return nil
	}
	if o.told == nil {
		o.told = map[[16]byte]struct{}{}
	}
	if o.more = o.more || len(o.told) == o.names; !o.more {
		o.told[key] = struct{}{}
	}
	o.own = o.fn(t)
	return o.own
}

// tried is the error of one try: none, when it is nothing to try again.
func (o *once[T]) tried(err error) error {
	if o.own == nil && o.more {
		o.own = err
	}
	if o.own != nil {
		return nil
	}
	return err
}

// result is the error of the whole listing.
func (o *once[T]) result(err error) error {
	if o.own != nil {
		return o.own
	}
	return err
}

func (s *Store) Delete(ctx context.Context, name string) error {
	return s.do(ctx, "delete", name, func() error { return s.inner.Delete(ctx, name) })
}

func (s *Store) Locking(ctx context.Context) (l blob.Locking, err error) {
	err = s.do(ctx, "look at locks", "", func() error {
		l, err = blob.LockingOf(ctx, s.inner)
		return err
	})
	return l, err
}

func (s *Store) Retain(ctx context.Context, name string, l blob.Lock) error {
	return s.do(ctx, "lock", name, func() error { return blob.Retain(ctx, s.inner, name, l) })
}

func (s *Store) Retention(ctx context.Context, name string) (l blob.Lock, err error) {
	err = s.do(ctx, "look at lock", name, func() error {
		l, err = blob.RetentionOf(ctx, s.inner, name)
		return err
	})
	return l, err
}

// Hidden remembers what fn was told, as List does.
func (s *Store) Hidden(ctx context.Context, prefix string, fn func(blob.Hidden) error) error {
	o := once[blob.Hidden]{fn: fn, name: func(h blob.Hidden) string { return h.Name }, names: s.names}
	return o.result(s.do(ctx, "list hidden", prefix, func() error {
		return o.tried(blob.HiddenOf(ctx, s.inner, prefix, o.tell))
	}))
}

func (s *Store) Reveal(ctx context.Context, name string) error {
	return s.do(ctx, "reveal", name, func() error { return blob.Reveal(ctx, s.inner, name) })
}

func (s *Store) String() string { return s.inner.String() }

// Unwrap is the store that is tried.
func (s *Store) Unwrap() blob.Store { return s.inner }
