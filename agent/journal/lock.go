package journal

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// LockedError says who works on a VM, which its text leaves to the caller to name.
// It is ErrLocked.
type LockedError struct {
	VM  string
	PID int // of the holder; 0 when it cannot be told
}

func (e *LockedError) Error() string {
	if e.PID == 0 {
		return ErrLocked.Error()
	}
	return fmt.Sprintf("%v (pid %d)", ErrLocked, e.PID)
}

func (e *LockedError) Unwrap() error { return ErrLocked }

// Hint is the next step.
func (e *LockedError) Hint() string {
	return "wait until it ends (lull status shows the agent's runs), or stop that process"
}

// Lock is the right to work on one VM, among all processes and goroutines. It
// ends with Unlock, or with the process.
type Lock struct{ file *os.File }

// Lock takes the VM, or fails at once with a LockedError.
func (j *Journal) Lock(vm string) (*Lock, error) {
	name, err := fileName(vm)
	if err != nil {
		return nil, fmt.Errorf("lock VM: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(j.folder(locks), name+".lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock VM %s: %w", vm, err)
	}
	if err := flock(f, syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		defer f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, &LockedError{VM: vm, PID: holder(f)}
		}
		return nil, fmt.Errorf("lock VM %s: %w", vm, err)
	}
	if err := sign(f); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock VM %s: %w", vm, err)
	}
	return &Lock{file: f}, nil
}

func flock(f *os.File, how int) error {
	for {
		err := syscall.Flock(int(f.Fd()), how)
		if !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}

// sign writes who holds the lock, for others to show.
func sign(f *os.File) error {
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err := f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	return err
}

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

// Unlock gives the VM back, also where a child that is just being started still has the file.
func (l *Lock) Unlock() error {
	if err := errors.Join(flock(l.file, syscall.LOCK_UN), l.file.Close()); err != nil {
		return fmt.Errorf("unlock VM: %w", err)
	}
	return nil
}
