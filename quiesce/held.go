package quiesce

import (
	"context"
	"errors"
	"sync"
	"time"
)

// Held is a snapshot that was taken while the guest held still. The guest goes
// on already; what is open is the writers' Complete or Abort. The caller calls
// one of them.
type Held struct {
	job     Job
	members []*member
	report  Report

	mu    sync.Mutex
	ended bool
}

// Report says which level was reached, and why not a higher one.
func (h *Held) Report() Report { return h.report }

// Complete tells the writers that the restore point of that name is durable. An error
// names the writers that failed; the restore point is as good without them. After
// Complete or Abort it does nothing.
func (h *Held) Complete(ctx context.Context, point string) error {
	return h.end(ctx, "complete", h.job.Limits.Complete, func(ctx context.Context, m *member) error {
		return m.w.Complete(ctx, CompleteRequest{
			Request: h.job.request(), Point: point, Level: h.report.Level, Outcomes: m.outcomes(m.id.Level, ""),
		})
	})
}

// Abort tells the writers that there will be no restore point. It runs to its
// end even where ctx is cancelled already. After Complete or Abort it does
// nothing.
func (h *Held) Abort(ctx context.Context) error {
	return h.end(context.WithoutCancel(ctx), "abort", h.job.Limits.Abort, func(ctx context.Context, m *member) error {
		return m.w.Abort(ctx, h.job.request())
	})
}

func (h *Held) end(ctx context.Context, what string, limit time.Duration, fn func(context.Context, *member) error) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ended {
		return nil
	}
	h.ended = true
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	relay := newRelay(h.job.Progress)
	defer relay.close()
	for _, m := range h.members {
		m.relay = relay
	}
	return errors.Join(each(h.members, func(m *member) error {
		return callErr(ctx, m, what, func(ctx context.Context) error { return fn(ctx, m) })
	})...)
}

// each runs fn for every member at once and returns the errors in their order.
func each(members []*member, fn func(*member) error) []error {
	errs := make([]error, len(members))
	var wg sync.WaitGroup
	for i, m := range members {
		wg.Go(func() { errs[i] = fn(m) })
	}
	wg.Wait()
	return errs
}
