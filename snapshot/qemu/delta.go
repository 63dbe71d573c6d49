package qemu

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/durable"
	"github.com/lull-backup/lull/snapshot/image"
	"github.com/lull-backup/lull/snapshot/wipe"
)

// deltaFile is the file of a delta, under its two names, and what goes with it.
type deltaFile struct {
	path, merged string
	link         string // beside the image; empty: none
	wipe         bool
}

func fileOf(d snapshot.DiskPlan) deltaFile {
	return deltaFile{path: d.Delta, merged: d.Delta + mergedSuffix, link: d.Link, wipe: d.Wipe}
}

// create makes the empty file, with the owner and mode of the image so that
// QEMU's user can open it.
func (f deltaFile) create(image string) error { return f.createWith(image, nil) }

// createWith makes the file with a content, written before anybody else may open it.
func (f deltaFile) createWith(image string, content []byte) error {
	info, err := os.Stat(image)
	if err != nil && image != "" {
		return fmt.Errorf("create delta: look at the image: %w", err)
	}
	file, err := os.OpenFile(f.path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("create delta: %w", spaceOr(err))
	}
	if f.wipe {
		wipe.Plain(file)
	}
	if len(content) > 0 {
		_, err = file.Write(content)
		err = errors.Join(err, file.Sync())
	}
	if err == nil && info != nil {
		err = adopt(file, info)
	}
	if err := errors.Join(err, file.Close()); err != nil {
		return fmt.Errorf("create delta: %w", spaceOr(err))
	}
	return syncDir(f.path)
}

func adopt(file *os.File, info fs.FileInfo) error {
	if owner, ok := info.Sys().(*syscall.Stat_t); ok {
		mine, err := file.Stat()
		if err != nil {
			return err
		}
		if is, ok := mine.Sys().(*syscall.Stat_t); !ok || is.Uid != owner.Uid || is.Gid != owner.Gid {
			if err := file.Chown(int(owner.Uid), int(owner.Gid)); err != nil {
				return err
			}
		}
	}
	return file.Chmod(info.Mode().Perm())
}

// exists tells under which of its names the file is there.
func (f deltaFile) exists() (path, merged bool, err error) {
	if path, err = exists(f.path); err != nil {
		return false, false, err
	}
	merged, err = exists(f.merged)
	return path, merged, err
}

func exists(path string) (bool, error) {
	_, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// mark renames the file durably: from here on its pivot counts as ordered.
func (f deltaFile) mark() error { return rename(f.path, f.merged) }

// unmark takes that back after a pivot that did not happen.
func (f deltaFile) unmark() error { return rename(f.merged, f.path) }

func rename(from, to string) error {
	there, err := exists(from)
	if err != nil || !there { // done by an earlier attempt
		return err
	}
	if err := durable.Rename(from, to, true); err != nil {
		return fmt.Errorf("mark delta: %w", err)
	}
	return nil
}

// remove removes the file under both names, and then what goes with it, durably. One that
// is to be wiped gets another name, and wipeLeft does the rest.
func (f deltaFile) remove() error {
	for _, path := range []string{f.path, f.merged} {
		if err := discard(path, f.wipe); err != nil {
			return fmt.Errorf("remove delta: %w", err)
		}
	}
	for _, path := range []string{f.path + stampSuffix, f.path + mapSuffix} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove delta: %w", err)
		}
	}
	if err := f.unlink(); err != nil {
		return fmt.Errorf("remove link to delta: %w", err)
	}
	return syncDir(f.path)
}

// removeHeld is remove under QEMU's locks: whoever opens the file right now, as a VM that is
// started from it, is refused, and one that has opened it keeps it.
func (f deltaFile) removeHeld() error {
	release, err := hold(f.path)
	if err != nil {
		return err
	}
	return errors.Join(f.remove(), release())
}

// hold takes QEMU's locks on a delta that is merged. A VM that is started from it meanwhile,
// as the record says so still, is refused, and goes through when the record names the image;
// one that has opened the delta already makes it busy, for the next merge.
func hold(delta string) (release func() error, err error) {
	f, err := os.OpenFile(delta, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return func() error { return nil }, nil
	}
	if err != nil {
		return nil, err
	}
	if err := image.LockForWriting(f); err != nil {
		err = snapshot.WithHint(errors.Join(err, f.Close()), "run lull again: where the VM has just been started, it is merged while it runs")
		return nil, err
	}
	return f.Close, nil
}

