package plugins_test

import (
	"testing"
	"time"

	"github.com/lull-backup/lull/plugins"
	"github.com/lull-backup/lull/quiesce/quiescetest"
)

// BenchmarkStart starts a plugin until it has said who it is, and ends it: two processes'
// worth of keys, a handshake, and the two services between them.
func BenchmarkStart(b *testing.B) {
	g := quiescetest.NewGuest()
	var ending time.Duration
	for b.Loop() {
		p, err := plugins.Start(b.Context(), spec("two-methods"), g, discard())
		if err != nil {
			b.Fatal(err)
		}
		if _, err := p.Identify(b.Context()); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		begin := time.Now()
		if err := p.Close(); err != nil {
			b.Fatal(err)
		}
		ending += time.Since(begin)
		b.StartTimer()
	}
	b.ReportMetric(float64(ending.Milliseconds())/float64(b.N), "ms/end")
}
