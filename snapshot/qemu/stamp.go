package qemu

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/lull-backup/lull/snapshot"
)

// From Take until its commit starts nobody writes to an image. So when QEMU has
// gone and the image was written to all the same, a VM has run from it without
// its delta, and the delta must not be committed over that. Two extended
// attributes of the delta tell: what the image was like when it was frozen, and
// that a commit has begun. A file system without them gives no such guard.
const (
	frozenAttr = "user.lull.frozen"
	commitAttr = "user.lull.commit"
)

// stamp is what changes with every write to a file; empty for what is no
// regular file.
func stamp(image string) (string, error) {
	info, err := os.Stat(image)
	if err != nil || !info.Mode().IsRegular() {
		return "", err
	}
	return fmt.Sprintf("%d %d", info.ModTime().UnixNano(), info.Size()), nil
}

// noteFrozen records the image as Take left it. That it cannot costs a guard,
// not the run.
func noteFrozen(d snapshot.DiskPlan) error {
	s, err := stamp(d.Path)
	if err != nil || s == "" {
		return err
	}
	return unix.Setxattr(d.Delta, frozenAttr, []byte(s), 0)
}

// noteCommit records durably that the image is about to be written to.
func noteCommit(delta string) error {
	if err := unix.Setxattr(delta, commitAttr, []byte("1"), 0); err != nil {
		return err
	}
	return syncFile(delta)
}

// noAttributes tells that a file system keeps no attributes, or that the file
// has its other name already.
func noAttributes(err error) bool {
	return errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOSPC)
}

// movedOn tells whether the image was written to since it was frozen, by someone
// other than a commit.
func movedOn(d snapshot.DiskPlan) (bool, error) {
	if _, begun := attr(d.Delta, commitAttr); begun {
		return false, nil
	}
	was, known := attr(d.Delta, frozenAttr)
	if !known {
		return false, nil
	}
	now, err := stamp(d.Path)
	return err == nil && now != was, err
}

func attr(path, name string) (string, bool) {
	var buf [64]byte
	n, err := unix.Getxattr(path, name, buf[:])
	return string(buf[:max(n, 0)]), err == nil
}
