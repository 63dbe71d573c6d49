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
	"github.com/lull-backup/lull/snapshot/durable"
)

// mergeOffline merges with QEMU gone. QEMU's locks on the images are respected,
// so a process that only cannot be reached keeps its files. seen: see judge.
func (h *Host) mergeOffline(ctx context.Context, p snapshot.Plan, seen bool) error {
	if err := removeSocket(h.socketPath(p)); err != nil {
		return err
	}
	merge := h.mergeFiles
	if mgr := h.lines[p.VM].vm.Manager; mgr != nil {
		merge = func(ctx context.Context, d snapshot.DiskPlan, seen bool) error {
			return h.mergeManaged(ctx, mgr, d, seen)
		}
	}
	var errs []error
	for _, d := range p.Disks {
		if err := merge(ctx, d, seen); err != nil {
			errs = append(errs, fmt.Errorf("disk %s: %w", d.Name, err))
		}
	}
	return errors.Join(append(errs, removeAnchor(p))...)
}

func (h *Host) mergeFiles(ctx context.Context, d snapshot.DiskPlan, seen bool) error {
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
		return f.remove() // its stamp may be there still
	}
	if err := closed(f.path); err != nil {
		return err
	}
	empty, err := untouched(f.path)
	if err != nil {
		return err
	}
	if !empty {
		if err := h.mergeFile(ctx, d, seen); err != nil {
			return err
		}
	}
	return f.removeHeld()
}

// mergeFile commits a delta that holds writes, where they belong into the image.
func (h *Host) mergeFile(ctx context.Context, d snapshot.DiskPlan, seen bool) error {
	v, err := judge(d, seen)
	if err != nil {
		return fmt.Errorf("look at image: %w", err)
	}
	switch v {
	case foreign:
		return overwritten(d)
	case away:
		return leftBehind(d)
	}
	if err := unshot(d); err != nil {
		return err
	}
	if v == unknown {
		// A commit that was carried to its end leaves nothing to commit, whoever
		// wrote later, elsewhere.
		if d.Key != "" || d.Path == "" { // which QEMU alone can open
			return uncertain(d)
		}
		if same, err := sameContent(ctx, d, d.Delta); err != nil || !same {
			return errors.Join(uncertain(d), err)
		}
		return nil
	}
	if d.Key != "" {
		return sealed(d, d.Delta)
	}
	was, err := readStamp(d)
	if err != nil && !errors.Is(err, errNoStamp) {
		return err
	}
	if err := note(d, stampCommit); err != nil && !errors.Is(err, snapshot.ErrNoSpace) {
		return err
	}
	err = h.commitFile(ctx, d)
	if err == nil {
		return nil
	}
	if noteErr := noteFailed(d, was, err); noteErr != nil && !errors.Is(noteErr, errNoStamp) {
		h.opt.Log.Warn("no stamp beside delta", "delta", d.Delta, "error", noteErr)
	}
	return err
}

// noteFailed records what is known of an image after a commit with QEMU gone has failed. What
// that has written so far is right: who tries again may know it. Kept out by a lock it has
// written nothing, and whoever has the lock may have, since the image was looked at.
func noteFailed(d snapshot.DiskPlan, was stamp, err error) error {
	switch {
	case !errors.Is(err, snapshot.ErrBusy):
		return noteFrozen(d, true)
	case was.state == "":
		return errNoStamp
	}
	return was.write(d, true)
}

// commitFile writes the delta into the image. QEMU's own program does it: an
// image is written by no other code than its owner's. It can be repeated.
func (h *Host) commitFile(ctx context.Context, d snapshot.DiskPlan) error {
	if len(d.Chain) == 0 {
		return fmt.Errorf("commit delta %s: no image below it is on record: %w", d.Delta, snapshot.ErrCorrupt)
	}
	below := snapshot.Layer{Path: d.Chain[0].Path, Format: d.Format} // as Prepare wrote into the header
	err := restsOn(d.Delta, below)
	if err == nil {
		err = ownData(append([]snapshot.Layer{below}, d.Chain[1:]...)...)
	}
	if err == nil {
		err = h.qemuImg(ctx, append([]string{"commit", "-q", "-d"}, onto(d, below)...)...)
	}
	if err != nil {
		return fmt.Errorf("commit delta %s: %w", d.Delta, err)
	}
	return syncFile(d.Path)
}

// qemuImg runs QEMU's program for images.
func (h *Host) qemuImg(ctx context.Context, arg ...string) error {
	cmd := exec.CommandContext(ctx, h.opt.QemuImg, arg...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	var said bytes.Buffer
	cmd.Stderr = &said // qemu-img says little
	err := cmd.Run()
	if errors.Is(err, exec.ErrNotFound) {
		return snapshot.WithHint(err, "apt-get install qemu-utils")
	}
	if err != nil {
		return imgError(err, said.String())
	}
	return nil
}

func imgError(err error, said string) error {
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

// syncFile makes what is in a file durable; no path is none.
func syncFile(path string) error {
	if path == "" {
		return nil
	}
	return durable.SyncFile(path)
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
	if !empty && d.Key != "" {
		return halfway(d, f.merged)
	}
	if !empty {
		same, err := sameContent(ctx, d, f.merged)
		if err != nil {
			return fmt.Errorf("compare %s with its image: %w", f.merged, err)
		}
		if !same {
			return halfway(d, f.merged)
		}
	}
	if err := discard(f.merged, f.wipe); err != nil {
		return fmt.Errorf("remove delta: %w", err)
	}
	return syncDir(f.merged)
}
