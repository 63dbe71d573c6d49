package retention

import (
	"fmt"
	"slices"
	"time"
)

// Keep is how many points each rule keeps; 0 is no such rule.
type Keep struct {
	Last    int `json:"last,omitempty"`
	Daily   int `json:"daily,omitempty"`
	Weekly  int `json:"weekly,omitempty"`
	Monthly int `json:"monthly,omitempty"`
	Yearly  int `json:"yearly,omitempty"`
}

// IsZero tells that there is no rule: everything stays.
func (k Keep) IsZero() bool { return k == Keep{} }

// Decision is what becomes of one point.
type Decision struct {
	Time time.Time
	Keep bool
	// Reasons names each rule that wants the point, such as "daily 2026-11-21
	// (3 of 14)"; for a point that goes, the one line that says why.
	Reasons []string
}

// Decide returns a decision for each time, at the same place. The times need no
// order. loc is the calendar's; nil is UTC.
func Decide(keep Keep, times []time.Time, loc *time.Location) []Decision {
	if loc == nil {
		loc = time.UTC
	}
	out := make([]Decision, len(times))
	for i, t := range times {
		out[i].Time = t
	}
	order := newestFirst(times)
	if keep.IsZero() {
		for i := range out {
			out[i].want("no rule: everything is kept")
		}
		return out
	}
	for _, r := range rules(keep) {
		r.mark(out, order, loc)
	}
	if len(order) > 0 && !out[order[0]].Keep {
		out[order[0]].want("the newest point always stays")
	}
	for i := range out {
		if !out[i].Keep {
			out[i].Reasons = []string{"no rule wants it"}
		}
	}
	return out
}

func (d *Decision) want(reason string) {
	d.Keep = true
	d.Reasons = append(d.Reasons, reason)
}

// newestFirst are the places of the times, the newest first; of equal times the
// later place is the newer.
func newestFirst(times []time.Time) []int {
	order := make([]int, len(times))
	for i := range order {
		order[i] = len(times) - 1 - i
	}
	slices.SortStableFunc(order, func(a, b int) int { return times[b].Compare(times[a]) })
	return order
}

// rule keeps the newest point of each of its n latest periods.
type rule struct {
	name   string
	n      int
	period func(t time.Time) string // empty: each point is a period of its own
}

func rules(k Keep) []rule {
	return []rule{
		{"last", k.Last, nil},
		{"daily", k.Daily, func(t time.Time) string { return t.Format("2006-01-02") }},
		{"weekly", k.Weekly, week},
		{"monthly", k.Monthly, func(t time.Time) string { return t.Format("2006-01") }},
		{"yearly", k.Yearly, func(t time.Time) string { return t.Format("2006") }},
	}
}

func week(t time.Time) string {
	y, w := t.ISOWeek()
	return fmt.Sprintf("%04d-W%02d", y, w)
}

func (r rule) mark(out []Decision, order []int, loc *time.Location) {
	seen, last := 0, ""
	for _, i := range order {
		if seen >= r.n {
			return
		}
		if r.period == nil {
			seen++
			out[i].want(fmt.Sprintf("%s (%d of %d)", r.name, seen, r.n))
			continue
		}
		p := r.period(out[i].Time.In(loc))
		if seen > 0 && p == last {
			continue
		}
		seen, last = seen+1, p
		out[i].want(fmt.Sprintf("%s %s (%d of %d)", r.name, p, seen, r.n))
	}
}
