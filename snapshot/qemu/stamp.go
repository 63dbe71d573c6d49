package qemu

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/lull-backup/lull/snapshot"
)

// From Take until its commit starts nobody writes to an image. So when QEMU has
// gone and the image was written to all the same, a VM has run from it without
// its delta, or another image was put in its place, and the delta must not be
// committed over that. Two extended attributes of the delta tell: what the image
// was like when it was frozen, and that a commit into it has begun. A file system
// without them gives no such guard, and once a commit has begun only another file
// is noticed.
const (
	frozenAttr = "user.lull.frozen"
	commitAttr = "user.lull.commit"
)

// stamp is what changes with every write to a file, and inode what changes when
// another is put in its place; both are empty for what is no regular file.
func stamp(image string) (stamp, inode string, err error) {
	info, err := os.Stat(image)
	if err != nil || !info.Mode().IsRegular() {
		return "", "", err
	}
	if is, ok := info.Sys().(*syscall.Stat_t); ok {
		inode = strconv.FormatUint(is.Ino, 10)
	}
	return fmt.Sprintf("%d %d %s", info.ModTime().UnixNano(), info.Size(), inode), inode, nil
}

// noteFrozen records the image as Take left it. That it cannot costs a guard,
// not the run. Open makes it durable, outside the freeze window.
func noteFrozen(d snapshot.DiskPlan) error {
	s, _, err := stamp(d.Path)
	if err != nil || s == "" {
		return err
	}
	return unix.Setxattr(d.Delta, frozenAttr, []byte(s), 0)
}

// noteCommit records durably that the image is about to be written to, and which
// it is.
func noteCommit(d snapshot.DiskPlan) error {
	_, inode, err := stamp(d.Path)
	if err != nil && d.Path != "" {
		return err
	}
	if err := unix.Setxattr(d.Delta, commitAttr, []byte(inode), 0); err != nil {
		return err
	}
	return syncFile(d.Delta)
}

// noAttributes tells that a file system keeps no attributes, or that the file
// has its other name already.
func noAttributes(err error) bool {
	return errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOSPC)
}

// movedOn tells whether the image was written to since it was frozen, by someone
// other than a commit.
func movedOn(d snapshot.DiskPlan) (bool, error) {
	if d.Path == "" {
		return false, nil
	}
	of, begun := attr(d.Delta, commitAttr)
	was, known := attr(d.Delta, frozenAttr)
	if !begun && !known {
		return false, nil
	}
	now, inode, err := stamp(d.Path)
	if begun { // then it changes, but it stays the same file
		return err == nil && inode != of, err
	}
	return err == nil && now != was, err
}

func attr(path, name string) (string, bool) {
	var buf [64]byte
	n, err := unix.Getxattr(path, name, buf[:])
	return string(buf[:max(n, 0)]), err == nil
}
