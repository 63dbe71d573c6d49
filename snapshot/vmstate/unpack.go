package vmstate

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Unpack writes to w the stream that Pack laid out in src, which has size bytes. A
// layout that does not hold it is an error, maybe after part of the stream was
// written. Errors of src and w are passed on.
func Unpack(ctx context.Context, w io.Writer, src io.ReaderAt, size int64) error {
	b := make([]byte, headerSize)
	if _, err := src.ReadAt(b, 0); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	h, err := decodeHeader(b, size)
	if err != nil {
		return err
	}
	sum := sha256.New()
	u := &unpacker{
		header: h, src: src, w: bufio.NewWriterSize(io.MultiWriter(sum, w), bufferSize),
		rest: bufio.NewReaderSize(io.NewSectionReader(src, h.rest, h.restLength), bufferSize),
	}
	for u.n < h.length {
		if err := u.record(); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	if err := u.w.Flush(); err != nil {
		return err
	}
	if [sha256.Size]byte(sum.Sum(nil)) != h.sum {
		return fmt.Errorf("%w: it makes another stream", errCorrupt)
	}
	return nil
}

// unpacker is a layout that is being followed.
type unpacker struct {
	header
	src  io.ReaderAt
	rest *bufio.Reader
	w    *bufio.Writer
	n    int64 // bytes of the stream so far
	buf  []byte
}

// record follows one record.
func (u *unpacker) record() error {
	kind, err := u.rest.ReadByte()
	if err != nil {
		return cut(err)
	}
	switch kind {
	case recordBytes:
		return u.bytes()
	case recordPages, recordZeros:
		return u.pages(kind)
	case recordPage:
		var at [1]int64
		if err := u.numbers(at[:]); err != nil {
			return err
		}
		return u.copy(at[0], 1, nil)
	}
	return fmt.Errorf("%w: a record of kind %d", errCorrupt, kind)
}

// numbers reads what follows the kind of a record.
func (u *unpacker) numbers(list []int64) error {
	for i := range list {
		n, err := u.number()
		if err != nil {
			return err
		}
		list[i] = n
	}
	return nil
}

// number reads a uvarint of at most 49 bits: more has no place that is meant.
func (u *unpacker) number() (n int64, err error) {
	for shift := 0; shift < 49; shift += 7 {
		b, err := u.rest.ReadByte()
		if err != nil {
			return 0, cut(err)
		}
		n |= int64(b&0x7f) << shift
		if b < 0x80 {
			return n, nil
		}
	}
	return 0, fmt.Errorf("%w: a number that is too large", errCorrupt)
}

// bytes copies bytes that were kept as they are.
func (u *unpacker) bytes() error {
	var count [1]int64
	if err := u.numbers(count[:]); err != nil {
		return err
	}
	for left := count[0]; left > 0; {
		b := u.room(int(min(left, bufferSize)))
		if _, err := io.ReadFull(u.rest, b); err != nil {
			return cut(err)
		}
		if err := u.write(b); err != nil {
			return err
		}
		left -= int64(len(b))
	}
	return nil
}

// pages writes a run of pages, or of pages of zeros, each after its head.
func (u *unpacker) pages(kind byte) error {
	var n [3]int64 // guest, here, count
	if kind == recordZeros {
		if err := u.numbers(n[1:]); err != nil {
			return err
		}
		n[0] = n[1]
	} else if err := u.numbers(n[:]); err != nil {
		return err
	}
	guest, here, count := n[0]*pageSize, n[1], n[2]
	if kind == recordPages {
		return u.copy(here, count, func(i int64) uint64 { return uint64(guest+i*pageSize) | headPages })
	}
	var b [wordSize + 1]byte
	for i := range count {
		binary.BigEndian.PutUint64(b[:], uint64(guest+i*pageSize)|headZeros)
		if err := u.write(b[:]); err != nil {
			return err
		}
	}
	return nil
}

// copy writes count pages from here on. head, where not nil, makes what comes
// before each.
func (u *unpacker) copy(here, count int64, head func(i int64) uint64) error {
	const most = bufferSize / pageSize
	if here+count > u.header.rest/pageSize {
		return fmt.Errorf("%w: pages that are not in it", errCorrupt)
	}
	for i := int64(0); i < count; {
		b := u.room(int(min(count-i, most)) * pageSize)
		if _, err := u.src.ReadAt(b, (here+i)*pageSize); err != nil {
			return cut(err)
		}
		for ; len(b) > 0; b = b[pageSize:] {
			if head != nil {
				var word [wordSize]byte
				binary.BigEndian.PutUint64(word[:], head(i))
				if err := u.write(word[:]); err != nil {
					return err
				}
			}
			if err := u.write(b[:pageSize]); err != nil {
				return err
			}
			i++
		}
	}
	return nil
}

// room is a buffer of n bytes, at most bufferSize.
func (u *unpacker) room(n int) []byte {
	if u.buf == nil {
		u.buf = make([]byte, bufferSize)
	}
	return u.buf[:n]
}

// write appends to the stream, never more than it had.
func (u *unpacker) write(b []byte) error {
	if u.n += int64(len(b)); u.n > u.header.length {
		return fmt.Errorf("%w: it makes a longer stream", errCorrupt)
	}
	_, err := u.w.Write(b)
	return err
}

// cut is the error of a layout that ends within a record.
func cut(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: it ends too early", errCorrupt)
	}
	return err
}
