package schedule_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/lull-backup/lull/agent/schedule"
)

func zone(t *testing.T, name string) *time.Location {
	t.Helper()
	loc, err := time.LoadLocation(name)
	if err != nil {
		t.Fatalf("load time zone: %v (Debian package tzdata)", err)
	}
	return loc
}

func parse(t *testing.T, text string, loc *time.Location) schedule.Schedule {
	t.Helper()
	s, err := schedule.Parse(text, loc)
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return s
}

// runs lists the n next times in the schedule's zone.
func runs(s schedule.Schedule, after time.Time, n int) []string {
	var out []string
	for range n {
		after = s.Next(after)
		out = append(out, after.Format("2006-01-02 15:04:05 -0700"))
	}
	return out
}

func TestNext(t *testing.T) {
	from := time.Date(2026, 11, 21, 22, 0, 0, 500, time.UTC) // a Saturday
	for text, want := range map[string][]string{
		"30 1 * * *":                        {"2026-11-22 01:30:00 +0000", "2026-11-23 01:30:00 +0000"},
		"  30   1 *\t* *  ":                 {"2026-11-22 01:30:00 +0000"},
		"0 22 * * *":                        {"2026-11-22 22:00:00 +0000"},
		"CRON_TZ=Europe/Berlin 30 1 * * *":  {"2026-11-22 01:30:00 +0100"},
		"TZ=America/New_York 30 1 * * *":    {"2026-11-22 01:30:00 -0500"},
		"CRON_TZ=Asia/Kolkata @daily":       {"2026-11-23 00:00:00 +0530"},
		"@hourly":                           {"2026-11-21 23:00:00 +0000", "2026-11-22 00:00:00 +0000"},
		"@midnight":                         {"2026-11-22 00:00:00 +0000"},
		"@weekly":                           {"2026-11-22 00:00:00 +0000", "2026-11-29 00:00:00 +0000"},
		"@monthly":                          {"2026-12-01 00:00:00 +0000"},
		"@yearly":                           {"2027-01-01 00:00:00 +0000", "2028-01-01 00:00:00 +0000"},
		"*/20 1-2 * * mon-FRI":              {"2026-11-23 01:00:00 +0000", "2026-11-23 01:20:00 +0000"},
		"0 3 1,15 * sun":                    {"2026-11-22 03:00:00 +0000", "2026-11-29 03:00:00 +0000", "2026-12-01 03:00:00 +0000"},
		"0 0 29 2 *":                        {"2028-02-29 00:00:00 +0000", "2032-02-29 00:00:00 +0000"},
		"@every 6h":                         {"2026-11-22 00:00:00 +0000", "2026-11-22 06:00:00 +0000"},
		"CRON_TZ=Asia/Kathmandu @every 90m": {"2026-11-22 04:15:00 +0545"},
	} {
		if diff := cmp.Diff(want, runs(parse(t, text, time.UTC), from, len(want))); diff != "" {
			t.Errorf("%s: %s", text, diff)
		}
	}
}

