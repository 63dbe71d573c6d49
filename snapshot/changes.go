package snapshot

import (
	"errors"
	"fmt"
	"math/bits"
)

// maxGrains bounds a ChangeSet: 32 MiB of memory.
const maxGrains = 32 << 20 * 8

var errChanges = errors.New("a set of changes cannot be like this")

// ChangeSet is a set of parts of a disk that may have changed. What it does not hold
// has not.
type ChangeSet struct {
	size, grain int64
	bits        []uint64
}

// NewChangeSet is an empty set for a disk of size bytes that tells apart parts of
// grain bytes.
func NewChangeSet(size, grain int64) (*ChangeSet, error) {
	if size < 0 || grain <= 0 || size/grain >= maxGrains {
		return nil, fmt.Errorf("%w: %d bytes by %d", errChanges, size, grain)
	}
	return &ChangeSet{size: size, grain: grain, bits: make([]uint64, size/grain/64+1)}, nil
}

// Add puts every part into the set that [off, off+length) touches, as far as the
// disk goes.
func (c *ChangeSet) Add(off, length int64) {
	for first, end := c.grains(off, length); first < end; {
		word, from := first/64, first%64
		to := min(64, from+end-first)
		c.bits[word] |= mask(from, to)
		first += to - from
	}
}

// Any tells whether a part that [off, off+length) touches is in the set.
func (c *ChangeSet) Any(off, length int64) bool {
	for first, end := c.grains(off, length); first < end; {
		word, from := first/64, first%64
		to := min(64, from+end-first)
		if c.bits[word]&mask(from, to) != 0 {
			return true
		}
		first += to - from
	}
	return false
}

// Bytes is how much of the disk is in the set.
func (c *ChangeSet) Bytes() int64 {
	var n int64
	for _, w := range c.bits {
		n += int64(bits.OnesCount64(w))
	}
	n *= c.grain
	if tail := c.size % c.grain; tail > 0 && c.Any(c.size-tail, tail) {
		n -= c.grain - tail
	}
	return n
}

// Size is that of the disk, in bytes.
func (c *ChangeSet) Size() int64 { return c.size }

// grains are the parts that a range touches, clipped to the disk.
func (c *ChangeSet) grains(off, length int64) (first, end int64) {
	lo, hi := max(off, 0), c.size
	if length < c.size-off { // off+length may overflow
		hi = off + length
	}
	if lo >= hi {
		return 0, 0
	}
	return lo / c.grain, (hi-1)/c.grain + 1
}

// mask has the bits [from, to) set; 0 <= from < to <= 64.
func mask(from, to int64) uint64 { return ^uint64(0) << from & (^uint64(0) >> (64 - to)) }
