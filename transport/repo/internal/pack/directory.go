package pack

import (
	"encoding/binary"
	"fmt"

	"github.com/lull-backup/lull/transport/block"
	"github.com/lull-backup/lull/transport/repo/internal/keys"
	"github.com/lull-backup/lull/transport/repo/internal/wire"
)

// MaxSegment is the length of an opened and unpacked segment at most, in bytes.
// In format 1 it is half of that; readers need not tell.
const MaxSegment = 2 << 20

const (
	// SegmentOverhead is how much longer than its content a segment is at most.
	SegmentOverhead = 1 + keys.PackOverhead

	segmentFixed = 4 + 4  // of a directory's segment, which has a block at least: length, number of blocks
	blockFixed   = 32 + 2 // of a directory's block: name, length - 1
)

// Block is one block of a segment. Blocks follow each other without gaps.
type Block struct {
	Name   block.Name
	Length uint32 // 1 to block.MaxBlock
}

// Segment is one segment of a pack.
type Segment struct {
	Offset uint32 // in the pack
	Length uint32 // as stored
	Blocks []Block
}

// Directory lists the segments of a pack in order, without gaps.
type Directory []Segment

// encodedSize is the length of d's encoding.
func (d Directory) encodedSize() int {
	n := 4
	for i := range d {
		n += segmentFixed + len(d[i].Blocks)*blockFixed
	}
	return n
}

// append encodes d.
func (d Directory) append(dst []byte) []byte {
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(d)))
	for i := range d {
		dst = binary.LittleEndian.AppendUint32(dst, d[i].Length)
		dst = binary.LittleEndian.AppendUint32(dst, uint32(len(d[i].Blocks)))
		for j := range d[i].Blocks {
			b := &d[i].Blocks[j]
			dst = append(dst, b.Name[:]...)
			dst = binary.LittleEndian.AppendUint16(dst, uint16(b.Length-1))
		}
	}
	return dst
}

// parseDirectory decodes a directory, whose first segment is at start, and returns
// where its segments end.
func parseDirectory(r *wire.Reader, start int) (Directory, uint32, error) {
	d := make(Directory, r.Count(r.Uint32(), segmentFixed+blockFixed))
	blocks := make([]Block, countBlocks(*r, len(d)))
	end := uint64(start)
	for i := range d {
		d[i].Offset = uint32(end)
		d[i].Length = r.Uint32()
		if end += uint64(d[i].Length); d[i].Length <= SegmentOverhead || d[i].Length > MaxSegment+SegmentOverhead || end > MaxPack {
			return nil, 0, fmt.Errorf("%w: directory: segment of %d bytes", wire.ErrDamaged, d[i].Length)
		}
		n := r.Count(r.Uint32(), blockFixed)
		if n > len(blocks) {
			return nil, 0, fmt.Errorf("%w: directory: %d blocks more than were counted", wire.ErrDamaged, n-len(blocks))
		}
		d[i].Blocks, blocks = blocks[:n:n], blocks[n:]
		if err := d[i].parseBlocks(r); err != nil {
			return nil, 0, err
		}
	}
	return d, uint32(end), r.Err()
}

// countBlocks is how many blocks the next segments have together, as far as they are there:
// all that is allocated for them is one piece, of the size of what is read by about.
func countBlocks(r wire.Reader, segments int) (blocks int) {
	for range segments {
		r.Uint32()
		n := r.Count(r.Uint32(), blockFixed)
		r.Bytes(n * blockFixed)
		blocks += n
	}
	return blocks
}

func (s *Segment) parseBlocks(r *wire.Reader) error {
	total := 0
	for j := range s.Blocks {
		s.Blocks[j] = Block{Name: r.Name(), Length: uint32(r.Uint16()) + 1}
		total += int(s.Blocks[j].Length)
	}
	if total > MaxSegment || len(s.Blocks) == 0 {
		return fmt.Errorf("%w: directory: segment of %d blocks, %d bytes", wire.ErrDamaged, len(s.Blocks), total)
	}
	return nil
}
