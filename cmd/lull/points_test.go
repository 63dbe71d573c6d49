package main

import (
	"testing"
	"time"

	"github.com/lull-backup/lull/transport/repo"
)

func TestChoosePoint(t *testing.T) {
	at := func(id string, year, month, day, hour int) repo.Point {
		return repo.Point{ID: id, VM: "lab/web", Frozen: time.Date(year, time.Month(month), day, hour, 30, 0, 0, time.Local)}
	}
	points := []repo.Point{
		at("20261119T013000Z-11111111", 2026, 11, 19, 1),
		at("20261120T013000Z-22222222", 2026, 11, 20, 1),
		at("20261120T133000Z-33333333", 2026, 11, 20, 13),
		at("20261121T013000Z-44444444", 2026, 11, 21, 1),
	}
	for _, c := range []struct {
		which, want string
		code        int
	}{
		{"", "20261121T013000Z-44444444", 0},
		{"latest", "20261121T013000Z-44444444", 0},
		{"20261119T013000Z-11111111", "20261119T013000Z-11111111", 0},
		{"20261119", "20261119T013000Z-11111111", 0},
		{"20261120", "", exitUsage}, // two ids begin so
		{"20261120T13", "20261120T133000Z-33333333", 0},
		{"2026-11-20", "20261120T133000Z-33333333", 0}, // the last of that day
		{"2026-11-20 01", "20261120T013000Z-22222222", 0},
		{"2026-11-20T01:30", "20261120T013000Z-22222222", 0},
		{"2026-", "20261121T013000Z-44444444", 0},
		{"2027-01-01", "", exitNotFound},
		{"9", "", exitNotFound},
		{"Latest", "", exitNotFound},
	} {
		t.Run(c.which, func(t *testing.T) {
			got, err := choosePoint(points, c.which)
			if exitCode(err) != c.code || got.ID != c.want {
				t.Errorf("choosePoint(%q) = %q, %v; want %q and exit code %d", c.which, got.ID, err, c.want, c.code)
			}
		})
	}
}

// TestChoosePointElsewhere: a Z or an offset at the end says where the time is meant,
// wherever the reader sits.
func TestChoosePointElsewhere(t *testing.T) {
	east := time.FixedZone("east", 9*3600)
	points := []repo.Point{
		{ID: "a", VM: "my web", Frozen: time.Date(2026, 11, 20, 1, 30, 0, 0, east)},
		{ID: "b", VM: "my web", Frozen: time.Date(2026, 11, 20, 10, 30, 0, 0, east)},
		{ID: "c", VM: "my web", Frozen: time.Date(2026, 11, 21, 10, 30, 0, 0, east)},
	}
	for which, want := range map[string]string{
		"2026-11-19T16:30Z": "a", "2026-11-19Z": "a", "2026-11-20Z": "b",
		"2026-11-20T01:30+09:00": "a", "2026-11-20+09:00": "b", "2026-11-19-03:30": "b", "2026-11-19 13:00-03:30": "a",
		"2026-11-20 02+01:00": "b", "2026-11-21 10:30:00+09:00": "c",
	} {
		if got, err := choosePoint(points, which); err != nil || got.ID != want {
			t.Errorf("choosePoint(%q) = %q, %v; want %q", which, got.ID, err, want)
		}
	}
	if _, err := choosePoint(points, "2026-11-20 01:30+99:00"); exitCode(err) != exitUsage {
		t.Errorf("an impossible offset: %v", err)
	}
	if _, err := choosePoint(points, "2027-01-01+01:00"); hintOf(err) != "see `lull points 'my web'`" {
		t.Errorf("the hint is %q", hintOf(err))
	}
}
