package agent_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lull-backup/lull/agent"
	"github.com/lull-backup/lull/agent/retention"
	"github.com/lull-backup/lull/transport/repo"
)

// A key that is not the host's makes a point for each day, a little later than the host's
// own: no rule forgets one of the host's for them, nor one of them for the host's.
func TestRulesCountEachKeyOnItsOwn(t *testing.T) {
	var points []repo.Point
	day := time.Date(2026, 11, 1, 1, 30, 0, 0, time.UTC)
	for i := range 20 {
		at := day.AddDate(0, 0, i)
		points = append(points,
			repo.Point{VM: vmName, ID: fmt.Sprintf("own%d", i), SignedBy: "host", Frozen: at},
			repo.Point{VM: vmName, ID: fmt.Sprintf("evil%d", i), SignedBy: "evil", Frozen: at.Add(time.Hour)})
	}
	want := map[string]int{"host": 7, "evil": 7}
	for _, keep := range []retention.Keep{{Last: 7}, {Daily: 7}, {Last: 3, Daily: 7}} {
		kept := map[string]int{}
		for i, v := range agent.Judge(keep, points, nil, time.UTC) {
			if v.Point.ID != points[i].ID {
				t.Fatalf("verdict %d is of %s, want %s", i, v.Point.ID, points[i].ID)
			}
			if v.Keep {
				kept[v.Point.SignedBy]++
			}
			if own := "counted with those of key " + v.Point.SignedBy; !strings.Contains(strings.Join(v.Reasons, ", "), own) {
				t.Errorf("%s: %q do not say whose points count", v.Point.ID, v.Reasons)
			}
		}
		if fmt.Sprint(kept) != fmt.Sprint(want) {
			t.Errorf("%+v keeps %v, want %v", keep, kept, want)
		}
	}
}

// Locks follow the rules of each key's points on their own: that of yesterday for as many
// days as there are dailies, the newest from now on.
func TestLocksFollowTheRules(t *testing.T) {
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	day := func(d, hour int) time.Time { return time.Date(2026, 11, d, hour, 0, 0, 0, time.UTC) }
	points := []repo.Point{
		{VM: vmName, SignedBy: "host", Frozen: day(19, 1)},
		{VM: vmName, SignedBy: "host", Frozen: day(20, 1)},
		{VM: vmName, SignedBy: "evil", Frozen: day(20, 2)},
		{VM: vmName, SignedBy: "host", Frozen: day(21, 1)},
	}
	want := []time.Time{day(22, 0), day(23, 0), day(24, 12), day(24, 12)}
	for i, got := range agent.LockUntil(retention.Keep{Daily: 3}, points, time.UTC, now, 72*time.Hour) {
		if !got.Equal(want[i]) {
			t.Errorf("point %d: until %v, want %v", i, got, want[i])
		}
	}
}

// A point of another key gets a warning into the next run, and into the log as long as it
// is there; the host's own points stay as many as the rules say.
func TestDaemonWarnsOfPointsOfAnotherKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		owner := w.repo
		w.serve(3, retention.Keep{Last: 3})
		before := w.pointIDs()
		w.as(repo.RoleBackup)
		for range 4 {
			s, err := w.repo.Begin(t.Context(), vmName, time.Now())
			must(t, err)
			_, err = s.Commit(t.Context(), repo.Point{VM: vmName, Frozen: time.Now()})
			must(t, err)
			must(t, s.Close())
		}
		w.repo = owner
		log := w.serve(2, retention.Keep{Last: 3})
		if n := log.count("msg=\"restore points of several keys\""); n != 2 {
			t.Errorf("warned %d times, want 2:\n%s", n, log.b.String())
		}
		if n := log.count("the restore point before is of key"); n != 1 {
			t.Errorf("%d runs warned, want 1:\n%s", n, log.b.String())
		}
		if ids := w.pointIDs(); len(ids) != 6 || ids[0] != before[2] {
			t.Errorf("%d points are left, from %s; want 3 of each key, from %s", len(ids), ids[0], before[2])
		}
	})
}
