package quiesce

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// window is the time in which a guest holds still.
type window struct {
	budget   time.Duration
	opened   time.Time
	freezeBy time.Time // Freeze and Take are given up
	end      time.Time // everything should be thawed
	closed   time.Time

	taking <-chan answer[struct{}] // nil: Take was not called
	result *answer[struct{}]       // nil: Take has not answered yet
	late   bool                    // Take had not answered when the thaw began
	stop   context.CancelFunc      // frees Take's context
}

// A fifth of the budget is kept for the thaw; each of the three tiers is sure of
// a third of that.
const (
	thawShare = 5
	tierShare = thawShare * 3
)

// open starts a window that is no longer than any of its writers allows.
func (r *run) open(members []*member) *window {
	budget := r.Policy.window()
	for _, m := range members {
		if b := m.id.Budget; b > 0 {
			budget = min(budget, b)
		}
	}
	now := time.Now()
	return &window{budget: budget, opened: now, freezeBy: now.Add(budget - budget/thawShare), end: now.Add(budget)}
}

func (w *window) overran() bool { return w.late || w.closed.Sub(w.opened) > w.budget }

// freeze walks the tiers. At the first failure the rest is left alone.
func (r *run) freeze(ctx context.Context, w *window, members []*member) error {
	ctx, cancel := context.WithDeadline(ctx, w.freezeBy)
	defer cancel()
	r.step(StepFreezing)
	for tier := FrontEnd; tier <= System; tier++ {
		if err := r.freezeTier(ctx, inTier(members, tier)); err != nil {
			return err
		}
	}
	return nil
}

// errSibling ends the freezes beside one that failed.
var errSibling = errors.New("another writer of its tier failed first")

func (r *run) freezeTier(ctx context.Context, members []*member) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	errs := each(members, func(m *member) error {
		m.freezing = true
		err := callErr(ctx, m, "freeze", func(ctx context.Context) error { return m.w.Freeze(ctx, r.request()) })
		if m.frozen = err == nil; !m.frozen {
			m.blame(err)
			m.nowhere = class(err) == NotPresent && m.application()
			cancel(errSibling)
		}
		return err
	})
	var first error
	for _, err := range errs {
		if err != nil && (first == nil || errors.Is(first, errSibling)) {
			first = err
		}
	}
	return first
}

// take calls a Take and waits for it until the freeze must end.
func (w *window) take(ctx context.Context, r *run, take func(context.Context) error) {
	ctx, w.stop = context.WithDeadline(ctx, w.freezeBy)
	w.taking, _ = ask(ctx, r.Log, func(ctx context.Context) (struct{}, error) { return struct{}{}, take(ctx) })
	select {
	case a := <-w.taking:
		w.answered(r, a)
		return
	case <-ctx.Done():
	}
	select {
	case a := <-w.taking: // both were there: the answer counts
		w.answered(r, a)
	default:
		w.late = true
	}
}

func (w *window) answered(r *run, a answer[struct{}]) {
	w.result = &a
	if a.err == nil {
		r.step(StepTaken)
	}
}

// await waits for a Take that was late. The guest is thawed by now: whatever was
// taken is not what was frozen.
func (w *window) await(ctx context.Context, r *run) error {
	defer w.stop()
	if w.result != nil {
		return w.result.err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.Limits.Follow)
	defer cancel()
	select {
	case a := <-w.taking:
		w.answered(r, a)
		return a.err
	case <-ctx.Done():
		return fmt.Errorf("no answer within %v after the freeze window", r.Limits.Follow)
	}
}

// thaw lets everything go on again that was asked to freeze, in reverse order,
// each tier within its share of the time that is left.
func (r *run) thaw(ctx context.Context, w *window, members []*member) {
	ctx = context.WithoutCancel(ctx)
	if suspect(members) {
		r.follow(ctx)
	}
	for tier := System; tier >= FrontEnd; tier-- {
		batch := inTier(members, tier)
		share := max(time.Until(w.end)/time.Duration(tier+1), w.budget/tierShare)
		tierCtx, cancel := context.WithTimeout(ctx, share)
		each(batch, func(m *member) error { return r.release(tierCtx, m) })
		cancel()
		if suspect(batch) {
			r.follow(ctx)
		}
	}
	w.closed = time.Now()
}

// release thaws one writer, or aborts it where its freeze had failed.
func (r *run) release(ctx context.Context, m *member) error {
	if !m.freezing {
		return nil
	}
	if !m.frozen {
		m.failed = true
		alone := m.idle()
		err := callErr(ctx, m, "abort", func(ctx context.Context) error { return m.w.Abort(ctx, r.request()) })
		m.thawed = m.letGo(err) && alone
		return err
	}
	res, err := call(ctx, m, "thaw", func(ctx context.Context) (ThawResult, error) { return m.w.Thaw(ctx, r.request()) })
	m.thawed = err == nil
	m.held = err == nil && res.Held
	if err == nil && !res.Held {
		err = m.failure(ctx, "thaw", errors.New("the freeze had not held until then"))
	}
	m.failed = err != nil
	m.thawErr = err
	return err
}

// suspect says whether file systems may be frozen still.
func suspect(members []*member) bool {
	for _, m := range members {
		if m.freezing && !m.thawed && !m.application() && (m.failed || !m.frozen) {
			return true
		}
	}
	return false
}

func inTier(members []*member, tier Tier) []*member {
	var in []*member
	for _, m := range members {
		if m.id.Tier == tier {
			in = append(in, m)
		}
	}
	return in
}
