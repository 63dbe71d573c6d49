package agent

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
)

// turns are the right to work on a VM among the goroutines of this process: a run
// waits for a repair of its VM, or for the run of another group, where the
// journal's lock would fail at once.
type turns struct {
	mu sync.Mutex
	of map[string]chan struct{} // by VM; holds the one who has the turn
}

func (t *turns) turn(vm string) chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.of == nil {
		t.of = map[string]chan struct{}{}
	}
	if t.of[vm] == nil {
		t.of[vm] = make(chan struct{}, 1)
	}
	return t.of[vm]
}

// wait waits for the turn; done gives it on.
func (t *turns) wait(ctx context.Context, vm string) (done func(), err error) {
	turn := t.turn(vm)
	select {
	case turn <- struct{}{}:
		return func() { <-turn }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// try takes the turn if nobody has it.
func (t *turns) try(vm string) (done func(), ok bool) {
	turn := t.turn(vm)
	select {
	case turn <- struct{}{}:
		return func() { <-turn }, true
	default:
		return nil, false
	}
}

// contain makes an error of a panic: what happens to one VM must not end the
// process, which holds other guests still and keeps their deltas.
func contain(log *slog.Logger, vm string, fn func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			log.Error("panic", "vm", vm, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			err = fmt.Errorf("%s: panic: %v", vm, p)
		}
	}()
	return fn()
}
