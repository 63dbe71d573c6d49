package retention_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/lull-backup/lull/agent/retention"
	"pgregory.net/rapid"
)

func at(t *testing.T, text string) time.Time {
	t.Helper()
	v, err := time.Parse("2006-01-02 15:04", text)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// TestDecide reads as a table: each point, oldest first, and what becomes of it.
func TestDecide(t *testing.T) {
	keep := retention.Keep{Last: 2, Daily: 3, Weekly: 2, Monthly: 2, Yearly: 2}
	table := []struct{ time, want string }{
		{"2024-12-30 01:30", "yearly 2024 (2 of 2)"}, // ISO week 1 of 2025, calendar year 2024
		{"2025-09-30 01:30", "-"},
		{"2025-10-31 01:30", "monthly 2025-10 (2 of 2)"},
		{"2025-11-14 01:30", "-"},
		{"2025-11-16 01:30", "weekly 2025-W46 (2 of 2)"}, // a Sunday
		{"2025-11-18 01:30", "-"},                        // no run on the 19th: the dailies reach further back
		{"2025-11-18 13:30", "daily 2025-11-18 (3 of 3)"},
		{"2025-11-20 01:30", "daily 2025-11-20 (2 of 3)"},
		{"2025-11-21 01:30", "last (2 of 2)"},
		{"2025-11-21 13:30", "last (1 of 2), daily 2025-11-21 (1 of 3), weekly 2025-W47 (1 of 2), monthly 2025-11 (1 of 2), yearly 2025 (1 of 2)"},
	}
	var times []time.Time
	for _, row := range table {
		times = append(times, at(t, row.time))
	}
	for i, d := range retention.Decide(keep, times, nil) {
		got := strings.Join(d.Reasons, ", ")
		if !d.Keep && got == "no rule wants it" {
			got = "-"
		}
		if diff := cmp.Diff(table[i].want, got); diff != "" || !d.Time.Equal(times[i]) {
			t.Errorf("%s: %s", table[i].time, diff)
		}
	}
}

func TestDecideFollowsTheCalendarOfTheLocation(t *testing.T) {
	auckland, err := time.LoadLocation("Pacific/Auckland")
	if err != nil {
		t.Fatalf("load time zone: %v (Debian package tzdata)", err)
	}
	// One day in UTC, two in Auckland.
	times := []time.Time{at(t, "2026-11-20 01:00"), at(t, "2026-11-20 23:00")}
	kept := func(loc *time.Location) (n int) {
		for _, d := range retention.Decide(retention.Keep{Daily: 5}, times, loc) {
			if d.Keep {
				n++
			}
		}
		return n
	}
	if utc, nz := kept(time.UTC), kept(auckland); utc != 1 || nz != 2 {
		t.Errorf("kept %d in UTC and %d in Auckland, want 1 and 2", utc, nz)
	}
}

func TestDecideWithoutRules(t *testing.T) {
	for _, d := range retention.Decide(retention.Keep{}, []time.Time{at(t, "2020-01-01 00:00"), at(t, "2021-01-01 00:00")}, nil) {
		if !d.Keep {
			t.Errorf("%v goes", d.Time)
		}
	}
	if got := retention.Decide(retention.Keep{Last: 1}, nil, nil); len(got) != 0 {
		t.Errorf("decisions about nothing: %v", got)
	}
}

func keeps(t *rapid.T) retention.Keep {
	n := rapid.IntRange(0, 6)
	return retention.Keep{Last: n.Draw(t, "last"), Daily: n.Draw(t, "daily"), Weekly: n.Draw(t, "weekly"), Monthly: n.Draw(t, "monthly"), Yearly: n.Draw(t, "yearly")}
}

func points(t *rapid.T) []time.Time {
	hours := rapid.SliceOfN(rapid.Int64Range(0, 3*365*24), 0, 80).Draw(t, "hours")
	times := make([]time.Time, len(hours))
	for i, h := range hours {
		times[i] = time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(h) * time.Hour)
	}
	return times
}

func stay(keep retention.Keep, times []time.Time) []time.Time {
	var out []time.Time
	for _, d := range retention.Decide(keep, times, time.UTC) {
		if d.Keep {
			out = append(out, d.Time)
		}
	}
	return out
}

func TestProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		keep, times := keeps(t), points(t)
		kept := stay(keep, times)
		if len(times) > 0 && !slices.ContainsFunc(kept, slices.MaxFunc(times, time.Time.Compare).Equal) {
			t.Error("the newest point goes")
		}
		if most := keep.Last + keep.Daily + keep.Weekly + keep.Monthly + keep.Yearly; !keep.IsZero() && len(kept) > max(most, 1) {
			t.Errorf("%d points stay by rules for %d", len(kept), most)
		}
		if diff := cmp.Diff(kept, stay(keep, kept)); diff != "" {
			t.Errorf("deciding again about what stayed: %s", diff)
		}
		more := keep
		more.Daily++
		more.Weekly += 2
		if keep.IsZero() {
			return
		}
		wider := stay(more, times)
		for _, k := range kept {
			if !slices.ContainsFunc(wider, k.Equal) {
				t.Errorf("%v stays, but not under larger rules", k)
			}
		}
	})
}

// TestOrderDoesNotMatter: the set that stays is the same however the points are
// listed.
func TestOrderDoesNotMatter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		keep, times := keeps(t), points(t)
		kept := stay(keep, times)
		other := stay(keep, rapid.Permutation(times).Draw(t, "order"))
		slices.SortFunc(kept, time.Time.Compare)
		slices.SortFunc(other, time.Time.Compare)
		if diff := cmp.Diff(kept, other); diff != "" {
			t.Error(diff)
		}
	})
}

// TestNightlyYears plays two years of nights, forgetting after each, and looks
// at what a user would find.
func TestNightlyYears(t *testing.T) {
	keep := retention.Keep{Last: 3, Daily: 14, Weekly: 8, Monthly: 12, Yearly: 5}
	var have []time.Time
	night := at(t, "2024-01-01 01:30")
	for range 731 {
		have = stay(keep, append(have, night))
		night = night.AddDate(0, 0, 1)
	}
	all := stay(keep, nightly(t, 731))
	if diff := cmp.Diff(all, have); diff != "" {
		t.Errorf("forgetting every night differs from forgetting once: %s", diff)
	}
}

func nightly(t *testing.T, n int) []time.Time {
	t.Helper()
	var out []time.Time
	for i := range n {
		out = append(out, at(t, "2024-01-01 01:30").AddDate(0, 0, i))
	}
	return out
}
