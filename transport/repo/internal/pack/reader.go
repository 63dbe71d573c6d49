package pack

import (
	"fmt"

	"github.com/lull-backup/lull/transport/block"
	"github.com/lull-backup/lull/transport/repo/internal/keys"
	"github.com/lull-backup/lull/transport/repo/internal/wire"
)

// Tail is how many bytes from a pack's end hold its directory as a rule.
const Tail = 256 << 10

// OpenDirectory reads the directory of a pack of size bytes from its last bytes.
// When tail is too short for it, need tells how many are wanted.
func OpenDirectory(ring *keys.Ring, tail []byte, size int64) (l Listing, need int, err error) {
	if size > MaxPack || size < keys.PackHeaderSize+keys.IndexOverhead+trailerSize || len(tail) < trailerSize || int64(len(tail)) > size {
		return l, 0, fmt.Errorf("%w: pack of %d bytes", wire.ErrDamaged, size)
	}
	trailer := tail[len(tail)-trailerSize:]
	l.Size = uint32(size)
	if l.Kind, err = wire.ParsePrefix(trailer[4:]); err != nil {
		return l, 0, err
	}
	length := int64(wire.NewReader(trailer).Uint32())
	if length > size-keys.PackHeaderSize-trailerSize {
		return l, 0, fmt.Errorf("%w: directory of %d bytes", wire.ErrDamaged, length)
	}
	if whole := int(length) + trailerSize; whole > len(tail) {
		return l, whole, nil
	}
	sealed := tail[len(tail)-trailerSize-int(length) : len(tail)-trailerSize]
	plain, err := ring.OpenIndex(l.Kind, sealed)
	if err != nil {
		return l, 0, fmt.Errorf("directory: %w", err)
	}
	r := wire.NewReader(plain)
	dir, end, err := parseDirectory(r)
	if err != nil {
		return l, 0, err
	}
	l.Directory = dir
	if int64(end) != size-trailerSize-length {
		return l, 0, fmt.Errorf("%w: directory: segments end at %d of %d", wire.ErrDamaged, end, size-trailerSize-length)
	}
	return l, 0, r.Done()
}

// Verify checks the opened content of s: lengths, and every block by its name.
func (s *Segment) Verify(plain []byte, namer block.Namer) error {
	for i := range s.Blocks {
		b := &s.Blocks[i]
		if int(b.Length) > len(plain) || namer.Name(plain[:b.Length]) != b.Name {
			return fmt.Errorf("%w: segment at %d: block %s has other content", wire.ErrDamaged, s.Offset, b.Name)
		}
		plain = plain[b.Length:]
	}
	if len(plain) > 0 {
		return fmt.Errorf("%w: segment at %d: %d bytes too many", wire.ErrDamaged, s.Offset, len(plain))
	}
	return nil
}
