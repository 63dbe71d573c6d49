package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/image"
)

// A manager's host has images of checkpoints, too, which no QEMU has open when these are used:
// qemu-img is told all that there is to know of them (backing.go).

// MakeOverlay makes an empty qcow2 image upon another, durably, with that one's size, owner
// and mode. wiped: it will be wiped in the end.
func (h *Host) MakeOverlay(ctx context.Context, path string, below snapshot.Layer, wiped bool) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) { // of an attempt that was cut off
		return err
	}
	info, err := image.Inspect(below.Path, below.Format)
	if err != nil {
		return err
	}
	content, err := h.emptyImage(ctx, below.Path, below.Format, info.Size)
	if err != nil {
		return fmt.Errorf("make image %s: %w", path, err)
	}
	return deltaFile{path: path, wipe: wiped}.createWith(below.Path, content)
}

// CommitImage writes an image into the one that it rests upon. It can be repeated.
func (h *Host) CommitImage(ctx context.Context, upper string, lower snapshot.Layer) error {
	if err := errors.Join(restsOn(upper, lower), ownData(lower)); err != nil {
		return err
	}
	name, err := described([]snapshot.Layer{{Path: upper, Format: snapshot.FormatQcow2}, lower}, false)
	if err != nil {
		return fmt.Errorf("name %s: %w", upper, err)
	}
	if err := h.qemuImg(ctx, "commit", "-q", "-d", name); err != nil {
		return err
	}
	return syncFile(lower.Path)
}

// Repoint has an image rest upon another one that says the same as the one below it does. It
// can be repeated.
func (h *Host) Repoint(ctx context.Context, path string, from, to snapshot.Layer) error {
	if restsOn(path, to) == nil {
		return nil
	}
	if err := restsOn(path, from); err != nil {
		return err
	}
	if err := h.qemuImg(ctx, "rebase", "-q", "-u", "-f", "qcow2", "-b", to.Path, "-F", string(to.Format), path); err != nil {
		return err
	}
	return syncFile(path)
}

// SaysTheSame tells whether an image says the same as the chain that it rests upon.
func (h *Host) SaysTheSame(ctx context.Context, upper string, chain []snapshot.Layer) (bool, error) {
	return sameContent(ctx, snapshot.DiskPlan{Chain: chain}, upper)
}

// InUse tells whether a QEMU has an image open, whatever its manager says.
func InUse(path string) (bool, error) { return inUse(path) }
