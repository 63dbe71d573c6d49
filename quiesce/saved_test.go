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
	broken := errors.New("no room")
	hang := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	tests := []struct {
		name   string
		saved  *quiesce.Saved
		level  quiesce.Level // LevelNone: the run fails
		reason string
		takes  int // of Job.Take
	}{
		{"done", &quiesce.Saved{Check: ok, Take: ok}, quiesce.LevelSavedState, "", 0},
		{"no such host", nil, quiesce.LevelCrash, "this host does not save", 1},
		{"refused", &quiesce.Saved{Check: func(context.Context) error { return broken }, Take: ok},
			quiesce.LevelCrash, "no room", 1},
		{"check hangs", &quiesce.Saved{Check: hang, Take: ok}, quiesce.LevelCrash, "deadline", 1},
		{"check panics", &quiesce.Saved{Check: func(context.Context) error { panic("ouch") }, Take: ok}, quiesce.LevelCrash, "ouch", 1},
		{"disks alone", &quiesce.Saved{Check: ok, Take: func(context.Context) error {
			return fmt.Errorf("%w: %w", snapshot.ErrNotSaved, broken)
		}}, quiesce.LevelCrash, "no room", 0},
		{"past its time", &quiesce.Saved{Check: ok, Take: func(ctx context.Context) error {
			<-ctx.Done()
			time.Sleep(3 * time.Second) // of the bubble: the guest is resumed
			return fmt.Errorf("%w: %w", snapshot.ErrNotSaved, ctx.Err())
		}}, quiesce.LevelCrash, "deadline", 0},
		{"nothing taken", &quiesce.Saved{Check: ok, Take: func(context.Context) error {
			return fmt.Errorf("%w: %w", snapshot.ErrNotTaken, broken)
		}}, quiesce.LevelCrash, "no room", 1},
		{"fails", &quiesce.Saved{Check: ok, Take: func(context.Context) error { return broken }}, quiesce.LevelNone, "", 0},
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
					Take: func(context.Context) error {
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
						Take:   func(context.Context) error { return test.take() },
					},
				})
				if (err == nil) != test.thawed || g.disarmed != 1 || g.thawed != test.thawed {
					t.Errorf("%v, guard %+v", err, g)
				}
			})
		})
	}
}
