package qemu

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/lull-backup/lull/snapshot"
)

// benchDelta is how much a guest has written to a delta that is merged.
const benchDelta = 256 << 20

// fullDelta is a run whose delta holds benchDelta of writes.
func fullDelta(b *testing.B) (*testVM, *Host, snapshot.Plan) {
	b.Helper()
	v := newVM(b, shape{format: snapshot.FormatQcow2, bus: "virtio", disks: 1})
	v.ask("block_resize", args{"node-name": "fmt0", "size": 2 * benchDelta}, nil)
	h := v.host()
	p, err := h.Plan(b.Context(), "web", "run")
	if err == nil {
		err = h.Prepare(b.Context(), p)
	}
	if err == nil {
		err = h.Take(b.Context(), p)
	}
	for off := int64(0); err == nil && off < benchDelta; off += 16 << 20 {
		err = v.write("disk0", off, 16<<20, byte(off>>24+1))
	}
	if err != nil {
		b.Fatal(err)
	}
	return v, h, p
}

// BenchmarkMerge merges a delta live, and the same one with qemu-img commit.
func BenchmarkMerge(b *testing.B) {
	b.Run("lull", func(b *testing.B) {
		b.SetBytes(benchDelta)
		for b.Loop() {
			b.StopTimer()
			v, h, p := fullDelta(b)
			b.StartTimer()
			if err := h.Merge(b.Context(), p); err != nil {
				b.Fatal(err)
			}
			b.StopTimer()
			v.kill()
			os.RemoveAll(v.dir)
			b.StartTimer()
		}
	})
	b.Run("qemu-img", func(b *testing.B) {
		b.SetBytes(benchDelta)
		for b.Loop() {
			b.StopTimer()
			v, _, p := fullDelta(b)
			v.ask("quit", nil, nil)
			<-v.ended
			b.StartTimer()
			shell(b, "qemu-img", "commit", "-q", "-d", "-f", "qcow2", p.Disks[0].Delta)
			b.StopTimer()
			os.RemoveAll(v.dir)
			b.StartTimer()
		}
	})
}

// BenchmarkMergeUnderWrites merges the delta of a guest that writes all the time, as fast
// as it can, for some time before.
func BenchmarkMergeUnderWrites(b *testing.B) {
	var took, left time.Duration
	rounds := 0
	for b.Loop() {
		b.StopTimer()
		v := mountedVM(b, shape{format: snapshot.FormatQcow2, bus: "virtio", disks: 1}, func(v *testVM) { v.boot = writingGuest() })
		h := v.host()
		p, err := h.Plan(b.Context(), "web", "run")
		if err == nil {
			err = h.Prepare(b.Context(), p)
		}
		if err != nil {
			b.Fatal(err)
		}
		v.ask("cont", nil, nil)
		before := v.guestWrote()
		eventually(b, "the guest writes", func() bool { return v.guestWrote() > before+64 })
		if err := h.Take(b.Context(), p); err != nil {
			b.Fatal(err)
		}
		before = v.guestWrote()
		eventually(b, "the guest has written its disk over", func() bool { return v.guestWrote() > before+256 })
		begun, wrote := time.Now(), v.guestWrote()
		b.StartTimer()
		if err := h.Merge(b.Context(), p); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		took += time.Since(begun)
		left += time.Duration(v.guestWrote() - wrote)
		rounds++
		v.kill()
		if found, err := filepath.Glob(v.dir + "/disks/*.lull-*"); err != nil || len(found) > 0 {
			b.Fatalf("left: %v, %v", found, err)
		}
		os.RemoveAll(v.dir)
		b.StartTimer()
	}
	b.ReportMetric(float64(took.Milliseconds())/float64(rounds), "ms/merge")
	b.ReportMetric(float64(left)/float64(rounds), "guest-writes/merge")
}

// guestWrote is how many writes the guest has made.
func (v *testVM) guestWrote() int {
	v.t.Helper()
	var stats []struct {
		Stats struct {
			Ops int `json:"wr_operations"`
		}
	}
	v.ask("query-blockstats", nil, &stats)
	if len(stats) == 0 {
		return 0
	}
	return stats[0].Stats.Ops
}
