package libvirttest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// lock is held by one process, and one test in it, until unlock.
func (d *Daemon) lock() (unlock func(), err error) {
	if err := os.MkdirAll(d.cache, 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(d.cache, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", f.Name(), err), f.Close())
	}
	return func() { f.Close() }, nil
}

// knows says whether a daemon has found out about QEMU before.
func (d *Daemon) knows() bool {
	_, err := os.Stat(filepath.Join(d.cache, "qemu"))
	return err == nil
}

// remember keeps what the daemon found out about QEMU for the next ones.
func (d *Daemon) remember() error {
	partial, err := os.MkdirTemp(d.cache, "partial-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(partial)
	if err := os.CopyFS(filepath.Join(partial, "qemu"), os.DirFS(filepath.Join(d.Dir, "cache", "qemu"))); err != nil {
		return err
	}
	return os.Rename(filepath.Join(partial, "qemu"), filepath.Join(d.cache, "qemu"))
}
