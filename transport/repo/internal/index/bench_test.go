package index

import (
	"math/rand/v2"
	"testing"

	"github.com/lull-backup/lull/transport/block"
)

const benchLen = 1 << 20

func benchIndex(b *testing.B) *Index {
	b.Helper()
	x := open(b, b.TempDir())
	err := x.Add(b.Context(), Source{1}, func(yield func(Entry, error) bool) {
		for i := range uint64(benchLen) {
			if !yield(scaleEntry(i), nil) {
				return
			}
		}
	})
	if err != nil {
		b.Fatal(err)
	}
	return x
}

// BenchmarkKnown asks for the blocks of a window.
func BenchmarkKnown(b *testing.B) {
	x := benchIndex(b)
	b.Run("hit", func(b *testing.B) { known(b, x, 0) })
	b.Run("miss", func(b *testing.B) { known(b, x, benchLen) })
	for i := range uint64(200_000) {
		x.Doubt(scaleName(i << 20)) // packs that are nowhere: hits have to look
	}
	b.Run("hit beside 200,000 hidden packs", func(b *testing.B) { known(b, x, 0) })
}

func known(b *testing.B, x *Index, from uint64) {
	s := x.Session()
	defer s.Close()
	names, known := make([]block.Name, scaleWindow), make([]bool, scaleWindow)
	for b.Loop() {
		for i := range names {
			names[i] = scaleName(from + rand.Uint64N(benchLen))
		}
		if err := s.Known(names, known); err != nil || known[0] != (from == 0) {
			b.Fatal(known[0], err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/scaleWindow, "ns/block")
}

func BenchmarkLookup(b *testing.B) {
	x := benchIndex(b)
	for b.Loop() {
		if _, found, err := x.Lookup(scaleName(rand.Uint64N(benchLen))); err != nil || !found {
			b.Fatal(found, err)
		}
	}
}

func BenchmarkInsert(b *testing.B) {
	t := newTable()
	for i := uint64(0); b.Loop(); i++ {
		if t.n == tableLimit {
			t = newTable()
		}
		e := scaleEntry(i)
		if err := t.insert(&e.Name, &e.Location); err != nil {
			b.Fatal(err)
		}
	}
}
