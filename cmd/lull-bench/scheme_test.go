package main

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/lull-backup/lull/transport/block"
)

// window is data with holes of zeros in it and an odd end.
func window(seed byte) []byte {
	w := make([]byte, mib+1234)
	rand.NewChaCha8([32]byte{seed}).Read(w)
	clear(w[64*kib : 96*kib])
	clear(w[700*kib : 700*kib+block.PageSize])
	return w
}

// Every way to cut covers all that is not zero, once.
func TestSchemesPartition(t *testing.T) {
	for _, s := range schemes() {
		w := window(1)
		at := 0
		for {
			start, end := s.cutter.next(w, at)
			if !block.IsZero(w[at:start]) {
				t.Errorf("%s: data between blocks at %d", s.name, at)
			}
			if start == end {
				if !block.IsZero(w[start:]) {
					t.Errorf("%s: data after the last block at %d", s.name, start)
				}
				break
			}
			if end < start || end > len(w) {
				t.Fatalf("%s: block from %d to %d", s.name, start, end)
			}
			at = end
		}
	}
}

func TestSchemeAverage(t *testing.T) {
	for _, average := range []int{8, 16, 32, 64} {
		c, blocks, total := newByContent(average*kib), 0, 0
		for seed := range byte(8) {
			w := make([]byte, 4*mib)
			rand.NewChaCha8([32]byte{seed}).Read(w)
			for at := 0; at < len(w); blocks++ {
				_, at = c.next(w, at)
			}
			total += len(w)
		}
		if mean := total / blocks / kib; mean < average*3/4 || mean > average*3/2 {
			t.Errorf("pages %d KiB: mean %d KiB", average, mean)
		}
	}
}

// What the study counts for lull's own scheme is what a codec and the format say.
func TestCodecs(t *testing.T) {
	text := bytes.Repeat([]byte("all work and no play "), 10_000)
	seen := map[string]bool{}
	for _, s := range schemes() {
		if seen[s.codec] {
			continue
		}
		seen[s.codec] = true
		c, err := newCodec(s.codec, s.segment)
		if err != nil {
			t.Fatal(err)
		}
		for _, before := range [][]byte{nil, text} {
			if n, err := c.size(text, before); err != nil || n <= 0 || n > len(text)/4 {
				t.Errorf("%s: %d bytes, %v", s.codec, n, err)
			}
		}
	}
	if _, err := newCodec("none", mib); err == nil {
		t.Error("an unknown codec was made")
	}
}
