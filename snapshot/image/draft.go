package image

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/durable"
	"github.com/lull-backup/lull/snapshot/wipe"
)

// draft is a file that is not at its path yet.
type draft struct {
	f         *os.File // beside path, under a hidden name
	path      string
	overwrite bool
	wipe      bool // what is given up is overwritten

	written atomic.Int64 // bytes

	end  sync.Once
	done error // of the end
}

// writeBack is after how many bytes the file system is asked to begin to write. Left to
// itself it waits until a part of the host's memory is full, and most is left to the sync at
// the end, when nothing else is to do any more.
const writeBack = 128 << 20

// writeAt writes, and keeps the disk busy meanwhile, and the host's memory free: what is on the
// disk already is dropped from the page cache, which is there for the guests, and where pages
// that were given back just now are the cheapest to get.
func (d *draft) writeAt(p []byte, off int64) error {
	n, err := d.f.WriteAt(p, off)
	if err != nil {
		return err
	}
	if all := d.written.Add(int64(n)); all/writeBack != (all-int64(n))/writeBack {
		// Of all that is dirty, without waiting for it. Where that cannot be, the sync does it all.
		_ = unix.SyncFileRange(int(d.f.Fd()), 0, 0, unix.SYNC_FILE_RANGE_WRITE)
		_ = unix.Fadvise(int(d.f.Fd()), 0, 0, unix.FADV_DONTNEED)
	}
	return nil
}

func newDraft(path string, overwrite bool) (*draft, error) {
	if err := replaceable(path, overwrite); err != nil {
		return nil, err
	}
	dir, name := filepath.Split(path)
	// The hidden name must fit into the 255 bytes that file systems allow.
	hidden := fmt.Sprintf(".%s.lull-%s.partial", name[:min(len(name), 180)], rand.Text()[:12])
	f, err := os.OpenFile(filepath.Join(dir, hidden), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	// The lock tells it from what a killed process left, and ends with the
	// process. A file system without locks does without.
	_ = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	return &draft{f: f, path: path, overwrite: overwrite}, nil
}

// replaceable sees whether a new file may take the place of what is at path.
func replaceable(path string, overwrite bool) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case !overwrite:
		return fmt.Errorf("%s: %w", path, snapshot.ErrExists)
	case !info.Mode().IsRegular():
		return fmt.Errorf("%s is no regular file, it cannot be replaced: %w", path, snapshot.ErrUnsupported)
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return checkUnused(f)
}

// commit writes what is left by finish, makes the file durable, and puts it at
// its path. When that fails the file is removed.
func (d *draft) commit(finish func() error) error {
	d.end.Do(func() {
		if d.done = finish(); d.done == nil {
			d.done = d.publish()
		}
		if d.done != nil {
			d.done = errors.Join(d.done, d.remove())
		}
	})
	return d.done
}

func (d *draft) publish() error {
	if err := d.f.Sync(); err != nil {
		return err
	}
	if err := replaceable(d.path, d.overwrite); err != nil {
		return err
	}
	err := durable.Rename(d.f.Name(), d.path, d.overwrite)
	if errors.Is(err, fs.ErrExist) { // it came up meanwhile
		return fmt.Errorf("%s: %w", d.path, snapshot.ErrExists)
	}
	if err != nil {
		return err
	}
	return d.f.Close()
}

// abort removes the file. After commit it does nothing.
func (d *draft) abort() error {
	var err error
	d.end.Do(func() {
		d.done = fs.ErrClosed
		err = d.remove()
	})
	return err
}

func (d *draft) remove() error {
	if d.wipe {
		// No context comes here, and a restore that is ended by hand is wiped, too.
		if err := wipe.Remove(context.Background(), d.f.Name(), wipe.Sparse); err != nil {
			return errors.Join(err, d.f.Close())
		}
	}
	err := os.Remove(d.f.Name())
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	d.f.Close() // the file is gone: what it could not write does not matter
	return err
}
