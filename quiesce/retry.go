package quiesce

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// Bounds of a Retry.
const (
	MaxAttempts = 100
	MaxRetry    = 24 * time.Hour
)

// Retry is how a level is tried again whose failure is Retryable: Attempts in all, Delay
// after the end of one the next, none that begins later than Until after the first.
type Retry struct {
	Attempts int // 0 is 1
	Delay    time.Duration
	Until    time.Duration
}

// DefaultRetry bears what passes in a moment.
func DefaultRetry() Retry { return Retry{Attempts: 3, Delay: 10 * time.Second, Until: 5 * time.Minute} }

func (r Retry) check() error {
	if r.Attempts < 0 || r.Attempts > MaxAttempts {
		return fmt.Errorf("%d attempts: must be from 1 to %d", r.Attempts, MaxAttempts)
	}
	if r.Delay < 0 || r.Until < 0 || r.Delay > MaxRetry || r.Until > MaxRetry {
		return fmt.Errorf("retry after %v until %v: must be at most %v", r.Delay, r.Until, MaxRetry)
	}
	return nil
}

// attempts tries one level as often and as late as the policy says. Between two attempts
// the guest runs, and nothing is owed to the writers.
func (r *run) attempts(ctx context.Context, level Level) ([]*member, error) {
	first, known := time.Now(), len(r.report.Reasons)
	for attempt := 1; ; attempt++ {
		r.passing = false
		members, err := r.rung(ctx, level)
		if err != nil || r.taken {
			return members, err
		}
		again := time.Now().Add(r.Policy.Retry.Delay)
		if !r.passing || attempt >= r.Policy.Retry.Attempts || again.Sub(first) > r.Policy.Retry.Until {
			r.number(known, attempt)
			return nil, nil
		}
		r.report.Attempts = append(r.report.Attempts, r.report.Reasons[known:]...)
		r.report.Reasons = slices.Clip(r.report.Reasons[:known])
		r.step(StepRetrying)
		if err := r.rest(ctx); err != nil {
			return nil, err
		}
		r.identify(ctx, r.unknown)
	}
}

// rest lets the time between two attempts pass.
func (r *run) rest(ctx context.Context) error {
	wait := func(ctx context.Context) error { return sleep(ctx, r.Policy.Retry.Delay) }
	if r.Rest == nil {
		return wait(ctx)
	}
	return r.Rest(ctx, wait)
}

// number says in the reasons from known on that they are those of the last of several
// attempts.
func (r *run) number(known, attempts int) {
	if attempts == 1 {
		return
	}
	for i := range r.report.Reasons[known:] {
		r.report.Reasons[known+i] += fmt.Sprintf(" (attempt %d)", attempts)
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
