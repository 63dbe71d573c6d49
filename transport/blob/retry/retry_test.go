package retry_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lull-backup/lull/transport/blob"
	"github.com/lull-backup/lull/transport/blob/blobtest"
	"github.com/lull-backup/lull/transport/blob/faults"
	"github.com/lull-backup/lull/transport/blob/mem"
	"github.com/lull-backup/lull/transport/blob/retry"
)

func TestStore(t *testing.T) {
	blobtest.Run(t, func(*testing.T) blob.Store { return retry.New(mem.New(), retry.Options{}) })
}

// bench is a store under retry, in bubble time, that has answered once.
func bench(t *testing.T, o retry.Options, test func(t *testing.T, f *faults.Store, s *retry.Store)) {
	synctest.Test(t, func(t *testing.T) {
		f := faults.New(mem.New())
		s := retry.New(f, o)
		if err := s.Create(t.Context(), "first", []byte("1")); err != nil {
			t.Fatal(err)
		}
		test(t, f, s)
	})
}

var errCut = fmt.Errorf("%w: connection reset", blob.ErrUnreachable)

func TestSurvivesAMinuteWithoutTheStore(t *testing.T) {
	bench(t, retry.Options{}, func(t *testing.T, f *faults.Store, s *retry.Store) {
		f.Add(faults.Fault{Before: errCut})
		healed := time.AfterFunc(time.Minute, f.Heal)
		defer healed.Stop()
		start := time.Now()
		if err := s.Create(t.Context(), "a", nil); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(start); d < time.Minute || d > 71*time.Second {
			t.Errorf("it took %v", d)
		}
	})
}

func TestGivesUp(t *testing.T) {
	bench(t, retry.Options{Total: time.Minute}, func(t *testing.T, f *faults.Store, s *retry.Store) {
		f.Add(faults.Fault{Before: errCut})
		start := time.Now()
		_, err := s.Stat(t.Context(), "first")
		if d := time.Since(start); !errors.Is(err, blob.ErrUnreachable) || d > time.Minute || d < 45*time.Second {
			t.Errorf("%v after %v", err, d)
		}
	})
}

func TestAStoreThatNeverAnsweredIsGivenLess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := faults.New(mem.New())
		f.Add(faults.Fault{Before: errCut})
		start := time.Now()
		_, err := retry.New(f, retry.Options{}).Stat(t.Context(), "first")
		if d := time.Since(start); !errors.Is(err, blob.ErrUnreachable) || d > 15*time.Second {
			t.Errorf("%v after %v", err, d)
		}
	})
}

func TestWaitsGrow(t *testing.T) {
	o := retry.Options{Base: time.Second, Cap: 5 * time.Second, Total: 20 * time.Second, Rand: func() float64 { return 0 }}
	bench(t, o, func(t *testing.T, f *faults.Store, _ *retry.Store) {
		var at []time.Duration
		start := time.Now()
		probe := probed{f, func() { at = append(at, time.Since(start)/time.Second) }}
		f.Add(faults.Fault{Op: faults.Delete, Before: errCut})
		s := retry.New(probe, o)
		if _, err := s.Stat(t.Context(), "first"); err != nil {
			t.Fatal(err)
		}
		if err := s.Delete(t.Context(), "first"); err == nil {
			t.Fatal("no error")
		}
		if d := cmp.Diff([]time.Duration{0, 1, 3, 7, 12, 17}, at); d != "" {
			t.Errorf("tries, in seconds (-want +got):\n%s", d)
		}
	})
}

// probed tells of every deletion.
type probed struct {
	*faults.Store
	tell func()
}

func (p probed) Delete(ctx context.Context, name string) error {
	p.tell()
	return p.Store.Delete(ctx, name)
}

func TestPermanentErrorsStopAtOnce(t *testing.T) {
	bench(t, retry.Options{}, func(t *testing.T, f *faults.Store, s *retry.Store) {
		for _, want := range []error{blob.ErrDenied, blob.ErrNoSpace, blob.ErrNoBucket, blob.ErrUntrusted} {
			f.Heal()
			f.Add(faults.Fault{Before: fmt.Errorf("x: %w", want)})
			start := time.Now()
			if err := s.Create(t.Context(), "a", nil); !errors.Is(err, want) || time.Since(start) != 0 {
				t.Errorf("%v after %v", err, time.Since(start))
			}
		}
	})
}

func TestTheEndOfTheContextStops(t *testing.T) {
	bench(t, retry.Options{}, func(t *testing.T, f *faults.Store, s *retry.Store) {
		f.Add(faults.Fault{Before: errCut})
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		start := time.Now()
		err := s.Create(ctx, "a", nil)
		if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, blob.ErrUnreachable) || time.Since(start) != 5*time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
	})
}

func TestLostReplyOfACreate(t *testing.T) {
	bench(t, retry.Options{}, func(t *testing.T, f *faults.Store, s *retry.Store) {
		f.Add(faults.Fault{Op: faults.Create, Nth: 1, After: io.ErrUnexpectedEOF})
		if err := s.Create(t.Context(), "a", []byte("mine")); err != nil {
			t.Errorf("the second try does not know its own object: %v", err)
		}
		if err := s.Create(t.Context(), "a", []byte("mine")); !errors.Is(err, blob.ErrExists) {
			t.Errorf("another creation: %v", err)
		}
	})
}

// A listing of more names than are remembered is told whole, and not begun again.
func TestListRemembersSoManyNames(t *testing.T) {
	bench(t, retry.Options{}, func(t *testing.T, f *faults.Store, s *retry.Store) {
		for _, name := range []string{"second", "third"} {
			if err := s.Create(t.Context(), name, nil); err != nil {
				t.Fatal(err)
			}
		}
		s.Remember(2)
		list := func() (told int, err error) {
			err = s.List(t.Context(), "", func(blob.Info) error { told++; return nil })
			return told, err
		}
		if told, err := list(); told != 3 || err != nil {
			t.Errorf("%d names, %v", told, err)
		}
		f.Add(faults.Fault{Op: faults.List, Nth: 1, After: errCut})
		if told, err := list(); told != 3 || !errors.Is(err, errCut) {
			t.Errorf("broken off: %d names, %v, want %v", told, err, errCut)
		}
	})
}

func TestListTellsNothingTwice(t *testing.T) {
	bench(t, retry.Options{}, func(t *testing.T, f *faults.Store, s *retry.Store) {
		f.Add(faults.Fault{Op: faults.List, Nth: 1, After: io.ErrUnexpectedEOF})
		var told []string
		err := s.List(t.Context(), "", func(i blob.Info) error {
			told = append(told, i.Name)
			return nil
		})
		if err != nil || !cmp.Equal(told, []string{"first"}) {
			t.Errorf("%v, %v", told, err)
		}
		own := fmt.Errorf("the caller's: %w", io.ErrUnexpectedEOF)
		if err := s.List(t.Context(), "", func(blob.Info) error { return own }); err != own {
			t.Errorf("%v", err)
		}
	})
}
