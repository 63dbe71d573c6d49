package agent

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"

	"golang.org/x/sys/unix"

	"github.com/lull-backup/lull/snapshot/wipe"
)

// sweep removes from dir the hidden files of restores that were killed. Those of
// a restore that lives are locked. wiped: they are overwritten before.
func sweep(dir string, wiped bool) error {
	files, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	partial := regexp.MustCompile(`^\.(.*\.)?lull-[0-9A-Z]+\.partial$`)
	for _, f := range files {
		if !f.Type().IsRegular() || !partial.MatchString(f.Name()) {
			continue
		}
		if err := sweepFile(filepath.Join(dir, f.Name()), wiped); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

func sweepFile(path string, wiped bool) error {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if lockPartial(f) != nil {
		return nil // its restore lives, or nobody can tell
	}
	if wiped {
		return wipe.Remove(context.Background(), path, wipe.Sparse)
	}
	return os.Remove(path)
}

// lockPartial marks a file that has no name yet as somebody's.
func lockPartial(f *os.File) error { return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) }

// makeDir makes dir, and returns what removes again the folders that it made, as
// far as nothing is in them.
func makeDir(dir string) (undo func(), err error) {
	var made []string
	for at := filepath.Clean(dir); ; at = filepath.Dir(at) {
		if _, err := os.Lstat(at); !errors.Is(err, fs.ErrNotExist) {
			break
		}
		made = append(made, at)
	}
	undo = func() {
		for _, d := range made {
			if os.Remove(d) != nil { // not empty: somebody uses it
				return
			}
		}
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		undo()
		return nil, err
	}
	return undo, nil
}
