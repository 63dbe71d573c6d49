package filelock_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lull-backup/lull/snapshot/filelock"
)

func take(t *testing.T, path string) *filelock.Lock {
	t.Helper()
	l, err := filelock.Take(path)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func unlock(t *testing.T, l *filelock.Lock) {
	t.Helper()
	if err := l.Unlock(); err != nil {
		t.Fatal(err)
	}
}

// heldBy fails unless a lock is refused because of this process.
func heldBy(t *testing.T, path string, pid int) {
	t.Helper()
	_, err := filelock.Take(path)
	if held, ok := errors.AsType[*filelock.HeldError](err); !ok || !errors.Is(err, filelock.ErrHeld) || held.PID != pid {
		t.Fatalf("want it held by %d: %v", pid, err)
	}
}

// TestTake: one has the lock, and the others are told who.
func TestTake(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	for range 2 {
		l := take(t, path)
		heldBy(t, path, os.Getpid())
		unlock(t, take(t, path+"2"))
		unlock(t, l)
	}
	if _, err := filelock.Take(filepath.Join(path, "below")); err == nil || errors.Is(err, filelock.ErrHeld) {
		t.Errorf("without a folder: %v", err)
	}
}

// TestSignatures: what a killed process, or somebody else, has left in the file.
func TestSignatures(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	for _, text := range []string{"-1", "or what", "", "99999999999999999999999999999999999999"} {
		l := take(t, path)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		heldBy(t, path, 0)
		unlock(t, l)
	}
}

// A child that is just being started has the files of its parent, until it is another program.
func TestUnlockWhileAChildStarts(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	l := take(t, path)
	fds, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(fds, func(fd string) bool {
		file, err := os.Readlink(fd)
		return err == nil && file == path
	})
	if i < 0 {
		t.Fatal("the file of the lock is not open")
	}
	n, err := strconv.Atoi(filepath.Base(fds[i]))
	if err != nil {
		t.Fatal(err)
	}
	child, err := unix.Dup(n)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(child)
	unlock(t, l)
	unlock(t, take(t, path))
}
