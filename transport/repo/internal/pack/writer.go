package pack

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"sync"

	"github.com/zeebo/blake3"

	"github.com/lull-backup/lull/transport/repo/internal/keys"
	"github.com/lull-backup/lull/transport/repo/internal/wire"
)

// MaxPack bounds a pack in bytes, for readers.
const MaxPack = 64 << 20

const trailerSize = 4 + wire.PrefixSize

// ErrVerify: what was sealed does not open to what it was made of.
var ErrVerify = errors.New("sealed data does not open again: broken memory or processor")

// Writer fills one pack in memory. Safe for concurrent use.
type Writer struct {
	kind  wire.Kind
	key   *keys.PackKey
	codec *Codec
	room  int // of segments and directory

	mu      sync.Mutex
	buf     []byte // its memory never moves: places are parts of it
	dir     Directory
	dirSize int
	pending int // places that are not filled
	closed  bool
	padded  bool
}

// NewWriter starts a pack in the memory of buf, whose capacity bounds it.
func NewWriter(ring *keys.Ring, codec *Codec, kind wire.Kind, buf []byte) (*Writer, error) {
	header, key, err := ring.NewPackKey(buf[:0], kind)
	if err != nil {
		return nil, fmt.Errorf("start pack: %w", err)
	}
	room := min(cap(buf), MaxPack) - keys.IndexOverhead - trailerSize - ring.CertificateSize() - keys.SignatureSize
	return &Writer{kind: kind, key: key, codec: codec, room: room, buf: header, dirSize: Directory{}.encodedSize()}, nil
}

// Place is where a segment goes.
type Place struct {
	offset uint32
	sealed []byte // memory for the sealed segment
}

// Pad makes the finished pack longer, so that its size tells less of what is in it: to one
// of a few sizes in each octave (PADMÉ: Nikitin et al., PETS 2019), or to the end of its
// memory.
func (w *Writer) Pad() { w.padded = true }

// pad appends random bytes to the segments. They have no meaning.
func (w *Writer) pad(ring *keys.Ring) {
	size := len(w.buf) + w.dirSize + keys.IndexOverhead + trailerSize + ring.CertificateSize() + keys.SignatureSize
	if more := min(padme(size), cap(w.buf), MaxPack) - size; w.padded && more > 0 {
		start := len(w.buf)
		w.buf = w.buf[:start+more]
		rand.Read(w.buf[start:])
	}
}

// padme is the next size that has no more bits set than the logarithm of its logarithm
// asks for: at most 12 % longer, 3 % from 1 MiB on.
func padme(size int) int {
	e := bits.Len(uint(size)) - 1
	low := e - bits.Len(uint(max(e, 1)))
	mask := 1<<max(low, 0) - 1
	return (size + mask) &^ mask
}

// Reserve takes the next place, for a segment of packed bytes with these blocks,
// or reports that the pack is too full. Every place must be filled.
func (w *Writer) Reserve(packed int, blocks []Block) (Place, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	length := packed + keys.PackOverhead
	dirSize := w.dirSize + segmentFixed + len(blocks)*blockFixed
	if w.closed || len(w.buf)+length+dirSize > w.room {
		return Place{}, false
	}
	offset := len(w.buf)
	w.buf = w.buf[:offset+length]
	w.dir = append(w.dir, Segment{Offset: uint32(offset), Length: uint32(length), Blocks: blocks})
	w.dirSize = dirSize
	w.pending++
	return Place{offset: uint32(offset), sealed: w.buf[offset : offset+length : offset+length]}, true
}

// Fill seals the packed segment into its place, and proves that it opens to
// plain. scratch is memory for that. The pack is ready when it is closed and Fill
// has been called for every place; Fill then returns true, to one caller.
func (w *Writer) Fill(p Place, packed, plain []byte, scratch *Scratch) (ready bool, err error) {
	w.key.Seal(p.sealed[:0], p.offset, packed)
	err = w.verify(p, plain, scratch)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pending--
	return w.closed && w.pending == 0, err
}

// Scratch is memory that verifying uses again and again.
type Scratch struct{ opened, unpacked []byte }

func (w *Writer) verify(p Place, plain []byte, s *Scratch) error {
	var err error
	if s.opened, err = w.key.Open(s.opened[:0], p.offset, p.sealed); err != nil {
		return fmt.Errorf("%w: %w", ErrVerify, err)
	}
	if s.unpacked == nil {
		s.unpacked = make([]byte, 0, MaxSegment)
	}
	again, err := w.codec.Unpack(s.unpacked, s.opened)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrVerify, err)
	}
	if !bytes.Equal(again, plain) {
		return ErrVerify
	}
	return nil
}

// Close ends reserving. It returns true when the pack is ready already.
func (w *Writer) Close() (ready bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	return w.pending == 0
}

// Pack is a finished pack.
type Pack struct {
	Listing
	Bytes []byte // all of it, in the memory that the Writer was given
}

// Finish completes a pack that is ready.
func (w *Writer) Finish(ring *keys.Ring) (Pack, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pad(ring)
	segments := len(w.buf)
	buf, err := ring.SealIndex(w.buf, w.kind, w.dir.append(make([]byte, 0, w.dirSize)))
	if err != nil {
		return Pack{}, fmt.Errorf("finish pack: %w", err)
	}
	buf = binary.LittleEndian.AppendUint32(buf, uint32(len(buf)-segments))
	prefix := ring.Prefix(w.kind)
	buf = append(buf, prefix[:]...)
	p := Pack{Listing: Listing{Kind: w.kind, Directory: w.dir}}
	err = p.sign(ring, buf)
	return p, err
}

// sign ends the pack, all but whose signature is in b.
func (p *Pack) sign(ring *keys.Ring, b []byte) (err error) {
	at := len(b)
	b = ring.AppendCertificate(b)
	p.Certificate = bytes.Clone(b[at:]) // b's memory is used again
	p.Pack, p.Size = blake3.Sum256(b), uint32(len(b)+keys.SignatureSize)
	if p.Signature, err = ring.SignPack(p.Pack, p.content()); err != nil {
		return fmt.Errorf("finish pack: %w", err)
	}
	p.Bytes = append(b, p.Signature...)
	return nil
}
