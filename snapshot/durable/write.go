package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// SyncFolder makes the names in a folder durable.
func SyncFolder(path string) error { return sync(path) }

// SyncFile makes what is in a file durable.
func SyncFile(path string) error { return sync(path) }

func sync(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// Rename gives a file another name, durably, in the same file system. Where the name is taken,
// overwrite says that the file takes it over; else the error is fs.ErrExist.
func Rename(from, to string, overwrite bool) error {
	rename := renameNew
	if overwrite {
		rename = os.Rename
	}
	if err := rename(from, to); err != nil {
		return err
	}
	return SyncFolder(filepath.Dir(to))
}

func renameNew(from, to string) error {
	err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.ENOTSUP) {
		return linkNew(from, to)
	}
	if err != nil {
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
	}
	return nil
}

// linkNew is renameNew in two steps, for a file system that cannot do it in one.
func linkNew(from, to string) error {
	if err := os.Link(from, to); err != nil {
		return err
	}
	return os.Remove(from)
}

// WriteFile makes a file that only its owner may read, and syncs it. What was at the path, as
// what a crash has left there, is removed before. The name is not durable yet: Rename is to
// follow.
func WriteFile(path string, content []byte) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	return errors.Join(err, f.Sync(), f.Close())
}

// Put writes a file whole. Where there is one it is replaced if overwrite says so; else the
// error is fs.ErrExist.
func Put(path string, content []byte, mode fs.FileMode, overwrite bool) error {
	s, err := Stage(path, func(f *os.File) error {
		_, err := f.Write(content)
		return errors.Join(err, f.Chmod(mode))
	})
	if err != nil {
		return err
	}
	return s.Put(overwrite)
}

// Staged is a file that is whole and durable, and waits beside its place. It ends with Put or
// Discard.
type Staged struct {
	temp, path string
}

// Stage makes such a file for a path; several may wait for the same. fill writes it. Only its
// owner may read it unless fill changes that.
//
// A process that is killed leaves the file behind, under a hidden name after that of its place.
func Stage(path string, fill func(*os.File) error) (*Staged, error) {
	dir, name := filepath.Split(path)
	// The hidden name must fit into the 255 bytes that file systems allow.
	f, err := os.CreateTemp(filepath.Clean(dir), "."+name[:min(len(name), 200)]+".*.tmp")
	if err != nil {
		if of := (*fs.PathError)(nil); errors.As(err, &of) {
			err = of.Err // the name that was tried says nothing
		}
		return nil, fmt.Errorf("write %s: %w", path, err)
	}
	s := &Staged{temp: f.Name(), path: path}
	if err = fill(f); err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, errors.Join(fmt.Errorf("write %s: %w", path, err), s.Discard())
	}
	return s, nil
}

// Put gives the file its place, as Rename does. When it fails the file is discarded.
func (s *Staged) Put(overwrite bool) error {
	if err := Rename(s.temp, s.path, overwrite); err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", s.path, err), s.Discard())
	}
	return nil
}

// Discard removes the file. After Put it does nothing.
func (s *Staged) Discard() error {
	if err := os.Remove(s.temp); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
