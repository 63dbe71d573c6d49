package main

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"

	"github.com/lull-backup/lull/transport/block"
)

// scheme is one way to cut a disk.
type scheme struct {
	name    string
	window  int // bytes; no block crosses a border of windows
	segment int // bytes of new blocks that are compressed together
	codec   string
	cutter  cutter
	// pages: only the pages that differ from those of the VM's image before are cut
	// at all; of the others' blocks the map keeps ranges. It needs a checksum of
	// every page beside the map, and references into the middle of blocks.
	pages bool
}

// cutter finds the first block of a window at or after from; start == end: none.
type cutter interface {
	next(window []byte, from int) (start, end int)
}

// fixed cuts at multiples of its size; a block of zeros is none.
type fixed int

func (f fixed) next(window []byte, from int) (start, end int) {
	for start = from; start < len(window); start = end {
		end = min(start+int(f), len(window))
		if !block.IsZero(window[start:end]) {
			return start, end
		}
	}
	return start, start
}

// byContent cuts after pages whose keyed checksum says so, and around zeros: what
// block.Cutter does, with a free choice of lengths.
type byContent struct {
	shortest, longest int
	below             uint64
	table             *crc32.Table
}

func newByContent(average int) byContent {
	return byContent{
		shortest: max(block.PageSize, average/4),
		longest:  4 * average,
		below:    math.MaxUint64 / uint64(average/block.PageSize),
		table:    crc32.MakeTable(crc32.Castagnoli),
	}
}

func (c byContent) next(window []byte, from int) (start, end int) {
	page := func(at int) []byte { return window[at:min(at+block.PageSize, len(window))] }
	start = from
	for start < len(window) && block.IsZero(page(start)) {
		start += block.PageSize
	}
	if start >= len(window) {
		return len(window), len(window)
	}
	limit := min(start+c.longest, len(window))
	for end = start; end < limit; {
		p := page(end)
		if end > start && block.IsZero(p) {
			return start, end
		}
		end += len(p)
		if end-start >= c.shortest && c.ends(p) {
			return start, end
		}
	}
	return start, end
}

func (c byContent) ends(page []byte) bool {
	const mul, add = 0x9e3779b97f4a7c15, 0x5851f42d4c957f2d
	return uint64(crc32.Checksum(page, c.table))*mul+add < c.below
}

// lulls is block.Cutter itself.
type lulls struct{ block.Cutter }

func (l lulls) next(window []byte, from int) (start, end int) { return l.Next(window, from) }

func newLulls() lulls {
	var key [block.CutKeySize]byte
	binary.LittleEndian.PutUint64(key[:8], 0x9e3779b97f4a7c15)
	binary.LittleEndian.PutUint64(key[8:], 0x5851f42d4c957f2d)
	return lulls{block.NewCutter(key)}
}

const (
	kib = 1 << 10
	mib = 1 << 20
)

// schemes are the candidates: each differs in one thing from lull's own, which is
// the first.
func schemes() []scheme {
	own := scheme{name: "lull's own", window: 4 * mib, segment: mib, codec: "zstd fastest", cutter: newLulls()}
	all := []scheme{own}
	vary := func(name string, change func(*scheme)) {
		s := own
		s.name = name
		change(&s)
		all = append(all, s)
	}
	for _, n := range []int{4, 16, 64} {
		vary(fmt.Sprintf("fixed %d KiB", n), func(s *scheme) { s.cutter = fixed(n * kib) })
	}
	for _, n := range []int{8, 16, 24, 32, 64} {
		for _, w := range []int{1, 4} {
			vary(fmt.Sprintf("pages %d KiB in %d MiB", n, w), func(s *scheme) { s.cutter, s.window = newByContent(n*kib), w*mib })
		}
	}
	vary("own, changed pages only", func(s *scheme) { s.pages = true })
	for _, n := range []int{256, 512, 2048, 4096} {
		vary(fmt.Sprintf("segment %d KiB", n), func(s *scheme) { s.segment = n * kib })
	}
	for _, codec := range []string{"s2", "zstd default", "zstd better", "zstd fastest, seeded 64 KiB", "zstd fastest, seeded 256 KiB"} {
		vary(codec, func(s *scheme) { s.codec = codec })
	}
	return all
}
