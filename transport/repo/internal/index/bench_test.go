package index

import (
	"encoding/binary"
	"math/rand/v2"
	"runtime"
	"testing"

	"github.com/lull-backup/lull/transport/block"
)

const benchLen = 3 << 20

// benchName is as uniform as a keyed hash and cheap to make again.
func benchName(i uint64) (n block.Name) {
	for k := range 4 {
		x := (i*4 + uint64(k)) * 0x9e3779b97f4a7c15
		x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
		x = (x ^ x>>27) * 0x94d049bb133111eb
		binary.BigEndian.PutUint64(n[8*k:], x^x>>31)
	}
	return n
}

func benchIndex(b *testing.B) *Index {
	b.Helper()
	x := open(b, b.TempDir())
	err := x.Add(b.Context(), Source{1}, func(yield func(Entry, error) bool) {
		for i := range uint64(benchLen) {
			if !yield(Entry{benchName(i), Location{Pack: [32]byte{byte(i >> 12), byte(i >> 20)}, BlockLength: 1}}, nil) {
				return
			}
		}
	})
	if err != nil {
		b.Fatal(err)
	}
	return x
}

func BenchmarkLookup(b *testing.B) {
	x := benchIndex(b)
	b.Run("hit", func(b *testing.B) { lookups(b, x, 0) })
	b.Run("miss", func(b *testing.B) { lookups(b, x, benchLen) })
}

func lookups(b *testing.B, x *Index, from uint64) {
	for b.Loop() {
		if _, found, err := x.Lookup(benchName(from + rand.Uint64N(benchLen))); err != nil || found != (from == 0) {
			b.Fatal(found, err)
		}
	}
}

// BenchmarkFill reports the time an entry takes from Add to a synced run, and the
// memory that millions of entries leave in the process.
func BenchmarkFill(b *testing.B) {
	for b.Loop() {
		x := benchIndex(b)
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		b.ReportMetric(float64(m.HeapAlloc)/(1<<20), "heap-MiB")
		runtime.KeepAlive(x)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/benchLen, "ns/entry")
}

func BenchmarkInsert(b *testing.B) {
	t := newTable()
	for i := uint64(0); b.Loop(); i++ {
		if t.n == tableLimit {
			t = newTable()
		}
		name := benchName(i)
		if err := t.insert(&name, &Location{BlockLength: 1}); err != nil {
			b.Fatal(err)
		}
	}
}
