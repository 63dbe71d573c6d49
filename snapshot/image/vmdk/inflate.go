package vmdk

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zlib"

	"github.com/lull-backup/lull/snapshot/image/layer"
)

// markerSize is what stands before a compressed grain: its place on the disk, in
// sectors, and its length.
const markerSize = 12

// readCompressed fills p from off, both inside the one grain of a piece.
func (s *sparse) readCompressed(p []byte, off int64, pc layer.Piece) error {
	marker := make([]byte, markerSize)
	if err := s.f.Read(marker, pc.Host, "grain"); err != nil {
		return err
	}
	grain := off / s.grain * s.grain
	place, length := le.Uint64(marker), int64(le.Uint32(marker[8:]))
	// What does not shrink grows by a few bytes a block.
	if place != uint64(grain/layer.SectorSize) || length == 0 || length > 2*s.grain {
		return s.f.Corrupt("compressed grain at %#x is that of sector %d (%d bytes), not of %d", pc.Host, place, length, grain/layer.SectorSize)
	}
	packed := s.buffer(length)
	defer s.buffers.Put(packed)
	if err := s.f.Read(*packed, pc.Host+markerSize, "compressed grain"); err != nil {
		return err
	}
	size := min(s.grain, s.size-grain) // the last grain may end with the disk
	if int64(len(p)) == size {
		return s.expanded(pc, s.expand(p, *packed))
	}
	whole := s.buffer(size)
	defer s.buffers.Put(whole)
	if err := s.expand(*whole, *packed); err != nil {
		return s.expanded(pc, err)
	}
	copy(p, (*whole)[off-grain:])
	return nil
}

func (s *sparse) expanded(pc layer.Piece, err error) error {
	if err != nil {
		return fmt.Errorf("%w (%w)", s.f.Corrupt("compressed grain at %#x does not expand", pc.Host), err)
	}
	return nil
}

// expand fills out from the beginning of a compressed stream, whose checksum is
// verified. The last grain of a disk may be stored whole.
func (s *sparse) expand(out, packed []byte) error {
	source := bytes.NewReader(packed)
	r, _ := s.zlib.Get().(io.ReadCloser)
	if r == nil {
		var err error
		if r, err = zlib.NewReader(source); err != nil {
			return err
		}
	} else if err := r.(zlib.Resetter).Reset(source, nil); err != nil {
		return err
	}
	defer s.zlib.Put(r)
	if _, err := io.ReadFull(r, out); err != nil {
		return err
	}
	n, err := io.CopyN(io.Discard, r, maxGrain)
	if errors.Is(err, io.EOF) {
		return nil
	}
	return fmt.Errorf("it goes on for %d bytes: %w", n, err)
}
