package agent

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lull-backup/lull/agent/journal"
	"github.com/lull-backup/lull/snapshot"
)

// nights of ten minutes each, in which the delta of disk a came to take so many bytes.
func nights(grew ...int64) (all []journal.Night) {
	for _, bytes := range grew {
		all = append(all, journal.Night{Took: 10 * time.Minute, Deltas: map[string]int64{"a": bytes}})
	}
	return all
}

func TestExpect(t *testing.T) {
	const disk = 1 << 30
	wrote := func(bytes int64, over time.Duration) writes {
		return writes{bytes: map[string]int64{"a": bytes}, over: over}
	}
	for name, c := range map[string]struct {
		past journal.Room
		now  writes
		want int64 // of disk a; 0: not known
	}{
		"nothing is known":                   {},
		"one night":                          {past: journal.Room{Nights: nights(5)}, want: 5},
		"the larger of two":                  {past: journal.Room{Nights: nights(7, 5)}, want: 7},
		"one that stands out does not count": {past: journal.Room{Nights: nights(5, 900, 4, 6)}, want: 6},
		"never more than the disk":           {past: journal.Room{Nights: nights(5 * disk)}, want: disk},
		"half for each refusal":              {past: journal.Room{Nights: nights(64), Refused: 2}, want: 16},
		"more refusals than bits":            {past: journal.Room{Nights: nights(64), Refused: 1000}},
		"a guest that writes more":           {past: journal.Room{Nights: nights(5)}, now: wrote(600, time.Hour), want: 100},
		"a guest that writes less":           {past: journal.Room{Nights: nights(500)}, now: wrote(600, time.Hour), want: 500},
		"a guest that starts":                {past: journal.Room{Nights: nights(5)}, now: wrote(600, 9*time.Minute), want: 5},
		// The two disks are read in 32 seconds.
		"a guest that was never read": {now: wrote(disk/4, 640*time.Second), want: disk / 4 / 20},
	} {
		t.Run(name, func(t *testing.T) {
			want := map[string]int64{}
			if c.want > 0 {
				want["a"] = c.want
			}
			got := expect([]snapshot.DiskPlan{{Disk: snapshot.Disk{Name: "a", Size: disk}}, {Disk: snapshot.Disk{Name: "b", Size: disk}}}, c.past, c.now)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}
