package agent_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/lull-backup/lull/agent"
	"github.com/lull-backup/lull/agent/retention"
	"github.com/lull-backup/lull/transport/repo"
)

// copyOf is a point that a key has copied, of another's in a repository.
func copyOf(by, repository, of string, at time.Time) repo.Point {
	return repo.Point{VM: vmName, ID: at.String() + of, SignedBy: by, Frozen: at,
		Origin: &repo.Origin{Repository: repository, Point: at.String(), SignedBy: of}}
}

// Who copies signs everything with one key: rules and locks count copies by who made the
// original, so that a host that was taken over pushes none of another's out.
func TestRulesCountCopiesByTheirMakers(t *testing.T) {
	const r1, r2 = "0123456789abcdef0123456789abcdef", "fedcba9876543210fedcba9876543210"
	day := time.Date(2026, 11, 1, 1, 30, 0, 0, time.UTC)
	var points []repo.Point
	for i := range 20 {
		at := day.AddDate(0, 0, i)
		points = append(points,
			copyOf("owner", r1, "host", at),
			copyOf("owner", r1, "evil", at.Add(time.Hour)),
			copyOf("owner", r2, "host", at.Add(2*time.Hour)), // of another repository: another key
			copyOf("evil", r1, "host", at.Add(3*time.Hour)),  // by the word of evil
			repo.Point{VM: vmName, ID: fmt.Sprint("native", i), SignedBy: "owner", Frozen: at.Add(4 * time.Hour)})
	}
	kept := map[string]int{}
	for _, v := range agent.Judge(retention.Keep{Daily: 7}, points, nil, time.UTC) {
		by := agent.MadeBy(&v.Point)
		if v.Keep {
			kept[by]++
		}
		if !strings.Contains(strings.Join(v.Reasons, ", "), "counted with those of key "+by) {
			t.Errorf("%q do not say that points of %s count", v.Reasons, by)
		}
	}
	want := map[string]int{
		"owner (copied: host in 01234567)": 7, "owner (copied: evil in 01234567)": 7, "owner (copied: host in fedcba98)": 7,
		"evil (copied: host in 01234567)": 7, "owner": 7,
	}
	if fmt.Sprint(kept) != fmt.Sprint(want) {
		t.Errorf("kept %v, want %v", kept, want)
	}
	now := day.AddDate(0, 0, 30)
	locked := 0
	for _, until := range agent.LockUntil(retention.Keep{}, points, time.UTC, now, time.Hour) {
		if until.Equal(now.Add(time.Hour)) {
			locked++
		}
	}
	if locked != len(want) {
		t.Errorf("%d newest points are locked, want that of each maker: %d", locked, len(want))
	}
}

// A key says of its points what it likes: it gets no more than so many places for that, none
// of them another's, and no word of it reaches a terminal as it is.
func TestOriginsAreBounded(t *testing.T) {
	day := time.Date(2026, 11, 1, 1, 30, 0, 0, time.UTC)
	points := []repo.Point{copyOf("owner", "r", "host", day)}
	for i := range 1000 {
		points = append(points, copyOf("evil", "r", fmt.Sprint("\x1b[31m owner", i), day.Add(time.Duration(i)*time.Minute)))
	}
	kept := map[string]int{}
	for _, v := range agent.Judge(retention.Keep{Last: 1}, points, nil, time.UTC) {
		if v.Keep {
			kept[v.Point.SignedBy]++
		}
	}
	if kept["owner"] != 1 || kept["evil"] > 50 {
		t.Errorf("kept %v", kept)
	}
	for _, label := range agent.Signers(points) {
		if strings.Contains(label, "\x1b") || !strings.HasPrefix(label, "evil (") && label != "owner (copied: host in r)" {
			t.Errorf("shows %q", label)
		}
	}
}
