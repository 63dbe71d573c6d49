package plugins

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/lull-backup/lull/snapshot"
)

// ErrUnguarded: others could put another program in the place of this one.
var ErrUnguarded = errors.New("others may replace the program")

// CheckGuarded refuses a program that others than root and this process's user may
// write, rename or replace: the file, every folder above it, and the same of what
// symbolic links on the way lead to.
func CheckGuarded(path string) error {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return fmt.Errorf("look at the program: %w", err)
	}
	info, err := os.Stat(real)
	if err != nil {
		return fmt.Errorf("look at the program: %w", err)
	}
	if !info.Mode().IsRegular() || info.Mode().Perm()&0o111 == 0 {
		return snapshot.WithHint(fmt.Errorf("%s is no program", path), "install it with mode 755")
	}
	if err := checkWay(real); err != nil || real == filepath.Clean(path) {
		return err
	}
	return checkWay(filepath.Clean(path))
}

// checkWay looks at each step of a path from the root on.
func checkWay(path string) error {
	for i := range path {
		if path[i] != '/' && i != len(path)-1 {
			continue
		}
		step := path[:i+1]
		if step = strings.TrimSuffix(step, "/"); step == "" {
			step = "/"
		}
		info, err := os.Lstat(step)
		if err != nil {
			return fmt.Errorf("look at the program: %w", err)
		}
		if err := checkStep(step, info); err != nil {
			return err
		}
	}
	return nil
}

func checkStep(path string, info fs.FileInfo) error {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fmt.Errorf("look at %s: no owner known", path)
	}
	if st.Uid != 0 && int(st.Uid) != os.Geteuid() {
		return snapshot.WithHint(fmt.Errorf("%w: %s belongs to the user %d", ErrUnguarded, path, st.Uid), "chown root:root "+snapshot.ShellWord(path))
	}
	mode := info.Mode()
	// In a sticky folder nobody can rename what is another's; a link's mode means
	// nothing.
	if mode&fs.ModeSymlink != 0 || mode.Perm()&0o022 == 0 || mode.IsDir() && mode&fs.ModeSticky != 0 {
		return nil
	}
	return snapshot.WithHint(fmt.Errorf("%w: %s has the mode %04o", ErrUnguarded, path, mode.Perm()), "chmod go-w "+snapshot.ShellWord(path))
}

// credential is the user that a plugin runs as; nil: this process's.
func (s Spec) credential() (*syscall.Credential, error) {
	if s.User == "" {
		return nil, nil
	}
	u, err := user.Lookup(s.User)
	if err != nil {
		return nil, snapshot.WithHint(fmt.Errorf("user of plugin: %w", err), "make it with useradd --system "+snapshot.ShellWord(s.User))
	}
	uid, uerr := strconv.ParseUint(u.Uid, 10, 32)
	gid, gerr := strconv.ParseUint(u.Gid, 10, 32)
	if err := errors.Join(uerr, gerr); err != nil {
		return nil, fmt.Errorf("user of plugin: %w", err)
	}
	if int(uid) == os.Geteuid() {
		return nil, nil
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
}
