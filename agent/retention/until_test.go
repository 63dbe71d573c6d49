package retention_test

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/lull-backup/lull/agent/retention"
)

// TestUntil reads as a table: each point, oldest first, and until when it is sure to stay.
func TestUntil(t *testing.T) {
	keep := retention.Keep{Last: 9, Daily: 3, Weekly: 2, Monthly: 2, Yearly: 2}
	table := []struct{ time, want string }{
		{"2024-12-31 13:30", "2026-01-01 00:00"}, // the newest of 2024
		{"2025-10-30 01:30", ""},
		{"2025-10-31 01:30", "2025-12-01 00:00"}, // the newest of October
		{"2025-11-16 01:30", "2025-11-24 00:00"}, // a Sunday: the newest of its week
		{"2025-11-20 01:30", ""},                 // not the newest of its day
		{"2025-11-20 13:30", "2025-11-23 00:00"},
		{"2025-11-21 01:30", ""}, // today is not over
	}
	var times []time.Time
	for _, row := range table {
		times = append(times, at(t, row.time))
	}
	for i, got := range retention.Until(keep, times, nil, at(t, "2025-11-21 12:00")) {
		want := time.Time{}
		if table[i].want != "" {
			want = at(t, table[i].want)
		}
		if !got.Equal(want) {
			t.Errorf("%s: until %v, want %v", table[i].time, got, want)
		}
	}
}

// Until that time no rule lets a point go, however many points come.
func TestUntilIsKept(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		keep := retention.Keep{
			Daily: rapid.IntRange(0, 4).Draw(t, "daily"), Weekly: rapid.IntRange(0, 3).Draw(t, "weekly"),
			Monthly: rapid.IntRange(0, 3).Draw(t, "monthly"), Yearly: rapid.IntRange(0, 2).Draw(t, "yearly"),
		}
		start := time.Date(2024, 2, 27, 0, 0, 0, 0, time.UTC)
		var points []time.Time
		sure := map[time.Time]time.Time{}
		now := start
		for range rapid.IntRange(1, 60).Draw(t, "points") {
			now = now.Add(time.Duration(rapid.IntRange(1, 24*20).Draw(t, "hours")) * time.Hour)
			points = append(points, now)
			var left []time.Time
			for _, d := range retention.Decide(keep, points, nil) {
				if d.Keep {
					left = append(left, d.Time)
				} else if now.Before(sure[d.Time]) {
					t.Fatalf("%v goes at %v, and was to stay until %v", d.Time, now, sure[d.Time])
				}
			}
			points = left
			for i, until := range retention.Until(keep, points, nil, now) {
				sure[points[i]] = until
			}
		}
	})
}
