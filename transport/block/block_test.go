package block_test

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/lull-backup/lull/transport/block"
)

type piece struct{ Start, End int }

func cut(c block.Cutter, window []byte) []piece {
	var ps []piece
	for at := 0; ; {
		start, end := c.Next(window, at)
		if start == end {
			return ps
		}
		ps = append(ps, piece{start, end})
		at = end
	}
}

func random(seed uint64, n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	r.Read(b)
	return b
}

func cutter(seed byte) block.Cutter {
	return block.NewCutter([block.CutKeySize]byte(bytes.Repeat([]byte{seed ^ 0x5a, 7, seed, 0x91}, 4)))
}

func TestCutIsAPartition(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		window := drawWindow(t)
		at := 0
		for _, p := range cut(cutter(1), window) {
			if !block.IsZero(window[at:p.Start]) {
				t.Fatalf("data in the gap [%d,%d)", at, p.Start)
			}
			checkBlock(t, window, p)
			at = p.End
		}
		if !block.IsZero(window[at:]) {
			t.Fatalf("data after the last block at %d", at)
		}
	})
}

// drawWindow makes a window of random, zero and repeated runs of pages, with
// an odd tail at times.
func drawWindow(t *rapid.T) []byte {
	var w []byte
	for range rapid.IntRange(0, 12).Draw(t, "runs") {
		pages := rapid.IntRange(1, 40).Draw(t, "pages")
		switch seed := rapid.Uint64Range(0, 5).Draw(t, "seed"); seed {
		case 0:
			w = append(w, make([]byte, pages*block.PageSize)...)
		default:
			w = append(w, random(seed, pages*block.PageSize)...)
		}
	}
	return append(w, random(9, rapid.IntRange(0, block.PageSize-1).Draw(t, "tail"))...)
}

func checkBlock(t *rapid.T, window []byte, p piece) {
	t.Helper()
	if p.Start%block.PageSize != 0 || (p.End%block.PageSize != 0 && p.End != len(window)) {
		t.Fatalf("block %v is not cut between pages", p)
	}
	if n := p.End - p.Start; n <= 0 || n > block.MaxBlock {
		t.Fatalf("block %v has length %d", p, n)
	}
	for at := p.Start; at < p.End; at += block.PageSize {
		if block.IsZero(window[at:min(at+block.PageSize, p.End)]) {
			t.Fatalf("zero page at %d inside block %v", at, p)
		}
	}
}

func TestCutAverage(t *testing.T) {
	var blocks, data int
	for seed := range uint64(8) {
		w := random(seed, block.WindowSize)
		blocks += len(cut(cutter(3), w))
		data += len(w)
	}
	if mean := data / blocks; mean < block.AverageBlock*9/10 || mean > block.AverageBlock*11/10 {
		t.Errorf("mean block length %d, want about %d", mean, block.AverageBlock)
	}
}

func TestCutDependsOnKeyOnly(t *testing.T) {
	w := random(4, block.WindowSize)
	if diff := cmp.Diff(cut(cutter(1), w), cut(cutter(1), w)); diff != "" {
		t.Errorf("same key, other cut: %s", diff)
	}
	if cmp.Equal(cut(cutter(1), w), cut(cutter(2), w)) {
		t.Error("another key cuts alike")
	}
}

// A change re-cuts the blocks around it: those before it and those some way
// after it stay as they were.
func TestCutIsLocal(t *testing.T) {
	w := random(5, block.WindowSize)
	before := cut(cutter(1), w)
	w[block.WindowSize/2]++
	kept := map[piece]bool{}
	for _, p := range cut(cutter(1), w) {
		kept[p] = true
	}
	lost := 0
	for _, p := range before {
		if !kept[p] {
			lost++
		}
	}
	if lost == 0 || lost > 12 {
		t.Errorf("%d of %d blocks changed", lost, len(before))
	}
}

func TestIsZero(t *testing.T) {
	for _, n := range []int{0, 1, 2, 511, 4096} {
		b := make([]byte, n)
		if !block.IsZero(b) {
			t.Errorf("%d zero bytes: not zero", n)
		}
		for i := range b {
			b[i] = 1
			if block.IsZero(b) {
				t.Errorf("%d bytes, byte %d set: zero", n, i)
			}
			b[i] = 0
		}
	}
}

func TestNamer(t *testing.T) {
	a := namer(t, 1)
	if again := namer(t, 1); a.Name([]byte("x")) != again.Name([]byte("x")) {
		t.Error("same content, other name")
	}
	if a.Name([]byte("x")) == a.Name([]byte("y")) || a.Name([]byte("x")) == namer(t, 2).Name([]byte("x")) {
		t.Error("other content or key, same name")
	}
	if _, err := block.NewNamer(make([]byte, 31)); err == nil {
		t.Error("short key taken")
	}
	data := random(1, block.MaxBlock)
	if n := testing.AllocsPerRun(100, func() { a.Name(data) }); n > 0 {
		t.Errorf("%v allocations a name", n)
	}
}

// The official test vectors of BLAKE3's keyed mode, input 0, 1, ... 250, 0, ...
func TestNamerIsKeyedBLAKE3(t *testing.T) {
	n, err := block.NewNamer([]byte("whats the Elvish word for friend"))
	if err != nil {
		t.Fatal(err)
	}
	in := make([]byte, 31744)
	for i := range in {
		in[i] = byte(i % 251)
	}
	for length, want := range map[int]string{
		0:    "92b2b75604ed3c761f9d6f62392c8a9227ad0ea3f09573e783f1498a4ed60d26",
		1:    "6d7878dfff2f485635d39013278ae14f1454b8c0a3a2d34bc1ab38228a80c95b",
		1024: "75c46f6f3d9eb4f55ecaaee480db732e6c2105546f1e675003687c31719c7ba4",
	} {
		if got := n.Name(in[:length]).String(); got != want {
			t.Errorf("%d bytes: %s, want %s", length, got, want)
		}
	}
}

func TestNameText(t *testing.T) {
	n := namer(t, 1).Name([]byte("x"))
	text, _ := n.MarshalText()
	var back block.Name
	if err := back.UnmarshalText(text); err != nil || back != n || back.IsZero() {
		t.Errorf("%s came back as %s, %v", n, back, err)
	}
	for _, bad := range []string{"", "00", string(text[:63]) + "x", string(text) + "0"} {
		if err := back.UnmarshalText([]byte(bad)); err == nil {
			t.Errorf("%q taken for a name", bad)
		}
	}
}

func namer(t testing.TB, key byte) block.Namer {
	t.Helper()
	n, err := block.NewNamer(bytes.Repeat([]byte{key}, block.KeySize))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func BenchmarkCutAndName(b *testing.B) {
	w, c, n := random(1, block.WindowSize), cutter(1), namer(b, 1)
	b.SetBytes(int64(len(w)))
	b.ReportAllocs()
	for b.Loop() {
		for at := 0; ; {
			start, end := c.Next(w, at)
			if start == end {
				break
			}
			n.Name(w[start:end])
			at = end
		}
	}
}

func BenchmarkCutZeros(b *testing.B) {
	w, c := make([]byte, block.WindowSize), cutter(1)
	b.SetBytes(int64(len(w)))
	for b.Loop() {
		c.Next(w, 0)
	}
}
