package wipe

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/lull-backup/lull/snapshot/durable"
)

// Kind is how a file was written.
type Kind int

const (
	// Sparse: what reads as a hole has never held anything.
	Sparse Kind = iota
	// Dense: what reads as a hole may have, as QEMU's ways to write zeros leave the
	// blocks behind. All of it is overwritten.
	Dense
)

const (
	// step is what is destroyed at once, in bytes: a wipe of a file with holes takes
	// so much room at most, and loses as much work when it is interrupted.
	step = 32 << 20
	// piece is what is written at once, in bytes.
	piece = 1 << 20
)

// Remove destroys what is in a file and removes it, durably. One that is not there is no
// error. Interrupted, it may be called again.
func Remove(ctx context.Context, path string, kind Kind) error {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("wipe: %w", err)
	}
	if !linked(f) { // else another name of it is somebody's
		err = Erase(ctx, f, kind)
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("wipe: %w", err)
	}
	return durable.SyncFolder(filepath.Dir(path))
}

func linked(f *os.File) bool {
	var s unix.Stat_t
	return unix.Fstat(int(f.Fd()), &s) == nil && s.Nlink > 1
}

// Erase destroys what is in an open file; it is empty then.
func Erase(ctx context.Context, f *os.File, kind Kind) error {
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is no regular file: %w", f.Name(), fs.ErrInvalid)
	}
	if err != nil {
		return fmt.Errorf("wipe: %w", err)
	}
	zeros := make([]byte, piece)
	for end := info.Size(); end > 0; {
		start := (end - 1) / step * step
		err := ctx.Err()
		if err == nil {
			err = overwrite(f, span{start, end}, kind, zeros)
		}
		if err == nil {
			err = unix.Fdatasync(int(f.Fd()))
		}
		if err == nil {
			err = f.Truncate(start)
		}
		if err != nil {
			return fmt.Errorf("wipe %s: %w", f.Name(), err)
		}
		end = start
	}
	return nil
}

// span is a range of a file.
type span struct{ start, end int64 }

func overwrite(f *os.File, s span, kind Kind, zeros []byte) error {
	if kind == Dense {
		err := write(f, s, zeros)
		if !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.EDQUOT) {
			return err
		}
		// There is no room to fill the holes. What is data has its own.
	}
	for at := s.start; at < s.end; {
		d, err := data(f, at)
		if err != nil {
			return err
		}
		if d.start >= s.end {
			return nil
		}
		d.end = min(d.end, s.end)
		if err := write(f, d, zeros); err != nil {
			return err
		}
		at = d.end
	}
	return nil
}

// data is the next range with data in it from at on. A file system that does not tell
// has it everywhere.
func data(f *os.File, at int64) (span, error) {
	const end = 1<<63 - 1
	start, err := unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) {
		return span{end, end}, nil
	}
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) {
		return span{at, end}, nil
	}
	if err != nil {
		return span{}, err
	}
	stop, err := unix.Seek(int(f.Fd()), start, unix.SEEK_HOLE)
	return span{start, stop}, err
}

func write(f *os.File, s span, zeros []byte) error {
	for at := s.start; at < s.end; {
		n, err := f.WriteAt(zeros[:min(int64(len(zeros)), s.end-at)], at)
		if err != nil {
			return err
		}
		at += int64(n)
	}
	return nil
}
