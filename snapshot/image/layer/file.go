package layer

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/lull-backup/lull/snapshot"
)

// SectorSize is the unit in which images count, in bytes.
const SectorSize = 512

// File is an image file that is open for reading.
type File struct {
	*os.File
	Path string
	Size int64 // when it was opened, bytes
}

// Open opens a regular file or a block device, and nothing else: opening a
// FIFO would wait, and a character device has no end.
func Open(path string) (*File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	size, err := sizeOf(f)
	if err != nil {
		f.Close()
		return nil, err
	}
	return &File{File: f, Path: path, Size: size}, nil
}

func sizeOf(f *os.File) (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	switch mode := info.Mode(); {
	case mode.IsRegular():
		return info.Size(), nil
	case mode&os.ModeDevice != 0 && mode&os.ModeCharDevice == 0:
		return f.Seek(0, io.SeekEnd)
	}
	return 0, fmt.Errorf("%s is neither a regular file nor a block device: %w", f.Name(), snapshot.ErrUnsupported)
}

// Read fills p from off. What names the thing that should be there.
func (f *File) Read(p []byte, off int64, what string) error {
	if off < 0 || off > f.Size || int64(len(p)) > f.Size-off {
		return f.Corrupt("%s at %#x (%d bytes) reaches past the end of the file at %#x", what, off, len(p), f.Size)
	}
	_, err := f.ReadAt(p, off)
	if errors.Is(err, io.EOF) {
		return f.Corrupt("%s at %#x is gone: the file became shorter", what, off)
	}
	return err
}

// Corrupt is a snapshot.ErrCorrupt that names the file.
func (f *File) Corrupt(format string, args ...any) error {
	return fmt.Errorf("%s: %s: %w", f.Path, fmt.Sprintf(format, args...), snapshot.ErrCorrupt)
}

// Unsupported is a snapshot.ErrUnsupported that names the file.
func (f *File) Unsupported(format string, args ...any) error {
	return fmt.Errorf("%s: %s: %w", f.Path, fmt.Sprintf(format, args...), snapshot.ErrUnsupported)
}

// Stretch tells whether the file has data at off, and for how many of the n bytes
// from there that holds: holes of a sparse file read as zeros. A file system or a
// device that cannot tell says data.
func (f *File) Stretch(off, n int64) (data bool, length int64, err error) {
	at, err := f.Seek(off, unix.SEEK_DATA)
	switch {
	case errors.Is(err, unix.ENXIO) && off < f.Size:
		return false, n, f.uncut(off, n)
	case err != nil:
		return true, n, nil
	case at > off:
		return false, min(n, at-off), nil
	}
	hole, err := f.Seek(off, unix.SEEK_HOLE)
	if err != nil || hole <= off {
		return true, n, nil
	}
	return true, min(n, hole-off), nil
}

// uncut tells a file without data after off from one that was cut off meanwhile.
func (f *File) uncut(off, n int64) error {
	if end, err := f.Seek(0, io.SeekEnd); err != nil || end < off+n {
		return f.Corrupt("data at %#x is gone: the file became shorter", off)
	}
	return nil
}

// RoundUp is n, or the next multiple of unit.
func RoundUp(n, unit int64) int64 { return (n + unit - 1) / unit * unit }
