package wire

import (
	"encoding/binary"
	"fmt"
)

// Reader takes fields off a byte slice. After the first field that does not fit
// it returns zeros only, and Err and Done say so.
type Reader struct {
	b   []byte
	bad bool
}

// NewReader reads b, which it does not copy.
func NewReader(b []byte) *Reader { return &Reader{b: b} }

// Bytes returns the next n bytes, a part of the slice that is read.
func (r *Reader) Bytes(n int) []byte {
	if r.bad || n < 0 || n > len(r.b) {
		r.bad = true
		return nil
	}
	head := r.b[:n:n]
	r.b = r.b[n:]
	return head
}

// Byte returns the next byte.
func (r *Reader) Byte() byte {
	if b := r.Bytes(1); b != nil {
		return b[0]
	}
	return 0
}

// Uint16 returns the next two bytes, little-endian.
func (r *Reader) Uint16() uint16 {
	if b := r.Bytes(2); b != nil {
		return binary.LittleEndian.Uint16(b)
	}
	return 0
}

// Uint32 returns the next four bytes, little-endian.
func (r *Reader) Uint32() uint32 {
	if b := r.Bytes(4); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

// Uint64 returns the next eight bytes, little-endian.
func (r *Reader) Uint64() uint64 {
	if b := r.Bytes(8); b != nil {
		return binary.LittleEndian.Uint64(b)
	}
	return 0
}

// Name returns the next 32 bytes.
func (r *Reader) Name() (name [32]byte) {
	copy(name[:], r.Bytes(len(name)))
	return name
}

// Count checks a count that was read: so many items of at least size bytes each
// must still follow. It is what makes allocating them safe.
func (r *Reader) Count(n uint32, size int) int {
	if r.bad || uint64(n)*uint64(size) > uint64(len(r.b)) {
		r.bad = true
		return 0
	}
	return int(n)
}

// Len is the number of bytes that were not taken yet.
func (r *Reader) Len() int { return len(r.b) }

// Err tells whether all fields were there.
func (r *Reader) Err() error {
	if r.bad {
		return fmt.Errorf("%w: ends too early", ErrDamaged)
	}
	return nil
}

// Done tells whether all fields were there and nothing follows.
func (r *Reader) Done() error {
	if err := r.Err(); err != nil {
		return err
	}
	if len(r.b) > 0 {
		return fmt.Errorf("%w: %d bytes too many", ErrDamaged, len(r.b))
	}
	return nil
}
