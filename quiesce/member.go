package quiesce

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"runtime/debug"
	"strings"
	"time"
	"unicode"
)

// member is one writer in this run. Its fields are touched by one goroutine at a
// time: Do's, or the one that Do started for it and waits for.
type member struct {
	w       Writer
	id      Identity
	log     *slog.Logger
	relay   *relay            // of what it tells
	pending []<-chan struct{} // calls that were given up; closed when they end

	attempt
}

// attempt is what happened to a writer since its last Prepare.
type attempt struct {
	asked    bool // to take part in a rung
	started  bool // Prepare was called: Complete or Abort is owed
	freezing bool // Freeze was called: Thaw or Abort is owed
	frozen   bool // Freeze returned nil
	thawed   bool // Thaw, or Abort after it, returned nil
	absent   bool // its application is not in this guest
	nowhere  bool // so said Freeze, which is late
	failed   bool // a call failed: Abort is owed at once
	held     bool // still true of the snapshot
	thawErr  error
	document []byte

	components []Component
	why        string // it has no part in the point; empty: there is nothing against it
}

// answer is what a call returned.
type answer[T any] struct {
	value T
	err   error
}

// call asks the writer on a goroutine of its own, and gives up when ctx ends.
// After the end of ctx the writer is not called at all.
func call[T any](ctx context.Context, m *member, what string, fn func(context.Context) (T, error)) (T, error) {
	heard, over := m.relay.listen(ctx, m.id.Name)
	answers, ended := ask(heard, m.log, fn)
	select {
	case a := <-answers:
		return a.value, m.ended(ctx, what, a.err, over())
	case <-ctx.Done():
	}
	select {
	case a := <-answers: // both were there: the answer counts
		return a.value, m.ended(ctx, what, a.err, over())
	default:
	}
	m.pending = append(m.pending, ended)
	var none T
	return none, m.ended(ctx, what, context.Cause(ctx), over())
}

// ended is failure, and says of a call that ran out of time how far it had come.
func (m *member) ended(ctx context.Context, what string, err error, last Progress) error {
	err = m.failure(ctx, what, err)
	if f := (*Failure)(nil); errors.As(err, &f) && f.Class == Timeout && last.What != "" {
		f.Err = fmt.Errorf("%w (it had come to %q)", f.Err, last.String())
	}
	return err
}

// callErr is call for a method without a result.
func callErr(ctx context.Context, m *member, what string, fn func(context.Context) error) error {
	_, err := call(ctx, m, what, func(ctx context.Context) (struct{}, error) { return struct{}{}, fn(ctx) })
	return err
}

// ask runs fn unless ctx has ended; ended is closed when it is over. A panic and a runtime.Goexit
// become errors.
func ask[T any](ctx context.Context, log *slog.Logger, fn func(context.Context) (T, error)) (<-chan answer[T], <-chan struct{}) {
	answers, ended := make(chan answer[T], 1), make(chan struct{})
	go func() {
		defer close(ended)
		a := answer[T]{err: errors.New("ended without an answer")}
		defer func() {
			if p := recover(); p != nil {
				log.Error("writer panicked", "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
				a = answer[T]{err: fmt.Errorf("panicked: %v", p)}
			}
			answers <- a
		}()
		if ctx.Err() != nil {
			a.err = context.Cause(ctx)
			return
		}
		v, err := fn(ctx)
		a = answer[T]{v, err}
	}()
	return answers, ended
}

// askWithin is ask for whoever is waited for no longer than limit, whatever it does.
func askWithin[T any](ctx context.Context, log *slog.Logger, limit time.Duration, fn func(context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	answers, _ := ask(ctx, log, fn)
	select {
	case a := <-answers:
		return a.value, a.err
	case <-ctx.Done():
		var none T
		return none, context.Cause(ctx)
	}
}

// failure types an error and puts the writer's own name on it, whatever name
// the writer gave itself in there.
func (m *member) failure(ctx context.Context, what string, err error) error {
	if err == nil {
		return nil
	}
	out := &Failure{Writer: m.id.Name}
	if errors.Is(err, context.Canceled) && ctx.Err() != nil {
		err = context.Cause(ctx) // why it was cancelled, not only that it was
	}
	switch f := (*Failure)(nil); {
	case errors.As(err, &f):
		out.Class, out.Component, out.Next, out.Advisory = f.Class, f.Component, f.Next, f.Advisory
		if err == error(f) {
			err = f.Err
		}
		if err == nil {
			err = errors.New("no cause given")
		}
	case errors.Is(err, context.DeadlineExceeded):
		out.Class = Timeout
		err = late{err}
	}
	if out.Class == Timeout && out.Next == "" && what == "freeze" {
		out.Next = "find out what takes so long in the guest, or lengthen the window"
	}
	out.Err = fmt.Errorf("%s: %w", what, err)
	return out
}

// late is a deadline that passed, in plain words.
type late struct{ error }

func (l late) Error() string {
	if l.error == context.DeadlineExceeded {
		return "no answer in time"
	}
	return "no answer in time: " + l.error.Error()
}

func (l late) Unwrap() error { return l.error }

// idle says whether every call that was given up has ended meanwhile.
func (m *member) idle() bool {
	for len(m.pending) > 0 {
		select {
		case <-m.pending[0]:
			m.pending = m.pending[1:]
		default:
			return false
		}
	}
	return true
}

// awaitPending waits for one given-up call to end, or for d.
func (m *member) awaitPending(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	var ended <-chan struct{} // nil: none
	if len(m.pending) > 0 {
		ended = m.pending[0]
	}
	select {
	case <-ended:
	case <-timer.C:
	case <-ctx.Done():
	}
}

func (m *member) application() bool { return m.id.Level == LevelApplication }

// letGo says of what came of Abort that the application does not hold still: it was not there
// for Prepare or Freeze, and is not there now.
func (m *member) letGo(err error) bool {
	return err == nil || (m.absent || m.nowhere) && class(err) == NotPresent
}

// class of a failure; NotRetryable for what is none.
func class(err error) Class {
	if f := (*Failure)(nil); errors.As(err, &f) {
		return f.Class
	}
	return NotRetryable
}

// Check says what is wrong with an identity.
func (id Identity) Check() error {
	switch {
	case !validName(id.Name):
		return fmt.Errorf("writer name %q: use 1 to 64 of a-z, 0-9 and -", clip(id.Name))
	case id.Tier < FrontEnd || id.Tier > System:
		return fmt.Errorf("tier %d is unknown", id.Tier)
	case id.Level != LevelFilesystem && id.Level != LevelApplication:
		return fmt.Errorf("level %v is none that a writer can achieve", id.Level)
	case id.Budget < 0:
		return fmt.Errorf("freeze budget %v is negative", id.Budget)
	}
	return CheckComponents(named(id.Components), nil)
}

func validName(s string) bool {
	ok, err := regexp.MatchString(`^[a-z0-9-]{1,64}$`, s)
	return err == nil && ok
}

// maxReason bounds what a writer can put into a report, in bytes.
const maxReason = 500

// clip makes one line of bounded length from text that a guest or a plugin may
// have written.
func clip(s string) string { return clipTo(s, maxReason) }

func clipTo(s string, limit int) string {
	if len(s) > limit {
		s = s[:limit] + "…"
	}
	unsafe := func(r rune) bool { return !unicode.IsPrint(r) } // controls, and marks that turn text around
	return strings.Join(strings.FieldsFunc(strings.ToValidUTF8(s, "?"), unsafe), " ")
}
