package quiesce_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"pgregory.net/rapid"

	"github.com/lull-backup/lull/quiesce"
	"github.com/lull-backup/lull/snapshot"
)

// savedTrial is how one drawn host saves the memory of its guest.
type savedTrial struct {
	refuse error         // of Check
	hangs  time.Duration // Check does, whatever its context says
	stands time.Duration // until the guest goes on
	writes time.Duration // from then on
	deaf   bool          // to the end of its context
	silent bool          // about the guest going on
	panics bool
	err    error
	guards []*guard

	takes  atomic.Int32
	answer atomic.Pointer[savedAnswer]
	told   *savedAnswer // when Do returned; nil: none by then
}

// savedAnswer is what Take has ended with.
type savedAnswer struct{ err error }

// drawSaved draws one. Most of it goes well, else few trials get as far as Take.
func drawSaved(t *rapid.T, tr *trial) *savedTrial {
	one := func(of int, label string) bool { return rapid.IntRange(0, of).Draw(t, label) == 0 }
	s := &savedTrial{deaf: one(3, "save is deaf"), silent: one(3, "save is silent"), panics: one(7, "save panics")}
	if one(5, "cannot save") {
		s.refuse = errors.New("cannot save")
	}
	if one(7, "check hangs") {
		s.hangs = time.Hour
	}
	seconds := rapid.SampledFrom([]time.Duration{0, 20 * time.Millisecond, 3 * time.Second, 9 * time.Second, time.Minute, time.Hour})
	s.stands, s.writes = seconds.Draw(t, "stands"), seconds.Draw(t, "writes")
	s.err = rapid.SampledFrom([]error{nil, nil, snapshot.ErrNotSaved, snapshot.ErrNotTaken, errors.New("not resumed")}).Draw(t, "save ends")
	for range rapid.IntRange(0, 2).Draw(t, "guards of the save") {
		g := &guard{trial: tr}
		if one(7, "guard of the save fails") {
			g.err = errors.New("guard does not arm")
		}
		s.guards = append(s.guards, g)
	}
	return s
}

func (s *savedTrial) saved() *quiesce.Saved {
	saved := &quiesce.Saved{Take: s.take, Check: func(context.Context) error {
		time.Sleep(s.hangs) // of the bubble
		return s.refuse
	}}
	for _, g := range s.guards {
		saved.Guards = append(saved.Guards, g)
	}
	return saved
}

func (s *savedTrial) take(ctx context.Context, goesOn func()) (err error) {
	s.takes.Add(1)
	defer func() {
		p := recover()
		if p != nil {
			err = errors.New("panicked")
		}
		s.answer.Store(&savedAnswer{err})
		if p != nil {
			panic(p)
		}
	}()
	if err := s.pass(ctx, s.stands); err != nil {
		return err
	}
	if s.panics {
		panic("ouch")
	}
	if !s.silent {
		goesOn()
		goesOn() // once more is harmless
	}
	if err := s.pass(ctx, s.writes); err != nil {
		return err
	}
	return s.err
}

// pass lets time pass. One that hears its context end lets the guest go on, with its disks frozen.
func (s *savedTrial) pass(ctx context.Context, d time.Duration) error {
	if s.deaf {
		time.Sleep(d) // of the bubble
		return nil
	}
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", snapshot.ErrNotSaved, context.Cause(ctx))
	}
}

// check: the memory is saved once at most; where it is not known that the guest goes on the
// guards are told so, and nothing else is taken; and the level is what came of it.
func (s *savedTrial) check(tr *trial, held *quiesce.Held, err error) (broken []string) {
	for _, g := range s.guards {
		if g.armed != g.disarmed {
			broken = append(broken, "a guard of the save was armed and disarmed a different number of times")
		}
		if g.armed == 0 && s.takes.Load() > 0 {
			broken = append(broken, "the guest was stopped without its guards")
		}
	}
	if s.takes.Load() == 0 {
		if held != nil && held.Report().Level == quiesce.LevelSavedState {
			broken = append(broken, "level saved-state without a save")
		}
		return broken
	}
	if s.takes.Load() > 1 {
		broken = append(broken, "saved twice")
	}
	a := s.told
	notTaken := a != nil && errors.Is(a.err, snapshot.ErrNotTaken)
	if proven := a != nil && (a.err == nil || notTaken || errors.Is(a.err, snapshot.ErrNotSaved)); !proven {
		if err == nil || held != nil {
			broken = append(broken, "a guest that may stand still, and no error")
		}
		for _, g := range s.guards {
			if g.thawed {
				broken = append(broken, "a guard was sent away from a guest that may stand still")
			}
		}
	} else if tr.takes > 0 && !notTaken {
		broken = append(broken, "a second snapshot was taken")
	}
	return append(broken, s.checkLevel(a, notTaken, held)...)
}

func (s *savedTrial) checkLevel(a *savedAnswer, notTaken bool, held *quiesce.Held) []string {
	if held == nil || a == nil {
		return nil
	}
	want := quiesce.LevelCrash // notTaken: of the snapshot after that
	if a.err == nil {
		want = quiesce.LevelSavedState
	}
	if level := held.Report().Level; level != want {
		return []string{fmt.Sprintf("level %v after a save that ended with %v (nothing taken: %v)", level, a.err, notTaken)}
	}
	return nil
}
