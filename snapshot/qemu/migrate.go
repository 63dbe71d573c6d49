package qemu

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/qmp"
	"github.com/lull-backup/lull/snapshot/vmstate"
)

// pipeSize is what the kernel holds between QEMU and the file, in bytes: the most
// that a user without rights may ask for.
const pipeSize = 1 << 20

// migrateInto moves the state of a stopped VM into a file. QEMU writes into a pipe,
// so that no more than the limit gets onto the disk, whatever QEMU does, and that
// nothing is written any more once lull has died.
func (m *monitor) migrateInto(ctx context.Context, p snapshot.Plan, s *saving) error {
	r, w, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("make pipe: %w", err)
	}
	defer r.Close()
	enlarge(r)
	name := runName(p.VM, p.Run) + "-state"
	err = errors.Join(m.ExecuteFD(ctx, "getfd", args{"fdname": name}, nil, w), w.Close()) // QEMU has its own copy
	if err != nil {
		return err
	}
	copied := s.fill(r, p.Saved.Limit)
	err = m.Execute(ctx, "migrate", args{"uri": "fd:" + name}, nil)
	if err != nil {
		r.Close() // the copy ends, even where QEMU still has the other end
		return errors.Join(err, m.ask(ctx, "closefd", args{"fdname": name}, nil))
	}
	err = m.migrated(ctx)
	if err != nil {
		r.Close()
	}
	var copyErr error
	select {
	case copyErr = <-copied:
	case <-ctx.Done():
		copyErr = context.Cause(ctx) // QEMU gets to know when r is closed
	}
	if copyErr != nil && !errors.Is(copyErr, os.ErrClosed) {
		return errors.Join(copyErr, err) // the cause comes first
	}
	return err
}

// saving is the file of a state, and who writes it. A disk that hangs must not keep
// the guest from going on, so the writer is waited for only after that.
type saving struct {
	f       io.WriterAt
	lay     func(f io.WriterAt, r io.ReadCloser, limit int64) error // writes the file
	reserve bool                                                    // room for all of it, before the VM is stopped
	frozen  func() error                                            // the disks are
	mayGoOn func() error                                            // asked where they were to freeze; an error: the guest may not yet. Nil: it may
	resumed func()                                                  // the guest goes on, whatever happened
	settled func()                                                  // and the disks are frozen
	writer  sync.WaitGroup
}

// fill starts the writer.
func (s *saving) fill(r io.ReadCloser, limit int64) <-chan error {
	copied := make(chan error, 1)
	s.writer.Go(func() { copied <- s.lay(s.f, r, limit) })
	return copied
}

// migrated waits until all of the state is in the pipe.
func (m *monitor) migrated(ctx context.Context) error {
	tick := time.NewTicker(stateTick)
	defer tick.Stop()
	for {
		status, why, err := m.migration(ctx)
		switch {
		case err != nil:
			return err
		case status == "completed":
			return nil
		case !underWay(status):
			return fmt.Errorf("migration into the file: %s %s", status, why)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("migration into the file: not done in its time: %w", context.Cause(ctx))
		}
	}
}

// migration is where the last migration stands; empty: there was none.
func (m *monitor) migration(ctx context.Context) (status, why string, err error) {
	var now struct {
		Status string `json:"status"`
		Error  string `json:"error-desc"`
	}
	err = m.Execute(ctx, "query-migrate", nil, &now)
	return now.Status, now.Error, err
}

func underWay(migration string) bool {
	return !slices.Contains([]string{"", "none", "completed", "failed", "cancelled"}, migration)
}

// layState writes what comes out of the pipe, at most limit bytes, so that the guest's
// pages lie where the guest has them.
func layState(f io.WriterAt, r io.ReadCloser, limit int64) error {
	err := vmstate.Pack(f, r, limit)
	if errors.Is(err, vmstate.ErrTooLarge) {
		err = errors.Join(err, r.Close()) // QEMU's next write fails
	}
	if err != nil {
		return fmt.Errorf("write saved state: %w", spaceOr(err))
	}
	return nil
}

// resume lets a VM go on that TakeSaved stopped, over a new connection where the
// one there was is gone.
func (h *Host) resume(ctx context.Context, p snapshot.Plan) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), resumeTimeout)
	defer cancel()
	tick := time.NewTicker(stateTick)
	defer tick.Stop()
	for {
		var runs bool
		err := h.during(ctx, p, func(m *monitor) (err error) {
			runs, err = m.resumeStep(ctx)
			return err
		})
		if runs {
			return nil
		}
		if errors.Is(err, snapshot.ErrGone) && !errors.Is(err, qmp.ErrClosed) && !living(p.Instance) {
			return err // nothing is there that could go on
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return errors.Join(err, ctx.Err())
		}
	}
}

// resumeStep does what is next until the VM runs, or does not run for another
// reason than that it was saved.
func (m *monitor) resumeStep(ctx context.Context) (done bool, err error) {
	migration, _, err := m.migration(ctx)
	if err != nil {
		return false, err
	}
	if underWay(migration) {
		return false, m.Execute(ctx, "migrate_cancel", nil, nil)
	}
	status, err := m.status(ctx)
	if err != nil {
		return false, err
	}
	switch status {
	case "finish-migrate": // the migration is over, this state will be soon
		return false, nil
	case "paused", "postmigrate":
		return false, m.goOn(ctx)
	}
	return true, nil
}