func TestNextLeapDayAround2100(t *testing.T) {
	s := parse(t, "0 0 29 2 *", time.UTC)
	got := s.Next(time.Date(2096, 3, 1, 0, 0, 0, 0, time.UTC))
	if want := time.Date(2104, 2, 29, 0, 0, 0, 0, time.UTC); !got.Equal(want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// TestClockChanges is the stated policy, over zones that change at night, at
// midnight, by half an hour, by a day, and in the south.
func TestClockChanges(t *testing.T) {
	for _, c := range []struct {
		name, zone, text string
		from             string // wall time in the zone
		want             []string
	}{
		{"gap: right after it", "Europe/Berlin", "30 2 * * *", "2026-03-28 12:00",
			[]string{"2026-03-29 03:00:00 +0200", "2026-03-30 02:30:00 +0200"}},
		{"gap: several run once", "Europe/Berlin", "*/10 2 * * *", "2026-03-28 12:00",
			[]string{"2026-03-29 03:00:00 +0200", "2026-03-30 02:00:00 +0200"}},
		{"gap: its end is due by itself", "Europe/Berlin", "0,30 2,3 * * *", "2026-03-29 00:00",
			[]string{"2026-03-29 03:00:00 +0200", "2026-03-29 03:30:00 +0200"}},
		{"autumn: once", "Europe/Berlin", "30 2 * * *", "2026-10-24 12:00",
			[]string{"2026-10-25 02:30:00 +0200", "2026-10-26 02:30:00 +0100"}},
		{"autumn: several, each once", "Europe/Berlin", "0,30 2-3 * * *", "2026-10-25 00:00",
			[]string{"2026-10-25 02:00:00 +0200", "2026-10-25 02:30:00 +0200", "2026-10-25 03:00:00 +0100"}},
		{"every hour follows elapsed time in autumn", "Europe/Berlin", "30 * * * *", "2026-10-25 01:00",
			[]string{"2026-10-25 01:30:00 +0200", "2026-10-25 02:30:00 +0200", "2026-10-25 02:30:00 +0100", "2026-10-25 03:30:00 +0100"}},
		{"every hour follows elapsed time in spring", "Europe/Berlin", "30 * * * *", "2026-03-29 01:00",
			[]string{"2026-03-29 01:30:00 +0100", "2026-03-29 03:30:00 +0200"}},
		{"the first instant after the gap is due itself", "Europe/Berlin", "@hourly", "2026-03-29 00:30",
			[]string{"2026-03-29 01:00:00 +0100", "2026-03-29 03:00:00 +0200", "2026-03-29 04:00:00 +0200"}},
		{"the first instant of the doubled hour", "Europe/Berlin", "@hourly", "2026-10-25 01:30",
			[]string{"2026-10-25 02:00:00 +0200", "2026-10-25 02:00:00 +0100", "2026-10-25 03:00:00 +0100"}},
		{"midnight does not exist", "America/Santiago", "@daily", "2026-09-05 12:00",
			[]string{"2026-09-06 01:00:00 -0300", "2026-09-07 00:00:00 -0300"}},
		{"midnight comes twice", "America/Havana", "@daily", "2026-10-31 12:00",
			[]string{"2026-11-01 00:00:00 -0400", "2026-11-02 00:00:00 -0500"}},
		{"half an hour", "Australia/Lord_Howe", "15 2 * * *", "2026-10-03 12:00",
			[]string{"2026-10-04 02:30:00 +1100", "2026-10-05 02:15:00 +1100"}},
		{"half an hour back", "Australia/Lord_Howe", "45 1 * * *", "2026-04-04 12:00",
			[]string{"2026-04-05 01:45:00 +1100", "2026-04-06 01:45:00 +1030"}},
		{"a day that never was", "Pacific/Apia", "0 12 * * *", "2011-12-29 13:00",
			[]string{"2011-12-31 00:00:00 +1400", "2011-12-31 12:00:00 +1400"}},
		{"in the south", "Pacific/Auckland", "30 2 * * *", "2026-09-26 12:00",
			[]string{"2026-09-27 03:00:00 +1300", "2026-09-28 02:30:00 +1300"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			loc := zone(t, c.zone)
			from, err := time.ParseInLocation("2006-01-02 15:04", c.from, loc)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, runs(parse(t, c.text, loc), from, len(c.want))); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestNightlyRunsOnceANight walks two years in zones of every kind: one run a
// calendar day, whatever the clocks do.
func TestNightlyRunsOnceANight(t *testing.T) {
	for _, name := range []string{"UTC", "Europe/Berlin", "America/New_York", "America/Santiago", "Australia/Lord_Howe", "Asia/Tehran", "Africa/Casablanca", "Pacific/Auckland", "Africa/Cairo"} {
		loc := zone(t, name)
		for _, text := range []string{"30 1 * * *", "0 0 * * *", "30 2 * * *", "15 3 * * *", "59 23 * * *"} {
			s := parse(t, text, loc)
			at := time.Date(2025, 1, 1, 0, 0, 0, 0, loc).Add(-time.Second)
			seen := make(map[string]bool)
			for at = s.Next(at); at.In(loc).Year() < 2027; at = s.Next(at) {
				day := at.In(loc).Format(time.DateOnly)
				if seen[day] {
					t.Fatalf("%s in %s runs twice on %s", text, name, day)
				}
				seen[day] = true
			}
			if len(seen) != 730 {
				t.Errorf("%s in %s runs on %d of 730 days", text, name, len(seen))
			}
		}
	}
}

func TestMissed(t *testing.T) {
	s := parse(t, "30 1 * * *", time.UTC)
	now := time.Date(2026, 11, 21, 9, 0, 0, 0, time.UTC)
	for name, c := range map[string]struct {
		last time.Time
		want string
	}{
		"never ran":     {time.Time{}, ""},
		"ran tonight":   {time.Date(2026, 11, 21, 1, 30, 4, 0, time.UTC), ""},
		"off tonight":   {time.Date(2026, 11, 20, 1, 30, 4, 0, time.UTC), "2026-11-21T01:30:00Z"},
		"off all month": {time.Date(2026, 10, 20, 1, 30, 4, 0, time.UTC), "2026-10-21T01:30:00Z"},
		"the future":    {time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC), ""},
	} {
		due, missed := s.Missed(c.last, now)
		got := ""
		if missed {
			got = due.Format(time.RFC3339)
		}
		if got != c.want {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
	}
	if _, missed := (schedule.Schedule{}).Missed(now.Add(-time.Hour), now); missed {
		t.Error("the zero schedule missed a run")
	}
	if _, missed := s.Missed(now.Add(-30*24*time.Hour), time.Date(2026, 10, 22, 1, 29, 59, 0, time.UTC)); missed {
		t.Error("a run is missed before it is due")
	}
}

func TestParseRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"":                       `the schedule is empty: write five fields, such as "30 1 * * *", or @daily`,
		"   ":                    `the schedule is empty: write five fields, such as "30 1 * * *", or @daily`,
		"TZ=":                    `a time zone, but no time: write the five fields after it, such as "CRON_TZ=Europe/Berlin 30 1 * * *"`,
		"TZ=0":                   `a time zone, but no time: write the five fields after it, such as "CRON_TZ=Europe/Berlin 30 1 * * *"`,
		"CRON_TZ=UTC":            `a time zone, but no time: write the five fields after it, such as "CRON_TZ=Europe/Berlin 30 1 * * *"`,
		"CRON_TZ= 1 1 * * *":     `the time zone is empty: name one, such as CRON_TZ=Europe/Berlin, or leave it out for this host's zone`,
		"TZ=Mars 1 1 * * *":      `unknown time zone "Mars": use a name of the zone database, such as Europe/Berlin or UTC (is the package tzdata installed?)`,
		"TZ=../../x 1 1 * * *":   `unknown time zone "../../x": use a name of the zone database, such as Europe/Berlin or UTC (is the package tzdata installed?)`,
		"@every 0s":              `@every 0s is out of range: use 1s to 8784h`,
		"@every -5m":             `@every -5m is out of range: use 1s to 8784h`,
		"@every":                 `@every  is no duration: write a number with its unit, such as @every 6h or @every 90m`,
		"@every 90":              `@every 90 is no duration: write a number with its unit, such as @every 6h or @every 90m`,
		"@every 61.5s":           `@every 61.5s holds parts of a second: use whole seconds`,
		"@everyday":              `@every day is no duration: write a number with its unit, such as @every 6h or @every 90m`,
		"@reboot":                `unknown schedule "@reboot": use @hourly, @daily, @weekly, @monthly, @yearly, @every 6h, or five fields`,
		"0 30 1 * * *":           `6 fields in "0 30 1 * * *", a schedule has 5: write minute, hour, day of month, month and day of week, such as "30 1 * * *"`,
		"30 1 * *":               `4 fields in "30 1 * *", a schedule has 5: write minute, hour, day of month, month and day of week, such as "30 1 * * *"`,
		"60 1 * * *":             `minute 60 is out of range: use 0 to 59`,
		"0 24 * * *":             `hour 24 is out of range: use 0 to 23`,
		"0 0 0 * *":              `day of month 0 is out of range: use 1 to 31`,
		"0 0 * foo *":            `"foo" is no month: use 1 to 12, or jan to dec`,
		"0 0 * * 7":              `day of week 7 is out of range: use 0 to 6, or sun to sat (Sunday is 0)`,
		"5-1 * * * *":            `minute "5-1" runs backwards: write it as two, such as 5-59,0-1`,
		"*/0 * * * *":            `step "0" of the minute is no number above 0: write such as */15`,
		"*/x * * * *":            `step "x" of the minute is no number above 0: write such as */15`,
		"*/90 * * * *":           `step 90 of the minute never comes twice in 0-59: write 0 alone, or a smaller step`,
		"1,,2 * * * *":           `"" is no minute: use 0 to 59`,
		", * * * *":              `"" is no minute: use 0 to 59`,
		"-1 * * * *":             `"" is no minute: use 0 to 59`,
		"+1 * * * *":             `"+1" is no minute: use 0 to 59`,
		"1-2-3 * * * *":          `"2-3" is no minute: use 0 to 59`,
		"99999999999 * * * *":    `"99999999999" is no minute: use 0 to 59`,
		"0 0 30 2 *":             `"0 0 30 2 *" never comes: no such day in the calendar: use a day that the month has`,
		"0 0 31 4,6,9,11 *":      `"0 0 31 4,6,9,11 *" never comes: no such day in the calendar: use a day that the month has`,
		strings.Repeat("*", 999): `schedule of 999 bytes: at most 256`,
	} {
		s, err := schedule.Parse(text, time.UTC)
		var bad *schedule.Error
		if !errors.As(err, &bad) || err.Error() != want {
			t.Errorf("%q:\n got %v\nwant %s", text, err, want)
		}
		if !s.IsZero() {
			t.Errorf("%q: a schedule beside the error", text)
		}
	}
}

func TestZeroNeverRuns(t *testing.T) {
	if got := (schedule.Schedule{}).Next(time.Unix(0, 0)); !got.IsZero() {
		t.Errorf("got %v", got)
	}
}

func TestJitter(t *testing.T) {
	const most = 10 * time.Minute
	day := time.Date(2026, 11, 21, 1, 30, 0, 0, time.UTC)
	if a, b := schedule.Jitter("web", day, most), schedule.Jitter("web", day.Add(5*time.Hour), most); a != b {
		t.Errorf("two delays on one day: %s, %s", a, b)
	}
	names, days, early := make(map[time.Duration]bool), make(map[time.Duration]bool), 0
	for i := range 1000 {
		j := schedule.Jitter(strings.Repeat("x", i), day, most)
		if j < 0 || j >= most || j%time.Second != 0 {
			t.Fatalf("delay of %s", j)
		}
		if j < most/2 {
			early++
		}
		names[j] = true
		days[schedule.Jitter("web", day.AddDate(0, 0, i), most)] = true
	}
	if len(names) < 300 || len(days) < 300 || early < 400 || early > 600 {
		t.Errorf("not spread: %d delays by name, %d by day, %d of 1000 in the first half", len(names), len(days), early)
	}
	for _, none := range []time.Duration{0, -time.Hour, time.Millisecond} {
		if j := schedule.Jitter("web", day, none); j != 0 {
			t.Errorf("delay of %s within %s", j, none)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"30 1 * * *", "CRON_TZ=Europe/Berlin 30 1 * * *", "@daily", "@every 6h", "TZ=", "TZ=0", "CRON_TZ=UTC", "@every 0s", "0 0 30 2 *", "*/7 1-5 1,2 jan mon-fri", "? ? ? ? ?", "5/3 * * * *"} {
		f.Add(s, int64(1792900000))
	}
	f.Fuzz(func(t *testing.T, text string, at int64) {
		s, err := schedule.Parse(text, time.UTC)
		if err != nil {
			var bad *schedule.Error
			if !errors.As(err, &bad) || bad.What == "" || bad.Instead == "" {
				t.Errorf("%q: error %v", text, err)
			}
			return
		}
		const year2200 = 7_258_118_400
		from := time.Unix(at%year2200, 0)
		first := s.Next(from)
		if !first.After(from) {
			t.Fatalf("%q: next after %v is %v", text, from, first)
		}
		if again := s.Next(first.Add(-time.Second)); !again.Equal(first) {
			t.Errorf("%q: %v, but %v when asked a second before", text, first, again)
		}
		twice, err := schedule.Parse(s.String(), time.UTC)
		if err != nil || !twice.Equal(s) {
			t.Errorf("%q reads back as %q: %v", text, twice, err)
		}
	})
}
