package index

import (
	"encoding/binary"

	"github.com/lull-backup/lull/transport/block"
)

// The filter of a run tells for most blocks that are not in it that they are
// not: the common case of a full backup, which then costs one line of the
// processor's cache and no entry page. It is a blocked Bloom filter (Putze,
// Sanders, Singler 2007): a name sets filterProbes bits in one block of 64 bytes.
// With 12 bits an entry, one absent name in two hundred passes.
//
// The block follows from the first bytes of the name, so that a run, which is
// written in order of names, writes its filter in order too, a block at a time.
//
// The filter has no checksum. Only sessions ask it: a bit that was lost makes them
// store a block once more. Who must find what is there looks past it.
const (
	filterBlock  = 64 // bytes
	filterBits   = 12 // an entry
	filterProbes = 7  // times 9 bits of the name
)

// filterBlocks is how many blocks a run of count entries has.
func filterBlocks(count uint64) uint64 {
	return (count*filterBits + filterBlock*8 - 1) / (filterBlock * 8)
}

// filterAt is the block of a name.
func filterAt(name *block.Name, blocks uint64) uint64 {
	return uint64(binary.BigEndian.Uint32(name[:])) * blocks >> 32
}

func filterSet(blk []byte, name *block.Name) {
	bits := binary.LittleEndian.Uint64(name[8:])
	for range filterProbes {
		blk[bits>>3&(filterBlock-1)] |= 1 << (bits & 7)
		bits >>= 9
	}
}

func filterHas(blk []byte, name *block.Name) bool {
	_ = blk[filterBlock-1]
	bits := binary.LittleEndian.Uint64(name[8:])
	all := byte(1)
	for range filterProbes {
		all &= blk[bits>>3&(filterBlock-1)] >> (bits & 7)
		bits >>= 9
	}
	return all != 0
}
