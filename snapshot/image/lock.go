package image

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/lull-backup/lull/snapshot"
)

// QEMU's image locks (block/file-posix.c) are open-file-description locks on
// single bytes. For permission number n, a lock on byte lockUse+n says "I use it",
// and one on byte lockDeny+n says "nobody else may". Both are shared locks; a
// conflict is found by asking for the other byte.
const (
	lockUse  = 100
	lockDeny = 200

	permRead      = 0 // reads must be consistent
	permWrite     = 1
	permUnchanged = 2 // writes that do not change what a reader sees
	permResize    = 3
)

// lockForReading takes the locks that QEMU takes to read an image that nobody
// may write or resize meanwhile, and holds them until f is closed. A plain
// flock(2) by another program is respected too.
func lockForReading(f *os.File) error {
	if err := flock(f); err != nil {
		return err
	}
	// Lock first and test then, so that two programs that start together may
	// both give up, but never both go on.
	for _, at := range []int64{lockUse + permRead, lockDeny + permWrite, lockDeny + permResize} {
		if err := setShared(f, at); err != nil {
			return err
		}
	}
	return checkUnwritten(f)
}

// LockForReading keeps writers off an image until f is closed. Errors: ErrBusy.
func LockForReading(f *os.File) error { return lockForReading(f) }

// LockForWriting keeps everybody else off an image until f is closed. Errors: ErrBusy.
func LockForWriting(f *os.File) error {
	if err := locking(f, func(fd int) error { return unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB) }); err != nil {
		return err
	}
	for _, perm := range []int64{permRead, permWrite, permResize} {
		if err := setShared(f, lockUse+perm); err != nil {
			return err
		}
		if err := setShared(f, lockDeny+perm); err != nil {
			return err
		}
	}
	for n := range int64(permResize + 1) {
		if err := testFree(f, lockUse+n); err != nil {
			return err
		}
		if err := testFree(f, lockDeny+n); err != nil {
			return err
		}
	}
	return nil
}

// checkUnwritten sees that nobody writes an image, without taking a lock: one
// that is held for a moment only could still keep a VM from starting.
func checkUnwritten(f *os.File) error {
	for _, at := range []int64{lockUse + permWrite, lockUse + permResize, lockDeny + permRead} {
		if err := testFree(f, at); err != nil {
			return err
		}
	}
	return nil
}

// checkUnused sees that no QEMU has the image open, not even for reading.
func checkUnused(f *os.File) error {
	if err := flock(f); err != nil {
		return err
	}
	for n := range int64(permResize + 1) {
		if err := testFree(f, lockUse+n); err != nil {
			return err
		}
	}
	return nil
}

func flock(f *os.File) error {
	return locking(f, func(fd int) error { return unix.Flock(fd, unix.LOCK_SH|unix.LOCK_NB) })
}

func setShared(f *os.File, at int64) error {
	lk := unix.Flock_t{Type: unix.F_RDLCK, Start: at, Len: 1}
	return locking(f, func(fd int) error { return unix.FcntlFlock(uintptr(fd), unix.F_OFD_SETLK, &lk) })
}

func testFree(f *os.File, at int64) error {
	lk := unix.Flock_t{Type: unix.F_WRLCK, Start: at, Len: 1}
	return locking(f, func(fd int) error {
		err := unix.FcntlFlock(uintptr(fd), unix.F_OFD_GETLK, &lk)
		if err == nil && lk.Type != unix.F_UNLCK {
			return unix.EAGAIN
		}
		return err
	})
}

// locking runs one lock call and names what its failure means.
func locking(f *os.File, call func(fd int) error) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var result error
	if err := raw.Control(func(fd uintptr) { result = call(int(fd)) }); err != nil {
		return err
	}
	switch {
	case result == nil:
		return nil
	case errors.Is(result, unix.EAGAIN), errors.Is(result, unix.EACCES):
		return busy(f.Name())
	}
	return fmt.Errorf("lock %s: %w", f.Name(), result)
}

// notInVMware looks for the folder of locks that VMware keeps beside a disk while its
// VM runs: it takes no lock that a kernel knows of.
func notInVMware(path string) error {
	locks := path + ".lck"
	entries, err := os.ReadDir(locks)
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(entries) == 0 {
		return nil
	}
	return snapshot.WithHint(
		fmt.Errorf("%s is locked by VMware (%s): %w", path, locks, errors.Join(err, snapshot.ErrBusy)),
		"shut the VM down; what a crash of VMware left there it removes at the VM's next start")
}

func busy(path string) error {
	return snapshot.WithHint(
		fmt.Errorf("%s is held by another process: the VM is running: %w", path, snapshot.ErrBusy),
		"use a qemu host with the QMP socket of the VM, or shut the VM down")
}
