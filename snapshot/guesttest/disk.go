package guesttest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/lull-backup/lull/snapshot"
)

// makeDisk creates a disk image with an empty, labelled ext4 file system.
func makeDisk(ctx context.Context, path, label string, d Disk) error {
	if d.Backing != "" {
		return tool(ctx, "qemu-utils", "qemu-img", "create", "-q", "-f", "qcow2", "-b", d.Backing, "-F", "raw", path)
	}
	raw := path
	if d.Format != snapshot.FormatRaw {
		raw = path + ".raw"
		defer os.Remove(raw)
	}
	if err := makeFilesystem(ctx, raw, label, d); err != nil {
		return err
	}
	if d.Format == snapshot.FormatRaw {
		return nil
	}
	// zlib and other features stay off: this is what an administrator gets too.
	return tool(ctx, "qemu-utils", "qemu-img", "convert", "-q", "-f", "raw", "-O", string(d.Format), raw, path)
}

// makeFilesystem writes ext4 into a new sparse file, with mke2fs rather than a
// mount, so that no root is needed.
func makeFilesystem(ctx context.Context, raw, label string, d Disk) error {
	f, err := os.OpenFile(raw, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("make disk: %w", err)
	}
	if err := errors.Join(f.Truncate(d.Size), f.Close()); err != nil {
		return fmt.Errorf("make disk: %w", err)
	}
	args := []string{"-q", "-F", "-t", "ext4", "-b", "4096", "-L", label}
	if d.Content != "" {
		args = append(args, "-d", d.Content)
	}
	return tool(ctx, "e2fsprogs", "mke2fs", append(args, raw)...)
}

// tool runs a program of a Debian package.
func tool(ctx context.Context, debianPackage, name string, args ...string) error {
	path, err := lookUp(debianPackage, name)
	if err != nil {
		return err
	}
	if msg, err := exec.CommandContext(ctx, path, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("run %s: %w: %s", name, err, strings.TrimSpace(string(msg)))
	}
	return nil
}

// lookUp finds a program; those for the administrator are often not on PATH.
func lookUp(debianPackage, name string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	for _, dir := range []string{"/usr/sbin", "/sbin"} {
		path := filepath.Join(dir, name)
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("find %s: install %s", name, debianPackage)
}
