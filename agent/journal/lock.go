package journal

import (
	"errors"
	"fmt"
	"path/filepath"

	"github.com/lull-backup/lull/snapshot/filelock"
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
type Lock struct{ lock *filelock.Lock }

// Lock takes the VM, or fails at once with a LockedError.
func (j *Journal) Lock(vm string) (*Lock, error) {
	name, err := fileName(vm)
	if err != nil {
		return nil, fmt.Errorf("lock VM: %w", err)
	}
	l, err := filelock.Take(filepath.Join(j.folder(locks), name+".lock"))
	if held, ok := errors.AsType[*filelock.HeldError](err); ok {
		return nil, &LockedError{VM: vm, PID: held.PID}
	}
	if err != nil {
		return nil, fmt.Errorf("lock VM %s: %w", vm, err)
	}
	return &Lock{l}, nil
}

// Unlock gives the VM back.
func (l *Lock) Unlock() error {
	if err := l.lock.Unlock(); err != nil {
		return fmt.Errorf("unlock VM: %w", err)
	}
	return nil
}
