package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/wipe"
)

// enlarge is best effort: a small pipe is slower.
func enlarge(f *os.File) {
	raw, err := f.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) { _, _ = unix.FcntlInt(fd, unix.F_SETPIPE_SZ, pipeSize) })
}

// createState makes the file of a state as the marker that it is at first. It
// holds all that the guest has in memory: nobody else may read it.
func createState(s snapshot.SavedPlan) (*os.File, error) {
	f, err := os.OpenFile(s.Path+savingSuffix, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err == nil && s.Wipe {
		wipe.Plain(f)
	}
	if err == nil {
		err = syncDir(f.Name())
	}
	if err != nil {
		return nil, fmt.Errorf("create saved state: %w", err)
	}
	return f, nil
}

// keepState gives the file its name: the VM runs. That it need not be durable
// under it is no loss; after a crash the marker at worst makes recovery look.
func keepState(s snapshot.SavedPlan) error {
	if err := os.Rename(s.Path+savingSuffix, s.Path); err != nil {
		return fmt.Errorf("name saved state: %w", err)
	}
	return nil
}

// dropState removes the file of a state under either name.
func dropState(p snapshot.Plan) error {
	if p.Saved.Path == "" {
		return nil
	}
	for _, suffix := range []string{"", savingSuffix} {
		if err := discard(p.Saved.Path+suffix, p.Saved.Wipe); err != nil {
			return fmt.Errorf("remove saved state: %w", err)
		}
	}
	return syncDir(p.Saved.Path)
}

// Resume lets the VM go on if its marker is there. A monitor that cannot be reached,
// as it is busy or still has the dead process's connection, is tried until ctx ends.
func (h *Host) Resume(ctx context.Context, p snapshot.Plan) error {
	k := newMarker(p)
	if k.gone(ctx) {
		return nil
	}
	tick := time.NewTicker(resumeTick)
	defer tick.Stop()
	for {
		err := h.resume(ctx, p, k)
		if err == nil {
			h.untune(ctx, p)
			return nil
		}
		if !living(p.Instance) {
			return nil // nothing runs that could stand still
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("resume %s: %w", p.VM, errors.Join(err, context.Cause(ctx)))
		}
	}
}

// resumeTick is how long a monitor that was not reached is left alone.
const resumeTick = 20 * time.Millisecond

// resumeStopped is Merge's part: it resumes the VM where the run did not come to
// that, and removes the file.
func (h *Host) resumeStopped(ctx context.Context, m *monitor, p snapshot.Plan) error {
	if k := newMarker(p); m.proc.instance == p.Instance && !k.gone(ctx) {
		h.opt.Log.Info("resuming a VM whose memory was being saved", "vm", p.VM)
		if err := h.resume(ctx, p, k); err != nil {
			return fmt.Errorf("resume: %w", err)
		}
		h.untune(ctx, p)
	}
	return dropState(p)
}
