package block

import (
	"encoding/binary"
	"hash/crc32"
)

// Sizes in bytes. They are part of the repository format.
const (
	PageSize   = 4 << 10  // blocks start and end between pages
	WindowSize = 4 << 20  // windows start at multiples of it
	MinBlock   = PageSize // but for the tail of a stream
	MaxBlock   = 64 << 10
	// AverageBlock is the mean length in long data without zeros: one page in
	// four ends a block.
	AverageBlock = 16 << 10
)

// cutShift leaves the top bits of the keyed checksum; a block ends where all of
// them are zero, that is after one page in AverageBlock/PageSize.
const cutShift = 62

// CutKeySize is the length of a cut key in bytes.
const CutKeySize = 16

// Cutter finds the blocks of a window. Its key picks one function of a strongly
// universal family (multiply-add-shift, Dietzfelbinger 1996) over the pages'
// CRC-32C, which is one instruction for eight bytes: who knows a page's content
// does not know whether a block ends after it.
type Cutter struct {
	mul, add uint64
	table    *crc32.Table
}

// NewCutter makes the cutter of a key.
func NewCutter(key [CutKeySize]byte) Cutter {
	return Cutter{
		mul:   binary.LittleEndian.Uint64(key[:8]),
		add:   binary.LittleEndian.Uint64(key[8:]),
		table: crc32.MakeTable(crc32.Castagnoli),
	}
}

// Next returns the first block of the window at or after from, a page border,
// as window[start:end]. start == end: there is none, the rest is zeros. A caller
// goes on with from = end, so that each page is still in the processor's cache
// when the block is named.
func (c Cutter) Next(window []byte, from int) (start, end int) {
	start = from
	for start < len(window) && IsZero(page(window, start)) {
		start += PageSize
	}
	if start >= len(window) {
		return len(window), len(window)
	}
	limit := min(start+MaxBlock, len(window))
	for end = start; end < limit; {
		p := page(window, end)
		if end > start && IsZero(p) {
			return start, end
		}
		end += len(p)
		if c.ends(p) {
			return start, end
		}
	}
	return start, end
}

// ends reports whether a block ends after the page.
func (c Cutter) ends(page []byte) bool {
	return (uint64(crc32.Checksum(page, c.table))*c.mul+c.add)>>cutShift == 0
}

// page returns the page of the window at off; the last one may be short.
func page(window []byte, off int) []byte {
	return window[off:min(off+PageSize, len(window))]
}
