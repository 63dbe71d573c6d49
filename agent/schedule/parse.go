package schedule

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/robfig/cron/v3"
)

const (
	maxText  = 256 // bytes
	minEvery = time.Second
	maxEvery = 366 * 24 * time.Hour
)

// Error is a schedule that cannot be read.
type Error struct {
	What    string // is wrong
	Instead string // what to write
}

func (e *Error) Error() string { return e.What + ": " + e.Instead }

func problem(format string, args ...any) *Error {
	return &Error{What: fmt.Sprintf(format, args...)}
}

func (e *Error) instead(format string, args ...any) *Error {
	e.Instead = fmt.Sprintf(format, args...)
	return e
}

// zone takes CRON_TZ=ZONE off the front. The parser of robfig/cron panics on a
// zone that nothing follows, and takes an empty one for UTC.
func (s *Schedule) zone(text string) (string, error) {
	rest, ok := strings.CutPrefix(text, "CRON_TZ=")
	if !ok {
		rest, ok = strings.CutPrefix(text, "TZ=")
	}
	if !ok {
		return text, nil
	}
	name, rest, _ := strings.Cut(rest, " ")
	if rest == "" {
		return "", problem("a time zone, but no time").instead(`write the five fields after it, such as "CRON_TZ=Europe/Berlin 30 1 * * *"`)
	}
	if name == "" {
		return "", problem("the time zone is empty").instead("name one, such as CRON_TZ=Europe/Berlin, or leave it out for this host's zone")
	}
	loc, err := time.LoadLocation(name)
	if err != nil {
		return "", problem("unknown time zone %q", name).instead("use a name of the zone database, such as Europe/Berlin or UTC (is the package tzdata installed?)")
	}
	s.loc = loc
	return rest, nil
}

func parseEvery(text string) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	switch {
	case err != nil:
		return 0, problem("@every %s is no duration", text).instead("write a number with its unit, such as @every 6h or @every 90m")
	case d < minEvery || d > maxEvery:
		return 0, problem("@every %s is out of range", text).instead("use 1s to 8784h")
	case d%time.Second != 0:
		return 0, problem("@every %s holds parts of a second", text).instead("use whole seconds")
	}
	return d, nil
}

// expand turns a descriptor into its fields.
func expand(text string) (string, error) {
	switch text {
	case "":
		return "", problem("the schedule is empty").instead(`write five fields, such as "30 1 * * *", or @daily`)
	case "@yearly", "@annually":
		return "0 0 1 1 *", nil
	case "@monthly":
		return "0 0 1 * *", nil
	case "@weekly":
		return "0 0 * * 0", nil
	case "@daily", "@midnight":
		return "0 0 * * *", nil
	case "@hourly":
		return "0 * * * *", nil
	}
	if strings.HasPrefix(text, "@") {
		return "", problem("unknown schedule %q", text).instead("use @hourly, @daily, @weekly, @monthly, @yearly, @every 6h, or five fields")
	}
	return text, nil
}

// parseFields checks the five fields and compiles them.
func parseFields(text string) (*cron.SpecSchedule, error) {
	words := strings.Fields(text)
	fields := fieldTable()
	if len(words) != len(fields) {
		return nil, problem("%d fields in %q, a schedule has 5", len(words), text).
			instead(`write minute, hour, day of month, month and day of week, such as "30 1 * * *"`)
	}
	for i, f := range fields {
		if err := f.check(words[i]); err != nil {
			return nil, err
		}
	}
	parsed, err := cron.ParseStandard(text)
	if err != nil {
		return nil, problem("%q cannot be read", text).instead("%v", err)
	}
	s, ok := parsed.(*cron.SpecSchedule)
	if !ok {
		return nil, problem("%q is no calendar schedule", text).instead("write five fields")
	}
	s.Location = time.UTC // the search runs on wall times
	if nextOnWall(s, time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)).IsZero() {
		return nil, problem("%q never comes: no such day in the calendar", text).instead("use a day that the month has")
	}
	return s, nil
}

// field is one of the five.
type field struct {
	name     string
	min, max int
	names    []string // of min, min+1, ...
}

func fieldTable() []field {
	return []field{
		{name: "minute", max: 59},
		{name: "hour", max: 23},
		{name: "day of month", min: 1, max: 31},
		{name: "month", min: 1, max: 12, names: []string{"jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"}},
		{name: "day of week", max: 6, names: []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}},
	}
}

// check refuses all but  item[,item]...  where item is  (*|?|N|N-M)[/STEP].
func (f field) check(text string) error {
	for item := range strings.SplitSeq(text, ",") {
		if err := f.checkItem(item); err != nil {
			return err
		}
	}
	return nil
}

func (f field) checkItem(item string) error {
	span, step, stepped := strings.Cut(item, "/")
	low, high := f.min, f.max
	if span != "*" && span != "?" {
		from, to, ranged := strings.Cut(span, "-")
		var err error
		if low, err = f.value(from); err != nil {
			return err
		}
		if !ranged {
			to = from
		}
		if high, err = f.value(to); err != nil {
			return err
		}
		if high < low {
			return problem("%s %q runs backwards", f.name, span).instead("write it as two, such as %d-%d,%d-%d", low, f.max, f.min, high)
		}
		if stepped && !ranged {
			high = f.max
		}
	}
	if !stepped {
		return nil
	}
	n, err := number(step)
	if err != nil || n < 1 {
		return problem("step %q of the %s is no number above 0", step, f.name).instead("write such as */%d", (f.max+1)/4)
	}
	if n > high-low {
		return problem("step %d of the %s never comes twice in %d-%d", n, f.name, low, high).instead("write %d alone, or a smaller step", low)
	}
	return nil
}

func (f field) value(text string) (int, error) {
	for i, name := range f.names {
		if strings.EqualFold(text, name) {
			return f.min + i, nil
		}
	}
	n, err := number(text)
	if err != nil {
		return 0, problem("%q is no %s", text, f.name).instead("use %s", f.allowed())
	}
	if n < f.min || n > f.max {
		return 0, problem("%s %d is out of range", f.name, n).instead("use %s", f.allowed())
	}
	return n, nil
}

func (f field) allowed() string {
	out := fmt.Sprintf("%d to %d", f.min, f.max)
	if len(f.names) > 0 {
		out += fmt.Sprintf(", or %s to %s", f.names[0], f.names[len(f.names)-1])
	}
	if f.name == "day of week" {
		out += " (Sunday is 0)"
	}
	return out
}

// number reads plain decimal digits; no sign, at most four.
func number(text string) (int, error) {
	if text == "" || len(text) > 4 || strings.Trim(text, "0123456789") != "" {
		return 0, strconv.ErrSyntax
	}
	return strconv.Atoi(text)
}
