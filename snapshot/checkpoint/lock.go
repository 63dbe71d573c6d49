package checkpoint

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/lull-backup/lull/snapshot"
)

// Lock takes the file of a tree for whoever is about to change it, among all processes and
// goroutines, until unlock or the end of the process. ErrBusy: another has it.
func Lock(tree string) (unlock func(), err error) {
	if err := makeDir(filepath.Dir(tree)); err != nil {
		return nil, fmt.Errorf("lock tree of checkpoints: %w", err)
	}
	f, err := os.OpenFile(tree+".lock", os.O_RDWR|os.O_CREATE, 0o600) // it stays: a lock on what was removed keeps nobody out
	if err != nil {
		return nil, fmt.Errorf("lock tree of checkpoints: %w", err)
	}
	err = flock(f, unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		defer f.Close()
		return nil, snapshot.WithHint(fmt.Errorf("another process%s works on the checkpoints of this VM: %w", holder(f), snapshot.ErrBusy),
			"wait until it ends, or stop it; it may know the VM by another name")
	}
	if err == nil {
		err = sign(f)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock tree of checkpoints: %w", err), f.Close())
	}
	return func() {
		_ = flock(f, unix.LOCK_UN) // a child that is just being started may still have the file
		f.Close()
	}, nil
}

func flock(f *os.File, how int) error {
	for {
		if err := unix.Flock(int(f.Fd()), how); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// sign writes who holds a lock, for others to show.
func sign(f *os.File) error {
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err := f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	return err
}

// holder is who has signed a lock; empty where that cannot be told.
func holder(f *os.File) string {
	text, err := io.ReadAll(io.NewSectionReader(f, 0, 32))
	if err != nil {
		return ""
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || pid <= 0 {
		return ""
	}
	return fmt.Sprintf(" (pid %d)", pid)
}
