package qemu

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/qmp"
)

// With QEMU's background snapshot the guest goes on long before its memory is written.
// QEMU keeps the devices' state, protects all memory against writes (userfaultfd), and
// from then on a page is written at the latest when the guest is about to change it. From
// the stop until there no instruction of the guest runs, so disks and memory are of one
// instant all the same.
//
// Until QEMU has protected the memory the guest must not be told to go on. QEMU says that
// in no other way than by the first page that it has written.
//
// While the guest goes on, it waits wherever it changes a page that is not written yet, and
// QEMU's main loop does too, and with it the monitor. From QEMU 8.1 on the memory is
// protected no more as soon as the snapshot fails: it is cancelled, the disk has an error,
// or nobody reads the pipe any more, as lull was killed. An older QEMU (seen: 7.2.22)
// then forgets to take the protection back (migration/migration.c,
// bg_migration_iteration_finish has it since), and all of it waits for ever. There, and
// wherever else it cannot be, the VM stands still until all is written: a kernel or a
// user without userfaultfd, memory that cannot be protected (QEMU says so beforehand, or
// when it begins: writeState), a capability that excludes it.

// stallLimit is how long nothing may move from QEMU to the file while the guest goes on:
// it may be waiting for that, and the monitor with it.
// Before that, QEMU needs a moment in which nothing moves either, to protect all of it.
const stallLimit = 5 * time.Second

// protectRate is how many bytes of memory are visited and protected in a second at the least.
const protectRate = 4 << 30

// inBackground prepares for it, where it is safe, the host's kernel has what it needs,
// and the VM's memory is of a kind that can be protected.
func (h *Host) inBackground(ctx context.Context, m *monitor, p snapshot.Plan, s *saving) error {
	err := errForgets
	if !forgets(m.Version()) {
		err = m.setBackground(ctx, true)
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if s.background = err == nil; !s.background {
		h.standStill(p, s, err)
		return m.noBackground(ctx) // a run before may have left it on
	}
	return nil
}

// standStill is the other way.
func (h *Host) standStill(p snapshot.Plan, s *saving, why error) {
	h.opt.Log.Info("the VM stands still until its memory is written", "vm", p.VM, "reason", why)
	s.background, s.why = false, why
}

// how is what to tell of a state that was saved.
func (s *saving) how() snapshot.Saving {
	if s.background {
		return snapshot.Saving{Background: true}
	}
	return snapshot.Saving{Why: strings.ReplaceAll(s.why.Error(), "\n", "; ")}
}

// writeState has QEMU write the state. Where it turns out only then that it cannot do that in
// the background, the guest has not gone on: it stands still, and all is written once more.
func (h *Host) writeState(ctx context.Context, m *monitor, p snapshot.Plan, s *saving) error {
	resumed := m.Subscribe("RESUME")
	defer resumed.Close()
	err := m.migrateInto(ctx, p, s)
	if err == nil || !s.background || s.wentOn || !m.neverBegan(ctx, err, resumed) {
		return err
	}
	s.writer.Wait() // its stream has ended
	again := m.setBackground(ctx, false)
	if f, ok := s.f.(interface{ Truncate(size int64) error }); ok && again == nil {
		again = f.Truncate(0)
	}
	if again != nil {
		return errors.Join(err, again)
	}
	h.standStill(p, s, err)
	return m.migrateInto(ctx, p, s)
}

// neverBegan tells that a background snapshot has failed before anything came of it.
func (m *monitor) neverBegan(ctx context.Context, failure error, resumed *qmp.Subscription) bool {
	migration, _, err := m.migration(ctx)
	if err != nil || underWay(migration) || migration != "failed" && !refused(failure) {
		return false
	}
	if status, err := m.status(ctx); err != nil || status != "paused" {
		return false
	}
	select {
	case <-resumed.Events(): // it ran, and stands still for another reason
		return false
	default:
		return true
	}
}

var errForgets = errors.New("QEMU older than 8.1 may hang with its guest when a background snapshot fails")

// forgets tells a QEMU that leaves the memory protected when a background snapshot fails.
func forgets(v qmp.Version) bool { return v.Major < 8 || v.Major == 8 && v.Minor < 1 }

// noBackground turns it off where it is on; a QEMU before 6.0 does not know it.
func (m *monitor) noBackground(ctx context.Context) error {
	on, err := m.abilities(ctx)
	if err != nil || !slices.Contains(on, backgroundSnapshot) {
		return err
	}
	return m.setBackground(ctx, false)
}

// backgroundSnapshot is QEMU's name for it.
const backgroundSnapshot = "background-snapshot"

func (m *monitor) setBackground(ctx context.Context, on bool) error {
	return m.Execute(ctx, "migrate-set-capabilities",
		args{"capabilities": []args{{"capability": backgroundSnapshot, "state": on}}}, nil)
}

// letGo lets the guest go on as soon as QEMU keeps the instant, which is told first: from then
// on QEMU may wait for the reader, and the guest for QEMU. Some versions do that by themselves.
func (m *monitor) letGo(ctx context.Context, s *saving, keeps func()) error {
	tick := time.NewTicker(letGoTick)
	defer tick.Stop()
	for {
		var now struct {
			Status string `json:"status"`
			Error  string `json:"error-desc"`
			RAM    struct{ Normal, Duplicate int64 }
		}
		if err := m.Execute(ctx, "query-migrate", nil, &now); err != nil {
			return err
		}
		kept := now.Status == "completed" || now.RAM.Normal+now.RAM.Duplicate > 0
		if kept {
			keeps()
		}
		if !kept && !underWay(now.Status) {
			return fmt.Errorf("migration in the background: %s %s", now.Status, now.Error)
		}
		// Asked after that, QEMU has also taken the VM for stopped again, as it was before: it
		// does so in its main loop, once the memory is protected.
		status, err := m.status(ctx)
		if err == nil && kept && status == "paused" {
			err = m.goOn(ctx)
			status = "running"
		}
		if err != nil {
			return err
		}
		if status == "running" {
			s.wentOn = true
			s.goesOn()
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("the VM does not go on: %w", context.Cause(ctx))
		}
	}
}

// letGoTick is how often QEMU is asked whether the guest can go on, which waits for it.
const letGoTick = time.Millisecond

// gauge knows how much was read.
type gauge struct {
	io.ReadCloser
	moved atomic.Int64
}

func (g *gauge) Read(b []byte) (int, error) {
	n, err := g.ReadCloser.Read(b)
	g.moved.Add(int64(n))
	return n, err
}

var errStalled = errors.New("QEMU or the disk has stopped, and the guest may wait for it")

// watch gives up when nothing moves, until ctx ends.
func (g *gauge) watch(ctx context.Context, limit time.Duration, cancel context.CancelCauseFunc) {
	tick := time.NewTicker(limit / 10)
	defer tick.Stop()
	since, before := time.Now(), int64(0)
	for time.Since(since) < limit {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		if now := g.moved.Load(); now != before {
			since, before = time.Now(), now
		}
	}
	cancel(errStalled)
}
