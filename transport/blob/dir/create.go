package dir

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lull-backup/lull/transport/blob"
)

const (
	writeSize = 4 << 20   // bytes written between two looks at ctx
	staleAge  = time.Hour // of a temporary file that nobody writes to
)

func (s *Store) Create(ctx context.Context, name string, data []byte) error {
	if err := begin(ctx, name); err != nil {
		return s.failed("create", name, err)
	}
	if len(data) > blob.MaxSize {
		return s.failed("create", name, blob.ErrTooBig)
	}
	if err := blob.NoLocks(ctx); err != nil {
		return s.failed("create", name, err)
	}
	if _, err := s.root.Lstat(name); err == nil {
		return s.failed("create", name, blob.ErrExists)
	}
	if err := s.create(ctx, name, data); err != nil {
		return s.failed("create", name, err)
	}
	return nil
}

// create writes a temporary file and publishes it. Whatever fails, nothing is left.
func (s *Store) create(ctx context.Context, name string, data []byte) (err error) {
	f, temp, err := s.temp()
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, f.Close())
		if temp != "" {
			err = errors.Join(err, s.root.Remove(temp))
		}
	}()
	if err := s.fill(ctx, f, data); err != nil {
		return err
	}
	folder, err := s.folder(path.Dir(name))
	if err != nil {
		return err
	}
	defer folder.Close()
	if err := ctx.Err(); err != nil {
		return err
	}
	moved, err := s.publish(temp, folder, name)
	if err != nil {
		return err
	}
	if moved {
		temp = ""
	}
	if err := folder.Sync(); err != nil {
		// It is not known to be durable, so it must not be there: the caller
		// may try again.
		return errors.Join(err, s.root.Remove(name))
	}
	return nil
}

// temp makes a temporary file, locked for as long as it is open.
func (s *Store) temp() (*os.File, string, error) {
	name := tempFolder + "/" + rand.Text()
	f, err := s.root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, fileMode)
	if errors.Is(err, fs.ErrNotExist) {
		if err := s.root.Mkdir(tempFolder, folderMode); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, "", noBucket(err)
		}
		f, err = s.root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, fileMode)
	}
	if err != nil {
		return nil, "", err
	}
	// Best effort: a file system without locks has the age rule alone.
	_ = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	return f, name, nil
}

// noBucket is err, or says that the store's own folder is gone when it is.
func noBucket(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return blob.ErrNoBucket
	}
	return err
}

func (s *Store) fill(ctx context.Context, f *os.File, data []byte) error {
	for len(data) > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := s.write(f, data[:min(len(data), writeSize)])
		if err != nil {
			return err
		}
		data = data[n:]
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return f.Sync()
}

// folder opens a folder of the store, made if need be, whose own entry is durable.
func (s *Store) folder(name string) (*os.File, error) {
	if !s.isDurable(name) {
		parent, err := s.folder(path.Dir(name))
		if err != nil {
			return nil, err
		}
		defer parent.Close()
		if err := s.root.Mkdir(name, folderMode); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, noBucket(err)
		}
		if err := parent.Sync(); err != nil {
			return nil, err
		}
		s.setDurable(name, true)
	}
	f, err := s.root.OpenFile(name, os.O_RDONLY|syscall.O_DIRECTORY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		s.setDurable(name, false) // someone removed it: the next try makes it anew
		return nil, fmt.Errorf("folder %s vanished", name)
	}
	return f, err
}

func (s *Store) isDurable(folder string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.durable[folder]
}

func (s *Store) setDurable(folder string, is bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.durable[folder] = is
}

// publish gives the file temp its name, unless that is taken. moved says that temp
// is gone by that.
func (s *Store) publish(temp string, folder *os.File, name string) (moved bool, err error) {
	temps, err := s.root.Open(tempFolder)
	if err != nil {
		return false, err
	}
	defer temps.Close()
	err = unix.Renameat2(int(temps.Fd()), path.Base(temp), int(folder.Fd()), path.Base(name), unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.ENOTSUP) {
		return false, s.root.Link(temp, name)
	}
	return err == nil, err
}

func (s *Store) syncFolder(name string) error {
	f, err := s.root.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// sweep removes temporary files that crashes left.
func (s *Store) sweep() error {
	files, err := fs.ReadDir(s.root.FS(), tempFolder)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, file := range files {
		if err := s.sweepFile(tempFolder + "/" + file.Name()); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

func (s *Store) sweepFile(name string) error {
	info, err := s.root.Lstat(name)
	if err != nil || !info.Mode().IsRegular() || time.Since(info.ModTime()) < staleAge {
		return err
	}
	f, err := s.root.OpenFile(name, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if errors.Is(unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB), unix.EWOULDBLOCK) {
		return nil // its writer lives
	}
	return s.root.Remove(name)
}
