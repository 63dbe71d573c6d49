package qemu

import (
	"cmp"
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

// migrateInto moves the state of a stopped VM into a file, which gets no larger than its
// limit, whatever QEMU does. In the background, the guest goes on meanwhile.
func (m *monitor) migrateInto(ctx context.Context, p snapshot.Plan, s *saving) error {
	in, theirs, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("make pipe: %w", err)
	}
	defer in.Close()
	enlarge(in)
	name := pipeName(p)
	err = m.ExecuteFD(ctx, "getfd", args{"fdname": name}, nil, theirs)
	if err = errors.Join(err, theirs.Close()); err != nil { // QEMU has its own copy
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(ctx, func() { in.Close() })() // QEMU need not wait for a reader any more
	counted := &gauge{ReadCloser: in}
	copied := s.fill(counted, p.Saved.Limit, cancel)
	err = m.Execute(ctx, "migrate", args{"uri": "fd:" + name}, nil)
	if err != nil {
		in.Close() // the copy ends, even where QEMU still has the other end until untune
		return notWritten(context.Cause(ctx), nil, err)
	}
	if s.background {
		// QEMU may hang even before it is known to keep the instant.
		slow := cmp.Or(s.patience, stallLimit) + time.Duration(p.Saved.Limit/protectRate)*time.Second
		s.writer.Go(func() { counted.watch(ctx, slow, cancel) })
		err = m.letGo(ctx, s, sync.OnceFunc(func() { s.watch(ctx, counted, cancel) }))
	}
	if err == nil {
		err = m.migrated(ctx)
	}
	if err != nil {
		in.Close()
	}
	var copyErr error
	select {
	case copyErr = <-copied:
	case <-ctx.Done():
		copyErr = context.Cause(ctx) // QEMU gets to know when the pipe is closed
	}
	return notWritten(context.Cause(ctx), copyErr, err)
}

// pipeName is QEMU's name for the pipe that a run hands to it, until it migrates into that.
func pipeName(p snapshot.Plan) string { return runName(p.VM, p.Run) + "-state" }

// notWritten is why a state was not: what has cut it off, which may be the copy's own error,
// says more than what came of that. nil: it was.
func notWritten(cause, copying, migrating error) error {
	switch {
	case copying == nil && migrating == nil:
		return nil
	case migrating == nil && cause == nil:
		return copying
	case migrating == nil:
		return cause
	case cause == nil || errors.Is(cause, os.ErrClosed) || errors.Is(migrating, cause):
		return migrating
	}
	return errors.Join(cause, migrating)
}

// saving is the file of a state, and who writes it. A disk that hangs must not keep
// the guest from going on, so the writer is waited for only after that.
type saving struct {
	f       io.WriterAt
	lay     func(f io.WriterAt, in io.Reader, limit int64) error // writes the file
	leave   bool                                                 // what is not whole to the caller, and reserve room for all of it before the VM is stopped
	frozen  func() error                                         // the disks are
	mayGoOn func() error                                         // asked where they were to freeze; an error: the guest may not yet. Nil: it may
	resumed func()                                               // the guest goes on, whatever happened
	settled func()                                               // and the disks are frozen; quick
	noted   func()                                               // after that, beside the writer. Nil: nothing
	guarded func(context.Context) error                          // while it goes on and all is not written: why that must end
	writer  sync.WaitGroup                                       // and who else may have to wait for a disk
	alive   bool                                                 // the guest may go on before all is written

	background bool          // the guest goes on as soon as QEMU keeps the instant
	why        error         // it does not
	wentOn     bool          // the guest has: nobody needs to tell it to
	patience   time.Duration // while nothing moves and the guest goes on; 0: stallLimit
}

// goesOn: the guest does, with its disks frozen.
func (s *saving) goesOn() {
	s.settled()
	if s.noted != nil {
		s.writer.Go(s.noted)
	}
}

// watch cancels a state that is written while the guest goes on, as soon as that must end.
func (s *saving) watch(ctx context.Context, g *gauge, cancel context.CancelCauseFunc) {
	s.writer.Go(func() { g.watch(ctx, cmp.Or(s.patience, stallLimit), cancel) })
	if s.guarded == nil {
		return
	}
	s.writer.Go(func() {
		if err := s.guarded(ctx); err != nil {
			cancel(err)
		}
	})
}

// fill starts the writer. Where it fails, it ends the stream, and the wait for QEMU.
func (s *saving) fill(in io.ReadCloser, limit int64, cancel context.CancelCauseFunc) <-chan error {
	copied := make(chan error, 1)
	s.writer.Go(func() {
		err := s.lay(s.f, in, limit)
		if err != nil {
			in.Close() // QEMU's next write fails
			cancel(err)
		}
		copied <- err
	})
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

// layState writes what comes, at most limit bytes, so that the guest's pages lie where
// the guest has them.
func layState(f io.WriterAt, in io.Reader, limit int64) error {
	if err := vmstate.Pack(f, in, limit); err != nil {
		return fmt.Errorf("write saved state: %w", spaceOr(err))
	}
	return nil
}

// resume lets a VM go on that this process has stopped, or whose tree says that it is to be
// resumed: nobody else does. Where only its marker tells that, the marker is given.
func (h *Host) resume(ctx context.Context, p snapshot.Plan, k *marker) error {
	return h.repeat(ctx, p, k, (*monitor).resumeStep)
}

// repeat does steps until there are no more, or the marker has gone, over a new connection
// where the one there was is gone. Without a marker no file is looked at: the disk may hang.
func (h *Host) repeat(ctx context.Context, p snapshot.Plan, k *marker, step func(*monitor, context.Context) (done bool, err error)) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), resumeTimeout)
	defer cancel()
	tick := time.NewTicker(stateTick)
	defer tick.Stop()
	for {
		if k != nil && k.gone(ctx) {
			return nil // another process has done it, and the VM may be the next run's already
		}
		var done bool
		err := h.during(ctx, p, func(m *monitor) (err error) {
			done, err = step(m, ctx)
			return err
		})
		if done {
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

// cancelStep ends a migration that is under way. The VM runs on, or does not.
func (m *monitor) cancelStep(ctx context.Context) (done bool, err error) {
	migration, _, err := m.migration(ctx)
	if err != nil || !underWay(migration) {
		return err == nil, err
	}
	return false, m.Execute(ctx, "migrate_cancel", nil, nil)
}

// resumeStep does what is next until the VM runs, or does not run for another
// reason than that it was saved.
func (m *monitor) resumeStep(ctx context.Context) (done bool, err error) {
	if over, err := m.cancelStep(ctx); err != nil || !over {
		return false, err
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
