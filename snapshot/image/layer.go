package image

import (
	"errors"
	"io"

	"golang.org/x/sys/unix"
)

// kind is what a layer knows about a range of the disk.
type kind uint8

const (
	kindAbsent     kind = iota // the layer below knows
	kindZero                   // reads as zeros
	kindData                   // bytes in the file
	kindCompressed             // inside one compressed cluster
)

// piece is a range of one kind.
type piece struct {
	kind   kind
	length int64
	host   int64  // kindData: offset in the file
	entry  uint64 // kindCompressed: the L2 entry
}

// layer is one image of a chain. Ranges lie within its size.
type layer interface {
	// size is the virtual size in bytes.
	size() int64

	// lookup tells what lies at off: a piece of 1 to n bytes.
	lookup(off, n int64) (piece, error)

	// read fills p from off, with below filling what the layer does not have.
	read(p []byte, off int64, below func(p []byte, off int64) error) error
}

// raw is a layer that is nothing but the disk's bytes.
type raw struct{ f *file }

func (r raw) size() int64 { return r.f.size }

func (r raw) read(p []byte, off int64, _ func([]byte, int64) error) error {
	return r.f.read(p, off, "data")
}

// lookup finds holes. A file system or a device that cannot tell says data.
func (r raw) lookup(off, n int64) (piece, error) {
	data, err := r.f.Seek(off, unix.SEEK_DATA)
	switch {
	case errors.Is(err, unix.ENXIO) && off < r.f.size:
		return r.hole(off, n)
	case err != nil:
		return piece{kind: kindData, length: n, host: off}, nil
	case data > off:
		return piece{kind: kindZero, length: min(n, data-off)}, nil
	}
	hole, err := r.f.Seek(off, unix.SEEK_HOLE)
	if err != nil || hole <= off {
		hole = off + n
	}
	return piece{kind: kindData, length: min(n, hole-off), host: off}, nil
}

// hole answers for a file without data after off, and tells it from one that
// was cut off meanwhile.
func (r raw) hole(off, n int64) (piece, error) {
	if end, err := r.f.Seek(0, io.SeekEnd); err != nil || end < off+n {
		return piece{}, r.f.corrupt("data at %#x is gone: the file became shorter", off)
	}
	return piece{kind: kindZero, length: n}, nil
}
