package plugins_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/lull-backup/lull/plugins"
	"github.com/lull-backup/lull/quiesce"
	"github.com/lull-backup/lull/quiesce/quiescetest"
)

// BenchmarkWindow is what the coordinator and the plugins' processes cost inside the
// freeze window: five writers of three tiers that do nothing, in this process and each
// in its own, and a snapshot that takes no time. The target is 5 ms.
func BenchmarkWindow(b *testing.B) {
	b.Run("in process", func(b *testing.B) {
		var writers []quiesce.Writer
		for i := range 5 {
			w := quiescetest.App(fmt.Sprint("writer-", i))
			w.ID.Tier = quiesce.Tier(i % 3)
			writers = append(writers, w)
		}
		benchWindow(b, writers)
	})
	b.Run("plugins", func(b *testing.B) {
		var writers []quiesce.Writer
		for i := range 5 {
			p, err := plugins.Start(b.Context(), spec(fmt.Sprint("nothing ", i)), nil, discard())
			if err != nil {
				b.Fatal(err)
			}
			defer func() {
				if err := p.Close(); err != nil {
					b.Error(err)
				}
			}()
			writers = append(writers, p)
		}
		benchWindow(b, writers)
	})
}

func benchWindow(b *testing.B, writers []quiesce.Writer) {
	var windows []time.Duration
	for b.Loop() {
		held, err := quiesce.Do(b.Context(), quiesce.Job{
			Run: "run-1", VM: "vm", Writers: writers,
			Policy: quiesce.Policy{Ladder: []quiesce.Level{quiesce.LevelApplication}, Floor: quiesce.LevelApplication, Window: quiesce.MaxWindow},
			Take:   func(context.Context) error { return nil },
		})
		if err != nil {
			b.Fatal(err)
		}
		windows = append(windows, held.Report().Window)
		if err := held.Complete(b.Context(), "point-1"); err != nil {
			b.Fatal(err)
		}
	}
	slices.Sort(windows)
	ms := func(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
	b.ReportMetric(ms(windows[len(windows)/2]), "window-p50-ms")
	b.ReportMetric(ms(windows[len(windows)*99/100]), "window-p99-ms")
}
