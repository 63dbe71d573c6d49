package schedule

import (
	"strings"
	"time"

	"github.com/robfig/cron/v3"
)

// Schedule says when something runs. The zero Schedule never does.
type Schedule struct {
	text  string
	loc   *time.Location
	wall  *cron.SpecSchedule // nil with @every
	every time.Duration      // 0 with fields
}

// Parse reads a schedule. local is the zone of schedules that name none; nil is
// UTC. Errors are *Error and say what to write instead.
func Parse(text string, local *time.Location) (Schedule, error) {
	if local == nil {
		local = time.UTC
	}
	s := Schedule{text: strings.Join(strings.Fields(text), " "), loc: local}
	if len(text) > maxText {
		return Schedule{}, problem("schedule of %d bytes", len(text)).instead("at most %d", maxText)
	}
	rest, err := s.zone(s.text)
	if err != nil {
		return Schedule{}, err
	}
	if d, ok := strings.CutPrefix(rest, "@every"); ok {
		s.every, err = parseEvery(strings.TrimSpace(d))
		return s.orZero(err)
	}
	fields, err := expand(rest)
	if err != nil {
		return Schedule{}, err
	}
	s.wall, err = parseFields(fields)
	return s.orZero(err)
}

func (s Schedule) orZero(err error) (Schedule, error) {
	if err != nil {
		return Schedule{}, err
	}
	return s, nil
}

// String is the text that was parsed, its blanks made single.
func (s Schedule) String() string { return s.text }

// IsZero tells the schedule that never runs.
func (s Schedule) IsZero() bool { return s.wall == nil && s.every == 0 }

// Equal compares text and zone, for go-cmp too.
func (s Schedule) Equal(o Schedule) bool {
	return s.text == o.text && s.loc.String() == o.loc.String()
}

// Next is the first time strictly after t, in the schedule's zone, on a whole
// second; the zero Time when there is none within the next 40 years.
func (s Schedule) Next(t time.Time) time.Time {
	switch {
	case s.IsZero():
		return time.Time{}
	case s.every > 0:
		return nextMultiple(t, s.every).In(s.loc)
	case hourly(s.wall):
		return s.nextElapsed(t)
	default:
		return s.nextWall(t)
	}
}

// Missed says whether a run was due after last and not later than now, and when
// the first such was. However many were missed, the caller makes up for them
// with one run. Nothing is missed by what never ran: the zero last.
func (s Schedule) Missed(last, now time.Time) (time.Time, bool) {
	if last.IsZero() {
		return time.Time{}, false
	}
	due := s.Next(last)
	if due.IsZero() || due.After(now) {
		return time.Time{}, false
	}
	return due, true
}

// nextMultiple is the first multiple of d since 1970-01-01 00:00 UTC after t.
// Whole seconds, because Unix nanoseconds end in the year 2262.
func nextMultiple(t time.Time, d time.Duration) time.Time {
	step := int64(d / time.Second)
	n := t.Unix() / step
	if t.Unix()%step < 0 {
		n--
	}
	return time.Unix((n+1)*step, 0)
}
