package space

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/lull-backup/lull/snapshot"
)

// CheckFolder says why deltas should not be kept in a folder: who may write there could
// put a disk of their own under a guest, and what does not outlive a loss of power would
// take the guest's last writes with it.
func CheckFolder(dir string) error {
	err := checkFolder(dir)
	if errors.Is(err, fs.ErrNotExist) {
		err = snapshot.WithHint(err, "make it: install -d -m 711 "+snapshot.ShellWord(dir))
	}
	if err != nil {
		return fmt.Errorf("folder for deltas: %w", err)
	}
	return nil
}

func checkFolder(dir string) error {
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return err
	}
	for at := real; ; at = filepath.Dir(at) {
		if err := guarded(at, at == real); err != nil {
			return err
		}
		if at == filepath.Dir(at) {
			break
		}
	}
	return lasting(real)
}

// guarded fails where others than root and this user may put something else in the
// place of what is in a folder. Above the last one a sticky bit keeps them from it.
func guarded(dir string, last bool) error {
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return fmt.Errorf("%s is no folder: %w", dir, snapshot.ErrUnsupported)
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !ok || owner.Uid != 0 && int(owner.Uid) != os.Geteuid() {
		return snapshot.WithHint(fmt.Errorf("%s belongs to another user: %w", dir, snapshot.ErrUnsupported), "chown root "+snapshot.ShellWord(dir))
	}
	sticky := info.Mode()&fs.ModeSticky != 0 && !last
	if info.Mode().Perm()&0o022 != 0 && !sticky {
		return snapshot.WithHint(fmt.Errorf("others may write to %s (mode %04o): %w", dir, info.Mode().Perm(), snapshot.ErrUnsupported),
			"chmod go-w "+snapshot.ShellWord(dir))
	}
	return nil
}

// lasting fails for a file system that does not keep what a disk needs.
func lasting(dir string) error {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return &os.PathError{Op: "statfs", Path: dir, Err: err}
	}
	why := map[int64]string{
		unix.TMPFS_MAGIC:       "a file system in memory: with the power the guest's last writes would be lost",
		unix.RAMFS_MAGIC:       "a file system in memory: with the power the guest's last writes would be lost",
		unix.MSDOS_SUPER_MAGIC: "a FAT file system, on which no file is larger than 4 GiB",
		unix.EXFAT_SUPER_MAGIC: "an exFAT file system, on which files have no owners",
	}[int64(s.Type)]
	if why != "" {
		return snapshot.WithHint(fmt.Errorf("%s is on %s: %w", dir, why, snapshot.ErrUnsupported), "use a folder on ext4, XFS or the like")
	}
	if s.Flags&unix.ST_RDONLY != 0 {
		return fmt.Errorf("%s is mounted read-only: %w", dir, snapshot.ErrUnsupported)
	}
	return nil
}
