package qemu

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/lull-backup/lull/snapshot"
)

// BenchmarkTake is how long the guest's disks hold still for a snapshot of 1, 4 and 16 of them:
// the one transaction, with records of changes, as lull sees it. Somebody writes to every disk
// right before.
func BenchmarkTake(b *testing.B) {
	table := "\n| disks | transaction, p50 ms | p99 ms |\n|---:|---:|---:|\n"
	for _, disks := range []int{1, 4, 16} {
		b.Run(fmt.Sprintf("disks=%d", disks), func(b *testing.B) {
			v := newVM(b, shape{format: snapshot.FormatQcow2, bus: "virtio", disks: disks})
			h := v.host()
			var took []time.Duration
			for n := 0; b.Loop(); n++ {
				took = append(took, v.takeOnce(b, h, fmt.Sprintf("run%d", n)))
			}
			slices.Sort(took)
			ms := func(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
			p50, p99 := ms(took[len(took)/2]), ms(took[len(took)*99/100])
			b.ReportMetric(p50, "p50-ms")
			b.ReportMetric(p99, "p99-ms")
			table += fmt.Sprintf("| %d | %.1f | %.1f |\n", disks, p50, p99)
		})
	}
	fmt.Println(table)
}

// takeOnce takes a snapshot of all disks and merges it. It tells how long Take took.
func (v *testVM) takeOnce(b *testing.B, h *Host, run string) time.Duration {
	b.Helper()
	p, err := h.Plan(b.Context(), "web", run)
	if err == nil {
		p, err = h.Track(b.Context(), p, "bench", nil)
	}
	if err == nil {
		err = h.Prepare(b.Context(), p)
	}
	if err != nil {
		b.Fatal(err)
	}
	for _, d := range p.Disks {
		if err := v.write(d.Name, 0, 64<<10, 1); err != nil {
			b.Fatal(err)
		}
	}
	began := time.Now()
	err = h.Take(b.Context(), p)
	took := time.Since(began)
	if err == nil {
		err = h.Merge(b.Context(), p)
	}
	if err == nil {
		err = h.Settle(b.Context(), p, nil)
	}
	if err != nil {
		b.Fatal(err)
	}
	return took
}
