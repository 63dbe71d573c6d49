package quiesce

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
)

// Progress is how far a long call of a writer is, by the writer's own word: something to
// show, and nothing to decide by.
type Progress struct {
	Writer string // its name; whoever listens sets it
	What   string // one line of the writer's
	Done   int64
	Total  int64 // in whatever What says; 0: not known
}

// String is what a person reads of it.
func (p Progress) String() string {
	switch {
	case p.Total > 0:
		return fmt.Sprintf("%s: %d of %d", p.What, p.Done, p.Total)
	case p.Done > 0:
		return fmt.Sprintf("%s: %d", p.What, p.Done)
	}
	return p.What
}

// maxProgress bounds the words of a Progress, in bytes.
const maxProgress = 100

// bounded is p fit to be shown; what makes no sense as progress is none.
func (p Progress) bounded() (Progress, bool) {
	p.What = strings.TrimSpace(clipTo(p.What, maxProgress))
	if p.Total > 0 {
		p.Done = min(p.Done, p.Total)
	}
	return p, p.What != "" && p.Done >= 0 && p.Total >= 0
}

type progressKey struct{}

// Teller is what the progress of the call that ctx belongs to is told to. It may be called
// at any time and from any goroutine, returns at once, and drops what nobody listens to
// any more.
func Teller(ctx context.Context) func(Progress) {
	if tell, ok := ctx.Value(progressKey{}).(func(Progress)); ok {
		return tell
	}
	return func(Progress) {}
}

// Listen has hear called with what a writer tells within a call with the context that it
// returns: from one goroutine, and of several words that come faster than hear returns
// only with the last. stop ends that; it waits for hear.
func Listen(ctx context.Context, writer string, hear func(Progress)) (listening context.Context, stop func()) {
	r := newRelay(hear)
	ctx, over := r.listen(ctx, writer)
	return ctx, func() {
		over()
		r.close()
	}
}

// relay hands on what writers tell. Who hears it may be slow, a terminal that was stopped
// for instance: no writer waits for that, and of each only the newest word is kept.
type relay struct {
	hear  func(Progress) // nil: nobody does
	wake  chan struct{}
	ended chan struct{} // closed when nothing will be heard any more

	mu     sync.Mutex
	closed bool
	newest []Progress // not handed on yet; one of each writer
}

// newRelay makes a relay that runs until it is closed.
func newRelay(hear func(Progress)) *relay {
	r := &relay{hear: hear, wake: make(chan struct{}, 1), ended: make(chan struct{})}
	if hear == nil {
		r.closed = true
		close(r.ended)
		return r
	}
	go func() {
		defer close(r.ended)
		for range r.wake {
			for _, p := range r.take() {
				r.hear(p)
			}
		}
	}()
	return r
}

// listen lets the writer of one call be heard until over is called, which returns its
// last word.
func (r *relay) listen(ctx context.Context, writer string) (_ context.Context, over func() Progress) {
	var last Progress
	ended := false
	tell := func(p Progress) {
		p, ok := p.bounded()
		r.mu.Lock()
		defer r.mu.Unlock()
		if !ok || ended {
			return
		}
		p.Writer = writer
		last = p
		r.put(p)
	}
	return context.WithValue(ctx, progressKey{}, tell), func() Progress {
		r.mu.Lock()
		defer r.mu.Unlock()
		ended = true
		return last
	}
}

// put keeps p for hear; r.mu is held.
func (r *relay) put(p Progress) {
	if r.closed {
		return
	}
	i := slices.IndexFunc(r.newest, func(o Progress) bool { return o.Writer == p.Writer })
	if i >= 0 {
		r.newest[i] = p
	} else {
		r.newest = append(r.newest, p)
	}
	select {
	case r.wake <- struct{}{}:
	default: // it was woken already
	}
}

func (r *relay) take() []Progress {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := r.newest
	r.newest = nil
	return all
}

// close waits until all that was told before was heard. Safe to call again.
func (r *relay) close() {
	r.mu.Lock()
	if !r.closed {
		r.closed = true
		close(r.wake)
	}
	r.mu.Unlock()
	<-r.ended
}
