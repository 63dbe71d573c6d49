package filelock

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrHeld: another has the lock.
var ErrHeld = errors.New("another process holds the lock")

// HeldError says who has a lock. It is ErrHeld.
type HeldError struct {
	PID int // 0 when it cannot be told
}

func (e *HeldError) Error() string {
	if e.PID == 0 {
		return ErrHeld.Error()
	}
	return fmt.Sprintf("%v (pid %d)", ErrHeld, e.PID)
}

func (e *HeldError) Unwrap() error { return ErrHeld }

// Lock is a lock that is held.
type Lock struct{ file *os.File }

// Take takes the lock of a file, which it makes if need be, or fails at once with a HeldError.
func Take(path string) (*Lock, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	err = flock(f, unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = &HeldError{PID: holder(f)}
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	sign(f)
	return &Lock{file: f}, nil
}

// Unlock ends the lock, also where a child that is just being started still has the file.
func (l *Lock) Unlock() error {
	return errors.Join(flock(l.file, unix.LOCK_UN), l.file.Close())
}

func flock(f *os.File, how int) error {
	for {
		if err := unix.Flock(int(f.Fd()), how); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// sign says who has the lock, if it can: on a full disk a lock is good without.
func sign(f *os.File) {
	_ = f.Truncate(0)
	_, _ = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
}

// holder is who has signed a file; 0 where that cannot be told.
func holder(f *os.File) int {
	text, err := io.ReadAll(io.NewSectionReader(f, 0, 32))
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || pid < 0 {
		return 0
	}
	return pid
}
