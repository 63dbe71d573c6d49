package qemu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"github.com/lull-backup/lull/snapshot"
)

// mergeOffline merges with QEMU gone. QEMU's locks on the images are respected,
// so a process that only cannot be reached keeps its files.
func (h *Host) mergeOffline(ctx context.Context, p snapshot.Plan) error {
	if err := removeSocket(h.socketPath(p)); err != nil {
		return err
	}
	var errs []error
	for _, d := range p.Disks {
		if err := h.mergeFiles(ctx, d); err != nil {
			errs = append(errs, fmt.Errorf("disk %s: %w", d.Name, err))
		}
	}
	return errors.Join(errs...)
}

func (h *Host) mergeFiles(ctx context.Context, d snapshot.DiskPlan) error {
	f := fileOf(d)
	plain, merged, err := f.exists()
	if err != nil {
		return err
	}
	if merged {
		if err := dropMerged(ctx, d, f); err != nil {
			return err
		}
	}
	if !plain {
		return syncDir(d.Delta)
	}
	if err := closed(f.path); err != nil {
		return err
	}
	empty, err := untouched(f.path)
	if err != nil {
		return err
	}
	if !empty {
		if err := h.commitFile(ctx, d); err != nil {
			return err
		}
	}
	return f.remove()
}

// commitFile writes the delta into the image. QEMU's own program does it: an
// image is written by no other code than its owner's. It can be repeated.
func (h *Host) commitFile(ctx context.Context, d snapshot.DiskPlan) error {
	moved, err := movedOn(d)
	if err != nil {
		return err
	}
	if moved {
		return diverged(d, d.Delta)
	}
	if err := noteCommit(d); err != nil && !noAttributes(err) {
		return fmt.Errorf("mark delta: %w", err)
	}
	cmd := exec.CommandContext(ctx, h.opt.QemuImg, "commit", "-q", "-d", "-f", "qcow2", d.Delta)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	var said bytes.Buffer
	cmd.Stderr = &said // qemu-img says little
	err = cmd.Run()
	if errors.Is(err, exec.ErrNotFound) {
		return snapshot.WithHint(fmt.Errorf("commit delta %s: %w", d.Delta, err), "apt-get install qemu-utils")
	}
	if err != nil {
		return fmt.Errorf("commit delta %s: %w", d.Delta, commitError(err, said.String()))
	}
	return syncFile(d.Path)
}

func commitError(err error, said string) error {
	said = strings.TrimSpace(said)
	err = fmt.Errorf("qemu-img: %w: %s", err, said[:min(len(said), 1000)])
	switch {
	case strings.Contains(said, "No space left"), strings.Contains(said, "Disk quota exceeded"):
		return fmt.Errorf("%w: %w", snapshot.ErrNoSpace, err)
	case strings.Contains(said, `" lock`):
		return snapshot.WithHint(fmt.Errorf("%w: %w", snapshot.ErrBusy, err),
			"end the process that has the image open, or make the QMP socket of its VM reachable")
	}
	return err
}

func syncFile(path string) error {
	if path == "" {
		return nil
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		return fmt.Errorf("sync image: %w", err)
	}
	return nil
}

// dropMerged removes a delta whose pivot was ordered in a QEMU that is gone. If
// it happened, the image has all that the delta has; if the crash came first,
// it may lack the last writes. So they are compared.
func dropMerged(ctx context.Context, d snapshot.DiskPlan, f deltaFile) error {
	if err := closed(f.merged); err != nil {
		return err
	}
	empty, err := untouched(f.merged)
	if err != nil {
		return err
	}
	if !empty {
		same, err := sameContent(ctx, d, f.merged)
		if err != nil {
			return fmt.Errorf("compare %s with its image: %w", f.merged, err)
		}
		if !same {
			return diverged(d, f.merged)
		}
	}
	if err := os.Remove(f.merged); err != nil {
		return fmt.Errorf("remove delta: %w", err)
	}
	return syncDir(f.merged)
}
