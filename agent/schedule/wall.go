package schedule

import (
	"time"

	"github.com/robfig/cron/v3"
)

// A wall time is what clocks show, kept as that time in UTC, where no hour is
// missing or doubled.

// horizon: cron gives up five years after its start, too early for 29 February
// around the year 2100.
const horizon = 8

// nextOnWall searches the calendar after the wall time w.
func nextOnWall(s *cron.SpecSchedule, w time.Time) time.Time {
	for range horizon {
		if n := s.Next(w); !n.IsZero() {
			return n
		}
		w = w.AddDate(5, 0, 0)
	}
	return time.Time{}
}

// nextWall gives each wall time one instant.
func (s Schedule) nextWall(after time.Time) time.Time {
	w := wallOf(after, s.loc)
	for {
		w = nextOnWall(s.wall, w)
		if w.IsZero() {
			return w
		}
		// In the second pass of a doubled hour, the wall times found first
		// belong to the first pass: go on until past them.
		if real := s.instant(w); real.After(after) {
			return real
		}
	}
}

// nextElapsed gives every instant whose wall time matches its own run.
func (s Schedule) nextElapsed(after time.Time) time.Time {
	at := after.In(s.loc)
	for {
		w := nextOnWall(s.wall, wallOf(at, s.loc))
		if w.IsZero() {
			return w
		}
		_, offset := at.Zone()
		real := w.Add(-time.Duration(offset) * time.Second).In(s.loc)
		_, end := at.ZoneBounds()
		if end.IsZero() || real.Before(end) {
			return real
		}
		if first := end.In(s.loc); s.matches(first) {
			return first
		}
		at = end.In(s.loc)
	}
}

// matches tells whether the schedule runs at t exactly.
func (s Schedule) matches(t time.Time) bool {
	w := wallOf(t, s.loc)
	return s.wall.Next(w.Add(-time.Second)).Equal(w)
}

// instant lays a wall time onto the time line: its first occurrence, or the end
// of the gap that swallowed it.
func (s Schedule) instant(w time.Time) time.Time {
	// No zone is further than a day from UTC, nor jumps by more than a day.
	at := w.Add(-48 * time.Hour).In(s.loc)
	for {
		_, offset := at.Zone()
		start, end := at.ZoneBounds()
		real := w.Add(-time.Duration(offset) * time.Second)
		if !start.IsZero() && real.Before(start) {
			return start.In(s.loc)
		}
		if end.IsZero() || real.Before(end) {
			return real.In(s.loc)
		}
		at = end.In(s.loc)
	}
}

// wallOf is what a clock in loc shows at t.
func wallOf(t time.Time, loc *time.Location) time.Time {
	_, offset := t.In(loc).Zone()
	return t.UTC().Add(time.Duration(offset) * time.Second)
}

// hourly tells a schedule that runs in each of the 24 hours.
func hourly(s *cron.SpecSchedule) bool {
	const all = 1<<24 - 1
	return s.Hour&all == all
}
