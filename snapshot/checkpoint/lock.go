package checkpoint

import (
	"errors"
	"fmt"
	"path/filepath"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/filelock"
)

// Lock takes the file of a tree for whoever is about to change it, among all processes and
// goroutines, until unlock or the end of the process. ErrBusy: another has it.
func Lock(tree string) (unlock func(), err error) {
	if err := makeDir(filepath.Dir(tree)); err != nil {
		return nil, fmt.Errorf("lock tree of checkpoints: %w", err)
	}
	l, err := filelock.Take(tree + ".lock")
	if held, ok := errors.AsType[*filelock.HeldError](err); ok {
		who := ""
		if held.PID > 0 {
			who = fmt.Sprintf(" (pid %d)", held.PID)
		}
		return nil, snapshot.WithHint(fmt.Errorf("another process%s works on the checkpoints of this VM: %w", who, snapshot.ErrBusy),
			"wait until it ends, or stop it; it may know the VM by another name")
	}
	if err != nil {
		return nil, fmt.Errorf("lock tree of checkpoints: %w", err)
	}
	return func() { _ = l.Unlock() }, nil
}
