package image

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/lull-backup/lull/snapshot"
)

const sectorSize = 512

// file is an image file that is open for reading.
type file struct {
	*os.File
	path string
	size int64
}

// openFile opens a regular file or a block device, and nothing else: opening a
// FIFO would wait, and a character device has no end.
func openFile(path string) (*file, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	size, err := sizeOf(f)
	if err != nil {
		f.Close()
		return nil, err
	}
	return &file{File: f, path: path, size: size}, nil
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

// read fills p from off. What names the thing that should be there.
func (f *file) read(p []byte, off int64, what string) error {
	if off < 0 || off > f.size || int64(len(p)) > f.size-off {
		return f.corrupt("%s at %#x (%d bytes) reaches past the end of the file at %#x", what, off, len(p), f.size)
	}
	_, err := f.ReadAt(p, off)
	if errors.Is(err, io.EOF) {
		return f.corrupt("%s at %#x is gone: the file became shorter", what, off)
	}
	return err
}

func (f *file) corrupt(format string, args ...any) error {
	return fmt.Errorf("%s: %s: %w", f.path, fmt.Sprintf(format, args...), snapshot.ErrCorrupt)
}

func (f *file) unsupported(format string, args ...any) error {
	return fmt.Errorf("%s: %s: %w", f.path, fmt.Sprintf(format, args...), snapshot.ErrUnsupported)
}

func roundUp(n, unit int64) int64 { return (n + unit - 1) / unit * unit }
