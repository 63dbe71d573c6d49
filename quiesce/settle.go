package quiesce

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/lull-backup/lull/snapshot"
)

// Tries of what must succeed in the end come faster at first.
const (
	firstPause = 100 * time.Millisecond
	lastPause  = 5 * time.Second
	oneTry     = 10 * time.Second // for one question to the guest
)

// giveUp ends the attempts of all writers of a rung. The error is that of the
// guest, or else that of ctx.
func (r *run) giveUp(ctx context.Context, members []*member) error {
	for _, m := range members {
		m.failed = true
	}
	if _, err := r.settle(ctx, members); err != nil {
		return err
	}
	return context.Cause(ctx)
}

// settle aborts the writers that failed and proves that the guest goes on. It
// returns the others.
func (r *run) settle(ctx context.Context, members []*member) ([]*member, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.Limits.Follow)
	defer cancel()
	var rest, failed []*member
	for _, m := range members {
		if m.failed {
			failed = append(failed, m)
		} else {
			rest = append(rest, m)
		}
	}
	errs := each(failed, func(m *member) error { return r.abort(ctx, m) })
	errs = append(errs, r.proveThawed(context.WithoutCancel(ctx), members)) // also where a writer has taken all the time
	for _, m := range members {
		m.freezing = false
	}
	if err := errors.Join(errs...); err != nil {
		return rest, fmt.Errorf("%w: %w", ErrStillFrozen, err)
	}
	return rest, nil
}

// abort ends an attempt. The error says that the application may hold still yet;
// an Abort that fails where nothing can be frozen is only logged.
func (r *run) abort(ctx context.Context, m *member) error {
	if !m.started {
		return nil
	}
	m.started = false
	running := !m.freezing || m.thawed
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		alone := m.idle()
		err := r.abortOnce(ctx, m)
		if !m.letGo(err) {
			m.log.Warn("writer did not abort", "error", err)
		}
		// Where the guest can be asked, its word counts, not the writer's.
		proven := m.letGo(err) || running || !m.application() && r.Guest != nil
		switch {
		case proven && alone:
			return nil
		case errors.Is(err, ErrWriterGone) && !running:
			return err
		}
		m.awaitPending(ctx, pause)
		if ctx.Err() != nil {
			if running {
				return nil
			}
			if err == nil {
				err = m.failure(ctx, "freeze", errors.New("a call that was given up is still running"))
			}
			return err
		}
	}
}

func (r *run) abortOnce(ctx context.Context, m *member) error {
	ctx, cancel := context.WithTimeout(ctx, r.Limits.Abort)
	defer cancel()
	return callErr(ctx, m, "abort", func(ctx context.Context) error { return m.w.Abort(ctx, r.request()) })
}

// follow starts to thaw the guest beside the writers; proveThawed waits for it.
func (r *run) follow(ctx context.Context) {
	if r.Guest == nil || r.following != nil {
		return
	}
	following := make(chan error, 1)
	r.following = following
	go func() { following <- r.thawGuest(ctx) }()
}

// proveThawed asks the guest whether it is frozen once everything else is over,
// and thaws it if so.
func (r *run) proveThawed(ctx context.Context, members []*member) error {
	if r.following != nil {
		err := <-r.following
		r.following = nil
		if err != nil {
			return err
		}
	}
	if r.Guest == nil || !anyFroze(members) {
		return nil
	}
	// Also where every writer said that all is thawed: a writer may be wrong.
	if frozen, err := r.guestFrozen(ctx); err == nil && !frozen {
		return nil
	}
	return r.thawGuest(ctx)
}

// thawGuest thaws the file systems of the guest until it says itself that none
// is frozen. A VM that went away is not frozen.
func (r *run) thawGuest(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, r.Limits.Follow)
	defer cancel()
	err := Insist(ctx, firstPause, lastPause, func() (bool, error) { return true, r.thawGuestOnce(ctx) })
	if err != nil {
		return fmt.Errorf("thaw guest: %w", err)
	}
	return nil
}

func (r *run) thawGuestOnce(ctx context.Context) error {
	if _, err := askWithin(ctx, r.Log, oneTry, r.Guest.ThawFilesystems); err != nil && !errors.Is(err, snapshot.ErrGone) {
		return err
	}
	frozen, err := r.guestFrozen(ctx)
	if err == nil && frozen {
		err = errors.New("file systems are still frozen")
	}
	return err
}

func (r *run) guestFrozen(ctx context.Context) (bool, error) {
	frozen, err := askWithin(ctx, r.Log, oneTry, r.Guest.FilesystemsFrozen)
	if errors.Is(err, snapshot.ErrGone) {
		return false, nil
	}
	return frozen, err
}

func anyFroze(members []*member) bool {
	for _, m := range members {
		if m.freezing {
			return true
		}
	}
	return false
}
