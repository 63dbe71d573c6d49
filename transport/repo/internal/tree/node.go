package tree

import (
	"encoding/binary"
	"fmt"

	"github.com/lull-backup/lull/transport/block"
	"github.com/lull-backup/lull/transport/repo/internal/wire"
)

const (
	windowPages = block.WindowSize / block.PageSize
	maxPages    = block.MaxBlock / block.PageSize

	entrySize  = 2 + len(block.Name{})
	leafHeader = 1 + 2

	pageBits = 10 // of an entry's first field: page; above: pages - 1
	pageMask = 1<<pageBits - 1
	runMask  = maxPages - 1
)

// MaxNode bounds an encoded node or leaf in bytes.
const MaxNode = leafHeader + windowPages*entrySize

// Entry is one block of a window: pages [Page, Page+Pages), clipped at the
// window's end.
type Entry struct {
	Page, Pages uint16
	Name        block.Name
}

// Range is where the block lies in a window of length bytes.
func (e Entry) Range(length int) (start, end int) {
	start = int(e.Page) * block.PageSize
	return start, min(start+int(e.Pages)*block.PageSize, length)
}

// NewEntry describes the block at window[start:end].
func NewEntry(start, end int, name block.Name) Entry {
	pages := (end - start + block.PageSize - 1) / block.PageSize
	return Entry{Page: uint16(start / block.PageSize), Pages: uint16(pages), Name: name}
}

// AppendLeaf encodes the leaf of a window: level 0, count, then for each block
// in ascending order a u16 of page and pages, and its name.
func AppendLeaf(dst []byte, entries []Entry) []byte {
	dst = append(dst, 0)
	dst = binary.LittleEndian.AppendUint16(dst, uint16(len(entries)))
	for i := range entries {
		e := &entries[i]
		dst = binary.LittleEndian.AppendUint16(dst, e.Page|(e.Pages-1)<<pageBits)
		dst = append(dst, e.Name[:]...)
	}
	return dst
}

// Data is how many bytes the blocks of a window of length bytes hold.
func Data(entries []Entry, length int) (n int64) {
	for i := range entries {
		start, end := entries[i].Range(length)
		n += int64(end - start)
	}
	return n
}

// ParseLeaf decodes the leaf of a window of length bytes and appends its blocks
// to dst.
func ParseLeaf(dst []Entry, b []byte, length int) ([]Entry, error) {
	r := wire.NewReader(b)
	if level := r.Byte(); level != 0 {
		return nil, fmt.Errorf("%w: level %d where a leaf belongs", wire.ErrDamaged, level)
	}
	count := r.Count(uint32(r.Uint16()), entrySize)
	next := 0
	for range count {
		field := r.Uint16()
		e := Entry{Page: field & pageMask, Pages: field>>pageBits&runMask + 1, Name: r.Name()}
		if start, end := e.Range(length); int(e.Page) < next || start >= end || field>>14 != 0 {
			return nil, fmt.Errorf("%w: leaf: block at page %d", wire.ErrDamaged, e.Page)
		}
		next = int(e.Page) + int(e.Pages)
		dst = append(dst, e)
	}
	if last := (length + block.PageSize - 1) / block.PageSize; next > last || count == 0 {
		return nil, fmt.Errorf("%w: leaf of %d blocks ends at page %d of %d", wire.ErrDamaged, count, next, last)
	}
	return dst, r.Done()
}

// Node is a decoded inner node: its children.
type Node [Fanout]Ref

// appendNode encodes an inner node: level, a bit for each child that is not
// zeros, and of those the names and the bytes in blocks under them.
func appendNode(dst []byte, level int, children *Node) []byte {
	dst = append(dst, byte(level))
	bits := len(dst)
	dst = append(dst, make([]byte, Fanout/8)...)
	for i := range children {
		if c := &children[i]; !c.Name.IsZero() {
			dst[bits+i/8] |= 1 << (i % 8)
			dst = append(dst, c.Name[:]...)
			dst = binary.LittleEndian.AppendUint64(dst, uint64(c.Data))
		}
	}
	return dst
}

// parseNode decodes an inner node of a level with so many windows under it.
func parseNode(b []byte, level int, windows int64) (*Node, error) {
	r := wire.NewReader(b)
	if got := r.Byte(); int(got) != level {
		return nil, fmt.Errorf("%w: node of level %d, want %d", wire.ErrDamaged, got, level)
	}
	bits := r.Bytes(Fanout / 8)
	if err := r.Err(); err != nil {
		return nil, err
	}
	n, some := new(Node), false
	for i := range n {
		if bits[i/8]&(1<<(i%8)) == 0 {
			continue
		}
		n[i] = Ref{Name: r.Name(), Data: int64(r.Uint64())}
		if n[i].Name.IsZero() || !n[i].possible(clip(level-1, int64(i), windows)) {
			return nil, fmt.Errorf("%w: node of level %d: child %d", wire.ErrDamaged, level, i)
		}
		some = true
	}
	if !some {
		return nil, fmt.Errorf("%w: node of level %d without children", wire.ErrDamaged, level)
	}
	return n, r.Done()
}

// data is how many bytes are in blocks under n.
func (n *Node) data() (sum int64) {
	for i := range n {
		sum += n[i].Data
	}
	return sum
}
