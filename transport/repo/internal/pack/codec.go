package pack

import (
	"fmt"
	"runtime"
	"slices"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"

	"github.com/lull-backup/lull/transport/repo/internal/wire"
)

// Methods of compression: the first byte of a segment.
const (
	methodStored = 0
	methodZstd   = 1
	methodS2     = 2 // since format 2
)

// Level is how hard a segment is compressed.
type Level uint8

// Levels, each about half as fast as the one before.
const (
	Fast    Level = iota // S2: for hosts whose processor has other work; format 2 only
	Normal               // zstd, as fast as it goes
	High                 // zstd's default; what maintenance writes may cost this
	Highest              // zstd, better yet
	levels
)

// zstdLevel of a Level but Fast.
func (l Level) zstdLevel() zstd.EncoderLevel {
	switch l {
	case High:
		return zstd.SpeedDefault
	case Highest:
		return zstd.SpeedBetterCompression
	}
	return zstd.SpeedFastest
}

// encoders is how many segments are compressed at once at most. Each takes memory:
// 0.5 MiB at Normal, 2 MiB at High, 8 MiB at Highest.
func (l Level) encoders() int {
	if l == Highest {
		return min(runtime.GOMAXPROCS(0), 4)
	}
	return min(runtime.GOMAXPROCS(0), 16)
}

// Codec compresses and unpacks segments. Safe for concurrent use.
type Codec struct {
	enc [levels]*zstd.Encoder // Fast has none; they take memory when they are used
	dec *zstd.Decoder
}

// NewCodec makes a codec for as many goroutines as there are processors.
func NewCodec() (*Codec, error) {
	c := new(Codec)
	for l := Normal; l < levels; l++ {
		enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(l.zstdLevel()), zstd.WithEncoderConcurrency(l.encoders()),
			zstd.WithWindowSize(MaxSegment), zstd.WithEncoderCRC(false), zstd.WithLowerEncoderMem(true),
			zstd.WithAllLitEntropyCompression(true)) // what never repeats may still use few characters: mail, dumps, samples
		if err != nil {
			return nil, fmt.Errorf("make compressor: %w", err)
		}
		c.enc[l] = enc
	}
	dec, err := zstd.NewReader(nil, zstd.WithDecoderMaxMemory(MaxSegment), zstd.WithDecoderConcurrency(0))
	if err != nil {
		return nil, fmt.Errorf("make decompressor: %w", err)
	}
	c.dec = dec
	return c, nil
}

// Close lets the codec's memory go.
func (c *Codec) Close() {
	for l := Normal; l < levels; l++ {
		c.enc[l].Close()
	}
	c.dec.Close()
}

// Pack packs at level Normal: see PackAt.
func (c *Codec) Pack(dst, plain []byte) []byte { return c.PackAt(dst, plain, Normal) }

// PackAt appends the packed form of plain, at most one byte longer than it. What
// shrinks by less than one part in 64 is stored as it is: unpacking it would cost
// every restore more than it saves. No test comes before: the compressors themselves
// pass over what does not shrink at over 1 GB/s.
func (c *Codec) PackAt(dst, plain []byte, level Level) []byte {
	start := len(dst)
	if level == Fast {
		dst = appendS2(append(dst, methodS2), plain)
	} else {
		dst = c.enc[min(level, levels-1)].EncodeAll(plain, append(dst, methodZstd))
	}
	if len(dst)-start-1 <= len(plain)-len(plain)/64 && len(dst)-start-1 < len(plain) {
		return dst
	}
	return append(append(dst[:start], methodStored), plain...)
}

// appendS2 appends one block of S2.
func appendS2(dst, plain []byte) []byte {
	start := len(dst)
	dst = slices.Grow(dst, s2.MaxEncodedLen(len(plain)))
	return dst[:start+len(s2.Encode(dst[start:cap(dst)], plain))]
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
	case methodS2:
		return unpackS2(dst, packed[1:])
	}
	return nil, fmt.Errorf("%w: compression method %d", wire.ErrNewer, packed[0])
}

func unpackS2(dst, packed []byte) ([]byte, error) {
	n, err := s2.DecodedLen(packed)
	if err == nil && n > MaxSegment {
		err = s2.ErrTooLarge
	}
	if err != nil {
		return nil, fmt.Errorf("%w: unpack segment: %w", wire.ErrDamaged, err)
	}
	plain, err := s2.Decode(dst[:cap(dst)], packed)
	if err != nil {
		return nil, fmt.Errorf("%w: unpack segment: %w", wire.ErrDamaged, err)
	}
	return plain, nil
}