// discard removes a file, or notes by its name that it is only to be wiped.
func discard(path string, wiped bool) error {
	err := error(nil)
	if wiped {
		err = os.Rename(path, path+wipedSuffix)
	} else {
		err = os.Remove(path)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// makeLink puts the link beside the image.
func (f deltaFile) makeLink() error {
	if f.link == "" {
		return nil
	}
	if err := os.Symlink(f.path, f.link); err != nil {
		return fmt.Errorf("create link to delta: %w", spaceOr(err))
	}
	return syncDir(f.link)
}

// unlink removes the link; what else has its name is not lull's.
func (f deltaFile) unlink() error {
	if f.link == "" {
		return nil
	}
	to, err := os.Readlink(f.link)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.EINVAL) || err == nil && to != f.path {
		return nil
	}
	if err == nil {
		err = os.Remove(f.link)
	}
	if err != nil {
		return err
	}
	return syncDir(f.link)
}

// syncDir makes the folder of a file durable. A folder that is not there holds
// nothing to make durable.
func syncDir(path string) error {
	err := durable.SyncFolder(filepath.Dir(path))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Parts of a qcow2 header, version 2 and 3:
// https://www.qemu.org/docs/master/interop/qcow2.html
const (
	qcow2Magic  = 0x514649fb
	headerSize  = 72
	maxL1Length = 32 << 20 / 8 // entries; QEMU's own limit
)

// untouched tells whether nobody has ever written to a delta: its L1 table is
// empty, or it was never made a whole qcow2 file. No L2 table ever goes away
// again, so this is never true of a file that holds a write.
func untouched(path string) (bool, error) {
	f, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	var h [headerSize]byte
	n, err := io.ReadFull(f, h[:])
	if ignoreEOF(err) != nil {
		return false, err
	}
	magic := binary.BigEndian.Uint32(h[0:]) == qcow2Magic
	if h == [headerSize]byte{} || magic && n < len(h) {
		return true, nil // its formatting was interrupted
	}
	if !magic {
		return false, snapshot.WithHint(fmt.Errorf("%s is no delta of lull: %w", path, snapshot.ErrExists), "move it out of the way")
	}
	length, offset := binary.BigEndian.Uint32(h[36:]), binary.BigEndian.Uint64(h[40:])
	if length > maxL1Length || offset > 1<<62 {
		return false, fmt.Errorf("delta %s: %w", path, snapshot.ErrCorrupt)
	}
	l1 := io.NewSectionReader(f, int64(offset), int64(length)*8)
	return allZero(l1)
}

// unshot fails where somebody has made a snapshot inside a delta, as virsh snapshot-create
// does of a domain whose layers are qcow2: it would be gone with the file.
func unshot(d snapshot.DiskPlan) error {
	f, err := os.Open(d.Delta)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	var h [headerSize]byte
	if _, err := io.ReadFull(f, h[:]); err != nil {
		return ignoreEOF(err)
	}
	n := binary.BigEndian.Uint32(h[60:])
	if n == 0 || binary.BigEndian.Uint32(h[0:]) != qcow2Magic {
		return nil
	}
	return snapshot.WithHint(fmt.Errorf("the delta %s holds %d internal snapshots of somebody's, which would be gone with it: %w", d.Delta, n, snapshot.ErrBusy),
		"delete them with the tool that made them (virsh snapshot-delete, or delvm), and run lull again; until then the delta stays")
}

func ignoreEOF(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil
	}
	return err
}

func allZero(r io.Reader) (bool, error) {
	buf := make([]byte, 64<<10)
	for {
		n, err := r.Read(buf)
		for _, b := range buf[:n] {
			if b != 0 {
				return false, nil
			}
		}
		if err != nil {
			return errors.Is(err, io.EOF), ignoreEOF(err)
		}
	}
}

// QEMU locks bytes of an image from here on for what it may do with it and what
// others may not: block/file-posix.c, RAW_LOCK_PERM_BASE and RAW_LOCK_SHARED_BASE.
const (
	lockBase   = 100
	lockLength = 200
)

// inUse tells whether a process has the image open under QEMU's locks.
func inUse(path string) (bool, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	lock := unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart, Start: lockBase, Len: lockLength}
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, &lock); err != nil {
		return false, fmt.Errorf("look at the lock of %s: %w", path, err)
	}
	return lock.Type != unix.F_UNLCK, nil
}

// spaceOr makes a full file system ErrNoSpace.
func spaceOr(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("%w: %w", snapshot.ErrNoSpace, err)
	}
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%w: %w", snapshot.ErrExists, err)
	}
	return err
}
