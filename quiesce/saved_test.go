package quiesce_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lull-backup/lull/quiesce"
	"github.com/lull-backup/lull/quiesce/quiescetest"
	"github.com/lull-backup/lull/snapshot"
)

// The rung below the writers': what it takes, what it says, and what happens when it
// cannot.
func TestSavedState(t *testing.T) {
	ok := func(context.Context) error { return nil }
	take := func(context.Context, func()) error { return nil }
	broken := errors.New("no room")
	hang := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	tests := []struct {
		name   string
		saved  *quiesce.Saved
		level  quiesce.Level // LevelNone: the run fails
		reason string
		takes  int // of Job.Take
	}{
		{"done", &quiesce.Saved{Check: ok, Take: take}, quiesce.LevelSavedState, "", 0},
		{"no such host", nil, quiesce.LevelCrash, "this host does not save", 1},
		{"refused", &quiesce.Saved{Check: func(context.Context) error { return broken }, Take: take},
			quiesce.LevelCrash, "no room", 1},
		{"check hangs", &quiesce.Saved{Check: hang, Take: take}, quiesce.LevelCrash, "deadline", 1},
		{"check panics", &quiesce.Saved{Check: func(context.Context) error { panic("ouch") }, Take: take}, quiesce.LevelCrash, "ouch", 1},
		{"disks alone", &quiesce.Saved{Check: ok, Take: func(context.Context, func()) error {
			return fmt.Errorf("%w: %w", snapshot.ErrNotSaved, broken)
		}}, quiesce.LevelCrash, "no room", 0},
		{"past its time", &quiesce.Saved{Check: ok, Take: func(ctx context.Context, _ func()) error {
			<-ctx.Done()
			time.Sleep(3 * time.Second) // of the bubble: the guest is resumed
			return fmt.Errorf("%w: %w", snapshot.ErrNotSaved, ctx.Err())
		}}, quiesce.LevelCrash, "deadline", 0},
		{"nothing taken", &quiesce.Saved{Check: ok, Take: func(context.Context, func()) error {
			return fmt.Errorf("%w: %w", snapshot.ErrNotTaken, broken)
		}}, quiesce.LevelCrash, "no room", 1},
		{"fails", &quiesce.Saved{Check: ok, Take: func(context.Context, func()) error { return broken }}, quiesce.LevelNone, "", 0},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				takes := 0
				held, err := quiesce.Do(t.Context(), quiesce.Job{
					Run: "run", VM: "lab/web", Saved: test.saved,
					Policy: quiesce.Policy{Ladder: []quiesce.Level{quiesce.LevelSavedState, quiesce.LevelCrash}, Floor: quiesce.LevelCrash},
					Take:   func(context.Context) error { takes++; return nil },
				})
				if takes != test.takes {
					t.Errorf("%d crash-consistent snapshots", takes)
				}
				if test.level == quiesce.LevelNone {
					if !errors.Is(err, broken) {
						t.Errorf("got %v", err)
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				rep := held.Report()
				said := slices.ContainsFunc(rep.Reasons, func(s string) bool { return strings.Contains(s, test.reason) })
				if rep.Level != test.level || said != (test.reason != "") {
					t.Errorf("reached %v: %q", rep.Level, rep.Reasons)
				}
			})
		})
	}
}

// The guest stands still only while its guards are in force; without them its memory
// is not saved.
func TestSavedStateIsGuarded(t *testing.T) {
	for _, refuses := range []error{nil, errors.New("no more processes")} {
		synctest.Test(t, func(t *testing.T) {
			guests := &trial{guest: quiescetest.NewGuest()}
			first, second := &guard{trial: guests}, &guard{trial: guests, err: refuses}
			held, err := quiesce.Do(t.Context(), quiesce.Job{
				Run: "run", VM: "lab/web",
				Policy: quiesce.Policy{Ladder: []quiesce.Level{quiesce.LevelSavedState, quiesce.LevelCrash}, Floor: quiesce.LevelCrash},
				Take:   func(context.Context) error { return nil },
				Saved: &quiesce.Saved{
					Guards: []quiesce.Guard{first, second},
					Check:  func(context.Context) error { return nil },
					Take: func(context.Context, func()) error {
						if first.armed != 1 || second.armed != 1 || first.disarmed+second.disarmed > 0 {
							t.Errorf("stopped with the guards %+v and %+v", first, second)
						}
						return nil
					},
				},
			})
			if err != nil {
				t.Fatal(err)
			}
			want := quiesce.LevelSavedState
			if refuses != nil {
				want = quiesce.LevelCrash
			}
			if held.Report().Level != want || first.disarmed != 1 || second.disarmed != second.armed || !first.thawed {
				t.Errorf("level %v, guards %+v and %+v", held.Report().Level, first, second)
			}
		})
	}
}

// A Take that does not say that the guest goes on leaves it to the guards.
func TestSavedStateStops(t *testing.T) {
	for name, test := range map[string]struct {
		take   func() error
		thawed bool
	}{
		"not resumed": {func() error { return errors.New("resume: deadline") }, false},
		"panics":      {func() error { panic("ouch") }, false},
		"not saved":   {func() error { return snapshot.ErrNotSaved }, true},
		"not taken":   {func() error { return snapshot.ErrNotTaken }, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := &guard{trial: &trial{guest: quiescetest.NewGuest()}}
				_, err := quiesce.Do(t.Context(), quiesce.Job{
					Run: "run", VM: "lab/web",
					Policy: quiesce.Policy{Ladder: []quiesce.Level{quiesce.LevelSavedState, quiesce.LevelCrash}, Floor: quiesce.LevelCrash},
					Take:   func(context.Context) error { return nil },
					Saved: &quiesce.Saved{
						Guards: []quiesce.Guard{g},
						Check:  func(context.Context) error { return nil },
						Take:   func(context.Context, func()) error { return test.take() },
					},
				})
				if (err == nil) != test.thawed || g.disarmed != 1 || g.thawed != test.thawed {
					t.Errorf("%v, guard %+v", err, g)
				}
			})
		})
	}
}

// The window ends when the guest goes on, and with it the deadline: the rest of its memory
// may take longer than a window. Only the run's own end cuts that short.
func TestSavedStateInBackground(t *testing.T) {
	policy := quiesce.Policy{Ladder: []quiesce.Level{quiesce.LevelSavedState, quiesce.LevelCrash}, Floor: quiesce.LevelCrash, Window: 10 * time.Second}
	for _, ends := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			wait := time.Minute
			if ends {
				wait = time.Hour
			}
			held, err := quiesce.Do(ctx, quiesce.Job{
				Run: "run", VM: "lab/web", Policy: policy,
				Take: func(context.Context) error { return nil },
				Saved: &quiesce.Saved{
					Check: func(context.Context) error { return nil },
					Take: func(ctx context.Context, goesOn func()) error {
						time.Sleep(20 * time.Millisecond) // of the bubble
						goesOn()
						select {
						case <-time.After(wait):
							return nil
						case <-ctx.Done():
							return fmt.Errorf("%w: %w", snapshot.ErrNotSaved, ctx.Err())
						}
					},
				},
			})
			if ends {
				if !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("past the end of the run: %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			rep := held.Report()
			if rep.Level != quiesce.LevelSavedState || rep.Window != 20*time.Millisecond {
				t.Errorf("level %v, window %v: %q", rep.Level, rep.Window, rep.Reasons)
			}
		})
	}
}
