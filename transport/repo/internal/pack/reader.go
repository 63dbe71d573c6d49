package pack

import (
	"fmt"

	"github.com/zeebo/blake3"

	"github.com/lull-backup/lull/transport/block"
	"github.com/lull-backup/lull/transport/repo/internal/keys"
	"github.com/lull-backup/lull/transport/repo/internal/wire"
)

// Tail is how many bytes from a pack's end hold its directory as a rule.
const Tail = 256 << 10

// OpenDirectory reads the directory of a pack of size bytes from its last bytes.
// When tail is too short for it, need tells how many are wanted. It does not verify who
// signed the pack: Listing.Verify does.
func OpenDirectory(ring *keys.Ring, tail []byte, size int64) (l Listing, need int, err error) {
	header := int64(ring.PackHeaderSize())
	if size > MaxPack || size < header+keys.IndexOverhead+trailerSize || len(tail) < trailerSize || int64(len(tail)) > size {
		return l, 0, fmt.Errorf("%w: pack of %d bytes", wire.ErrDamaged, size)
	}
	rest, err := l.cutSignature(ring, tail)
	if err != nil {
		return l, 0, err
	}
	trailer := rest[len(rest)-trailerSize:]
	l.Size = uint32(size)
	if l.Kind, err = ring.ParsePrefix(trailer[4:]); err != nil {
		return l, 0, err
	}
	length := int64(wire.NewReader(trailer).Uint32())
	signed := int64(len(tail) - len(rest))
	start := size - signed - trailerSize - length // of the sealed directory, in the pack
	if start < header {
		return l, 0, fmt.Errorf("%w: directory of %d bytes", wire.ErrDamaged, length)
	}
	if whole := size - start; whole > int64(len(tail)) {
		return l, int(whole), nil
	}
	at := int64(len(rest)) - trailerSize - length
	plain, err := ring.OpenIndex(l.Kind, rest[at:at+length])
	if err != nil {
		return l, 0, fmt.Errorf("directory: %w", err)
	}
	err = l.parse(ring, plain, start)
	return l, 0, err
}

// cutSignature takes off what format 2 adds at the end of a pack.
func (l *Listing) cutSignature(ring *keys.Ring, tail []byte) (rest []byte, err error) {
	if !ring.Format().Signed() {
		return tail, nil
	}
	if len(tail) < keys.SignatureSize {
		return nil, fmt.Errorf("%w: no signature", wire.ErrDamaged)
	}
	rest, l.Signature = tail[:len(tail)-keys.SignatureSize], tail[len(tail)-keys.SignatureSize:]
	if rest, l.Certificate, err = keys.CutCertificate(rest); err == nil && len(rest) < trailerSize {
		err = fmt.Errorf("%w: pack without a directory", wire.ErrDamaged)
	}
	return rest, err
}

// parse reads the opened directory, which starts at start in the pack. Between the
// segments and it there may be padding, since format 2.
func (l *Listing) parse(ring *keys.Ring, plain []byte, start int64) error {
	r := wire.NewReader(plain)
	dir, end, err := parseDirectory(r, ring.PackHeaderSize())
	if err != nil {
		return err
	}
	l.Directory = dir
	if int64(end) > start || int64(end) < start && !ring.Format().Signed() {
		return fmt.Errorf("%w: directory: segments end at %d of %d", wire.ErrDamaged, end, start)
	}
	return r.Done()
}

// Name is the name of a pack by its bytes: their hash, but for the signature, which is
// made over the name.
func Name(ring *keys.Ring, b []byte) [32]byte {
	if ring.Format().Signed() {
		b = b[:max(0, len(b)-keys.SignatureSize)]
	}
	return blake3.Sum256(b)
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
