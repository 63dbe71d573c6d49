package snapshot

import (
	"math/rand/v2"
	"testing"
)

// The set says what a plain list of parts says.
func TestChangeSet(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		grain := int64(1 + rnd.IntN(40))
		size := rnd.Int64N(grain * 300)
		set, err := NewChangeSet(size, grain)
		if err != nil {
			t.Fatal(err)
		}
		parts := make([]bool, (size+grain-1)/grain)
		touched := func(off, length int64) (from, to int64) {
			from, to = max(off, 0), min(off+length, size)
			if from >= to {
				return 0, 0
			}
			return from / grain, (to-1)/grain + 1
		}
		for range 20 {
			off, length := rnd.Int64N(size+20)-10, rnd.Int64N(size/4+2)
			set.Add(off, length)
			for from, to := touched(off, length); from < to; from++ {
				parts[from] = true
			}
		}
		bytes := int64(0)
		for i, in := range parts {
			if at := int64(i) * grain; in {
				bytes += min(grain, size-at)
			}
		}
		if got := set.Bytes(); got != bytes {
			t.Fatalf("%d bytes by %d: %d are in the set, want %d", size, grain, got, bytes)
		}
		for range 50 {
			off, length := rnd.Int64N(size+20)-10, rnd.Int64N(size/2+2)
			want := false
			for from, to := touched(off, length); from < to; from++ {
				want = want || parts[from]
			}
			if set.Any(off, length) != want {
				t.Fatalf("%d bytes by %d: [%d, +%d) says %v", size, grain, off, length, !want)
			}
		}
	}
}

func TestChangeSetBounds(t *testing.T) {
	for _, c := range []struct{ size, grain int64 }{{-1, 1}, {1, 0}, {1, -1}, {1 << 62, 512}, {1 << 40, 4096 - 1}} {
		if _, err := NewChangeSet(c.size, c.grain); (err != nil) != (c.size < 0 || c.grain <= 0 || c.size/c.grain >= maxGrains) {
			t.Errorf("%d by %d: %v", c.size, c.grain, err)
		}
	}
	set, err := NewChangeSet(1000, 64)
	if err != nil {
		t.Fatal(err)
	}
	set.Add(999, 1<<62)
	set.Add(1<<62, 1<<62)
	set.Add(-1<<62, 10)
	if set.Bytes() != 40 || !set.Any(-1<<62, 1<<62+1000) || set.Any(0, 900) || set.Any(2000, 1<<62) {
		t.Errorf("ranges beyond the disk: %d bytes", set.Bytes())
	}
}
