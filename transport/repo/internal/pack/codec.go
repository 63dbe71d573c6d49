package pack

import (
	"fmt"

	"github.com/klauspost/compress/zstd"

	"github.com/lull-backup/lull/transport/repo/internal/wire"
)

// Methods of compression: the first byte of a segment.
const (
	methodStored = 0
	methodZstd   = 1
)

// Codec compresses and unpacks segments. Safe for concurrent use.
type Codec struct {
	enc *zstd.Encoder
	dec *zstd.Decoder
}

// NewCodec makes a codec for as many goroutines as there are processors.
func NewCodec() (*Codec, error) {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest),
		zstd.WithWindowSize(MaxSegment), zstd.WithEncoderCRC(false), zstd.WithLowerEncoderMem(true))
	if err != nil {
		return nil, fmt.Errorf("make compressor: %w", err)
	}
	dec, err := zstd.NewReader(nil, zstd.WithDecoderMaxMemory(MaxSegment), zstd.WithDecoderConcurrency(0))
	if err != nil {
		return nil, fmt.Errorf("make decompressor: %w", err)
	}
	return &Codec{enc: enc, dec: dec}, nil
}

// Close lets the codec's memory go.
func (c *Codec) Close() {
	c.enc.Close()
	c.dec.Close()
}

// Pack appends the packed form of plain, at most one byte longer than it. What
// shrinks by less than one part in 64 is stored as it is: unpacking it would cost
// every restore more than it saves. No test comes before: the compressor itself
// passes over what does not shrink at 3 GB/s.
func (c *Codec) Pack(dst, plain []byte) []byte {
	start := len(dst)
	dst = c.enc.EncodeAll(plain, append(dst, methodZstd))
	if len(dst)-start-1 <= len(plain)-len(plain)/64 && len(dst)-start-1 < len(plain) {
		return dst
	}
	return append(append(dst[:start], methodStored), plain...)
}

// Unpack returns what Pack packed: a part of packed itself, or of dst's memory
// where that has room. It is at most MaxSegment long.
func (c *Codec) Unpack(dst, packed []byte) ([]byte, error) {
	if len(packed) == 0 || len(packed)-1 > MaxSegment {
		return nil, fmt.Errorf("%w: packed segment of %d bytes", wire.ErrDamaged, len(packed))
	}
	switch packed[0] {
	case methodStored:
		return packed[1:], nil
	case methodZstd:
		plain, err := c.dec.DecodeAll(packed[1:], dst[:0])
		if err == nil && len(plain) > MaxSegment {
			err = zstd.ErrDecoderSizeExceeded
		}
		if err != nil {
			return nil, fmt.Errorf("%w: unpack segment: %w", wire.ErrDamaged, err)
		}
		return plain, nil
	}
	return nil, fmt.Errorf("%w: compression method %d", wire.ErrNewer, packed[0])
}
