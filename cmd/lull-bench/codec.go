package main

import (
	"fmt"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
)

// codec tells how many bytes a segment comes to. Each is used by one goroutine.
type codec interface {
	size(segment, before []byte) (int, error)
}

func newCodec(name string, segment int) (codec, error) {
	switch name {
	case "s2":
		return &s2Codec{}, nil
	case "zstd fastest":
		return newZstd(zstd.SpeedFastest, segment)
	case "zstd default":
		return newZstd(zstd.SpeedDefault, segment)
	case "zstd better":
		return newZstd(zstd.SpeedBetterCompression, segment)
	case "zstd fastest, seeded 64 KiB":
		return &seeded{window: segment, seed: 64 * kib}, nil
	case "zstd fastest, seeded 256 KiB":
		return &seeded{window: segment, seed: 256 * kib}, nil
	}
	return nil, fmt.Errorf("unknown codec %q", name)
}

type s2Codec struct{ buf []byte }

func (c *s2Codec) size(segment, _ []byte) (int, error) {
	c.buf = s2.Encode(c.buf[:cap(c.buf)], segment)
	return min(len(c.buf), len(segment)), nil
}

type zstdCodec struct {
	enc *zstd.Encoder
	buf []byte
}

func newZstd(level zstd.EncoderLevel, window int) (*zstdCodec, error) {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(level), zstd.WithWindowSize(window), zstd.WithEncoderCRC(false),
		zstd.WithEncoderConcurrency(1), zstd.WithLowerEncoderMem(true))
	if err != nil {
		return nil, fmt.Errorf("make compressor: %w", err)
	}
	return &zstdCodec{enc: enc}, nil
}

func (c *zstdCodec) size(segment, _ []byte) (int, error) {
	c.buf = c.enc.EncodeAll(segment, c.buf[:0])
	return min(len(c.buf), len(segment)), nil
}

// seeded compresses each segment as if the end of the one before stood in front of
// it. A reader would need that one, too.
type seeded struct {
	window, seed int
	buf          []byte
}

func (c *seeded) size(segment, before []byte) (int, error) {
	options := []zstd.EOption{zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithWindowSize(2 * c.window), zstd.WithEncoderCRC(false),
		zstd.WithEncoderConcurrency(1), zstd.WithLowerEncoderMem(true)}
	if len(before) > 0 {
		options = append(options, zstd.WithEncoderDictRaw(1, before[max(0, len(before)-c.seed):]))
	}
	enc, err := zstd.NewWriter(nil, options...)
	if err != nil {
		return 0, fmt.Errorf("make compressor: %w", err)
	}
	defer enc.Close()
	c.buf = enc.EncodeAll(segment, c.buf[:0])
	return min(len(c.buf), len(segment)), nil
}
