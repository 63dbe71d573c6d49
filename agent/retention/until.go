package retention

import "time"

// Until returns, for each time, until when the rules are sure to keep that point, whatever
// points come later; the zero time where they are not. Sure is what is the newest of a
// period that is over: its place is taken when as many periods have begun as the rule
// keeps. The rule "last" is sure of nothing.
func Until(keep Keep, times []time.Time, loc *time.Location, now time.Time) []time.Time {
	if loc == nil {
		loc = time.UTC
	}
	out := make([]time.Time, len(times))
	order := newestFirst(times)
	for _, s := range spans(keep) {
		seen, last := 0, time.Time{}
		for _, i := range order {
			begin := s.begin(times[i].In(loc), 0)
			if begin.Equal(last) {
				continue
			}
			if seen++; seen > s.n {
				break
			}
			last = begin
			over := !s.begin(begin, 1).After(now)
			if end := s.begin(begin, s.n); over && end.After(out[i]) {
				out[i] = end
			}
		}
	}
	return out
}

// span is a rule by its calendar: begin is when the period of a time begins, or the one so
// many periods later.
type span struct {
	n     int
	begin func(t time.Time, later int) time.Time
}

func spans(k Keep) []span {
	date := func(t time.Time, y, m, d int) time.Time {
		return time.Date(y, time.Month(m), d, 0, 0, 0, 0, t.Location())
	}
	return []span{
		{k.Daily, func(t time.Time, n int) time.Time { return date(t, t.Year(), int(t.Month()), t.Day()+n) }},
		{k.Weekly, func(t time.Time, n int) time.Time {
			sinceMonday := (int(t.Weekday()) + 6) % 7
			return date(t, t.Year(), int(t.Month()), t.Day()-sinceMonday+7*n)
		}},
		{k.Monthly, func(t time.Time, n int) time.Time { return date(t, t.Year(), int(t.Month())+n, 1) }},
		{k.Yearly, func(t time.Time, n int) time.Time { return date(t, t.Year()+n, 1, 1) }},
	}
}
