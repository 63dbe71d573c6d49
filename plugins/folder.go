package plugins

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// A folder for sockets has a name with this prefix, and in it a file that its
// owner holds a lock on as long as it lives.
const (
	folderPrefix = "lull-plugin-"
	unlockedMark = ".new-"
	lockName     = "lock"
	// maxSocketPath is the kernel's bound, less the terminating zero.
	maxSocketPath = 107
	// socketTail is what go-plugin adds: "/plugin-dir" and "/plugin" with
	// random numbers of up to ten digits.
	socketTail = len("/plugin-dir0123456789") + len("/plugin0123456789")
)

// folder is the private folder of one plugin.
type folder struct {
	path string
	lock *os.File
}

// newFolder makes a folder under base, and removes those of hosts that died.
func newFolder(base string) (_ *folder, err error) {
	if base == "" {
		base = os.TempDir()
	}
	removeStale(base)
	// The sweep of another host must not find the folder before it is locked.
	raw, err := os.MkdirTemp(base, folderPrefix+unlockedMark+"*")
	if err != nil {
		return nil, fmt.Errorf("make folder for sockets: %w", err)
	}
	f := &folder{path: filepath.Join(base, folderPrefix+strings.TrimPrefix(filepath.Base(raw), folderPrefix+unlockedMark))}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("make folder for sockets: %w", err), os.RemoveAll(raw))
			_ = f.lock.Close() // nil is an error too
		}
	}()
	if n := len(f.path) + socketTail; n > maxSocketPath {
		return nil, fmt.Errorf("path %s is too long by %d bytes for sockets inside", f.path, n-maxSocketPath)
	}
	if f.lock, err = os.OpenFile(filepath.Join(raw, lockName), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600); err != nil {
		return nil, err
	}
	if err := lockFile(f.lock); err != nil {
		return nil, err
	}
	return f, os.Rename(raw, f.path)
}

// letThrough lets other users pass to what is inside and belongs to them.
func (f *folder) letThrough() error {
	return os.Chmod(f.path, 0o711)
}

// remove removes the folder with all that is in it, then gives up the lock.
func (f *folder) remove() error {
	err := os.RemoveAll(f.path)
	if f.lock != nil {
		err = errors.Join(err, f.lock.Close())
		f.lock = nil
	}
	return err
}

// removeStale removes the folders of this user under base that nobody holds.
// What cannot be removed stays for the next time.
func removeStale(base string) {
	entries, err := os.ReadDir(base)
	if err != nil {
		return // making the new folder will say so
	}
	for _, e := range entries {
		path := filepath.Join(base, e.Name())
		if !strings.HasPrefix(e.Name(), folderPrefix) || !e.IsDir() || !owned(e) {
			continue
		}
		if strings.HasPrefix(e.Name(), folderPrefix+unlockedMark) {
			if info, err := e.Info(); err == nil && time.Since(info.ModTime()) > time.Hour {
				_ = os.RemoveAll(path)
			}
			continue
		}
		removeIfStale(path)
	}
}

func removeIfStale(path string) {
	lock, err := os.OpenFile(filepath.Join(path, lockName), os.O_RDWR|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return
	}
	defer lock.Close()
	if lockFile(lock) == nil {
		_ = os.RemoveAll(path)
	}
}

func owned(e os.DirEntry) bool {
	info, err := e.Info()
	if err != nil {
		return false
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(st.Uid) == os.Geteuid()
}

func lockFile(f *os.File) error {
	return syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
}
