package index

import (
	"errors"

	"github.com/lull-backup/lull/transport/block"
)

// Location is where a block lies: in a segment of a pack, and inside the
// segment once it is opened.
type Location struct {
	Pack          [32]byte
	SegmentOffset uint32 // in the pack, bytes
	SegmentLength uint32 // as stored, bytes
	BlockOffset   uint32 // in the opened segment, bytes
	BlockLength   uint32 // bytes
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

	errNoSource = errors.New("commit index entries: no index object named")
)

// record is an entry whose pack is a number in a table that goes with it.
type record struct {
	name                           block.Name
	pack                           uint32
	segOff, segLen, blkOff, blkLen uint32
}

func (r *record) location(pack [32]byte) Location {
	return Location{Pack: pack, SegmentOffset: r.segOff, SegmentLength: r.segLen, BlockOffset: r.blkOff, BlockLength: r.blkLen}
}

// sorted is a list of records in ascending order of names, each name and pack once.
type sorted interface {
	len() int
	at(i int) record
	packs() [][32]byte
}
