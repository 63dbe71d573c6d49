package quiescetest

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/lull-backup/lull/quiesce"
)

// Act is how a scripted call goes. The zero value does what the contract says.
type Act struct {
	// Delay passes before the call has its effect and answers.
	Delay time.Duration
	// Deaf ignores the end of the context during the delay.
	Deaf bool
	// Err is the answer, after the effect has taken place.
	Err error
	// Panic ends the call with a panic, after the effect has taken place.
	Panic bool
	// Lie answers well without the effect.
	Lie bool
	// Die ends the writer: this call and all later ones answer ErrWriterGone.
	// What was frozen stays frozen.
	Die bool
	// Times is how often the call goes like this, and well from then on; 0: always.
	Times int
	// Tells is the progress that the call tells before the delay, and once more after it: too
	// late, where the call was given up.
	Tells []quiesce.Progress
}

func (a Act) tell(ctx context.Context) {
	for _, p := range a.Tells {
		quiesce.Teller(ctx)(p)
	}
}

// Writer is a scripted writer. Set the fields before the first call.
type Writer struct {
	ID       quiesce.Identity
	Acts     map[Call]Act
	Document []byte
	// Components are what Prepare returns.
	Components []quiesce.Component
	Tape       *Tape // may be nil
	// Guest, where set, is what Freeze and Thaw work on; else a flag is.
	Guest *Guest

	mu     sync.Mutex
	frozen bool
	dead   bool
	played map[Call]int

	prepared  quiesce.PrepareRequest
	completed quiesce.CompleteRequest

	calls map[chan struct{}]bool // under way; closed at their end
}

// App is a well-behaved application writer of the back-end tier.
func App(name string) *Writer {
	return &Writer{ID: quiesce.Identity{Name: name, Version: "1", Tier: quiesce.BackEnd, Level: quiesce.LevelApplication}}
}

// Filesystem is a well-behaved writer of a guest's file systems.
func Filesystem(g *Guest) *Writer {
	return &Writer{Guest: g, ID: quiesce.Identity{Name: "filesystem", Version: "1", Tier: quiesce.System, Level: quiesce.LevelFilesystem}}
}

// On sets what a call does, and returns w.
func (w *Writer) On(c Call, a Act) *Writer {
	if w.Acts == nil {
		w.Acts = map[Call]Act{}
	}
	w.Acts[c] = a
	return w
}

// Frozen says whether the application holds still, whatever the writer says.
func (w *Writer) Frozen() bool {
	if w.Guest != nil {
		return w.Guest.IsFrozen()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.frozen
}

// Wait returns once no call is under way.
func (w *Writer) Wait() {
	for {
		w.mu.Lock()
		var call chan struct{}
		for call = range w.calls {
			break
		}
		w.mu.Unlock()
		if call == nil {
			return
		}
		<-call
	}
}

// enter notes a call; the result notes its end.
func (w *Writer) enter() (leave func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.calls == nil {
		w.calls = map[chan struct{}]bool{}
	}
	call := make(chan struct{})
	w.calls[call] = true
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.calls, call)
		close(call)
	}
}

// do plays one call.
func (w *Writer) do(ctx context.Context, c Call, effect func()) error {
	return w.play(ctx, c, w.next(c), effect)
}

// next is how a call goes this time.
func (w *Writer) next(c Call) Act {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.played == nil {
		w.played = map[Call]int{}
	}
	w.played[c]++
	if a := w.Acts[c]; a.Times == 0 || w.played[c] <= a.Times {
		return a
	}
	return Act{}
}

func (w *Writer) play(ctx context.Context, c Call, a Act, effect func()) error {
	defer w.enter()()
	w.Tape.Record(w.ID.Name, c)
	if a.Die {
		w.mu.Lock()
		w.dead = true
		w.mu.Unlock()
	}
	if w.isDead() {
		return fmt.Errorf("%s: %w", c, quiesce.ErrWriterGone)
	}
	a.tell(ctx)
	err := a.wait(ctx)
	a.tell(ctx)
	if err != nil {
		return err
	}
	if effect != nil && !a.Lie && !w.isDead() {
		effect()
	}
	if a.Panic {
		panic("scripted panic in " + string(c))
	}
	return a.Err
}

func (w *Writer) isDead() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.dead
}

func (a Act) wait(ctx context.Context) error {
	if a.Delay == 0 {
		return nil
	}
	timer := time.NewTimer(a.Delay)
	defer timer.Stop()
	if a.Deaf {
		<-timer.C
		return nil
	}
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// set changes the state and returns the one before.
func (w *Writer) set(frozen bool) bool {
	if w.Guest != nil {
		return w.Guest.set(frozen)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	was := w.frozen
	w.frozen = frozen
	return was
}

// Identify plays the script.
func (w *Writer) Identify(ctx context.Context) (quiesce.Identity, error) {
	return w.ID, w.do(ctx, Identify, nil)
}

// Prepare plays the script.
func (w *Writer) Prepare(ctx context.Context, r quiesce.PrepareRequest) ([]quiesce.Component, error) {
	return w.Components, w.do(ctx, Prepare, func() { w.hear(func() { w.prepared = r }) })
}

// Prepared is what the last Prepare that went well was told.
func (w *Writer) Prepared() quiesce.PrepareRequest {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.prepared
}

// Completed is what the last Complete that went well was told.
func (w *Writer) Completed() quiesce.CompleteRequest {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.completed
}

func (w *Writer) hear(note func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	note()
}

// Freeze plays the script.
func (w *Writer) Freeze(ctx context.Context, _ quiesce.Request) error {
	return w.do(ctx, Freeze, func() { w.set(true) })
}

// Thaw plays the script.
func (w *Writer) Thaw(ctx context.Context, _ quiesce.Request) (quiesce.ThawResult, error) {
	a := w.next(Thaw)
	held := a.Lie
	err := w.play(ctx, Thaw, a, func() { held = w.set(false) })
	return quiesce.ThawResult{Held: held}, err
}

// PostSnapshot plays the script.
func (w *Writer) PostSnapshot(ctx context.Context, _ quiesce.Request) ([]byte, error) {
	return w.Document, w.do(ctx, PostSnapshot, nil)
}

// Complete plays the script.
func (w *Writer) Complete(ctx context.Context, r quiesce.CompleteRequest) error {
	return w.do(ctx, Complete, func() { w.hear(func() { w.completed = r }) })
}

// Abort plays the script.
func (w *Writer) Abort(ctx context.Context, _ quiesce.Request) error {
	return w.do(ctx, Abort, func() { w.set(false) })
}

// PreRestore plays the script.
func (w *Writer) PreRestore(ctx context.Context, _ quiesce.RestoreRequest) error {
	return w.do(ctx, PreRestore, nil)
}

// PostRestore plays the script.
func (w *Writer) PostRestore(ctx context.Context, _ quiesce.RestoreRequest) error {
	return w.do(ctx, PostRestore, nil)
}
