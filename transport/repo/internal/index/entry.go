package index

import (
	"errors"
	"fmt"

	"github.com/lull-backup/lull/transport/block"
)

// Location is where a block lies: in a segment of a pack, and inside the
// segment once it is opened.
type Location struct {
	Pack          [32]byte
	Signer        [32]byte // who vouches for the pack; zero: nobody said
	SegmentOffset uint32   // in the pack, bytes
	SegmentLength uint32   // as stored, bytes
	BlockOffset   uint32   // in the opened segment, bytes, less than 2 MiB
	BlockLength   uint32   // bytes, 1 to 64 KiB
}

// Entry is one block of an index.
type Entry struct {
	Name block.Name
	Location
}

// Source is the identity of an index object of the store.
type Source [32]byte

// Errors to test for with errors.Is.
var (
	ErrDamaged = errors.New("damaged index cache file")
	ErrClosed  = errors.New("index is closed")
	ErrTooBig  = errors.New("index holds too many entries")

	errPlace = errors.New("block cannot lie there")
)

// packID is a row of the table of packs.
type packID struct {
	id, signer [32]byte
}

// segment is a row of the table of segments. The pack is a number in the table
// of packs that goes with it.
type segment struct {
	pack, offset, length uint32
}

// listing says that a source lists a pack, both as numbers in their tables.
type listing struct {
	pack, source uint32
}

// place is where a block lies, in 64 bits: the number of its segment (27), its
// offset in the opened segment (21) and its length less one (16).
type place uint64

const (
	segmentBits = 27
	offsetBits  = 21
	lengthBits  = 16

	maxSegments = 1 << segmentBits
)

// newPlace leaves the segment's number 0.
func newPlace(l *Location) (place, error) {
	if l.BlockOffset >= 1<<offsetBits || l.BlockLength == 0 || l.BlockLength > 1<<lengthBits {
		return 0, fmt.Errorf("%w: %d bytes at %d of a segment", errPlace, l.BlockLength, l.BlockOffset)
	}
	return place(l.BlockOffset)<<lengthBits | place(l.BlockLength-1), nil
}

func (p place) segment() uint32 { return uint32(p >> (offsetBits + lengthBits)) }

// in is p in the segment of another number.
func (p place) in(segment uint32) place {
	return p&(1<<(offsetBits+lengthBits)-1) | place(segment)<<(offsetBits+lengthBits)
}

func (p place) location(s *segment, k *packID) Location {
	return Location{
		Pack: k.id, Signer: k.signer, SegmentOffset: s.offset, SegmentLength: s.length,
		BlockOffset: uint32(p>>lengthBits) & (1<<offsetBits - 1), BlockLength: uint32(p&(1<<lengthBits-1)) + 1,
	}
}

// record is an entry whose place goes with a table of segments.
type record struct {
	name  block.Name
	place place
}
