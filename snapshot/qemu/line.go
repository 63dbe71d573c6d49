package qemu

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/qmp"
)

// line is the one connection that this process may have to a monitor: the
// monitor serves no second one. Users share it; it is closed when the last has
// gone, unless a run holds it so that Take need not dial.
type line struct {
	vm  VM
	opt qmp.Options

	dialing chan struct{} // holds the one who dials
	tree    string        // file of the VM's checkpoints; empty: it has none

	mu    sync.Mutex
	m     *monitor
	users int
	held  bool
}

func newLine(vm VM, opt qmp.Options) *line {
	return &line{vm: vm, opt: opt, dialing: make(chan struct{}, 1)}
}

// use runs fn with a living connection.
func (l *line) use(ctx context.Context, fn func(*monitor) error) error {
	m, err := l.acquire(ctx)
	if err != nil {
		return err
	}
	defer l.release(m)
	return fn(m)
}

// acquire finds or makes a connection. Each goes with one release.
func (l *line) acquire(ctx context.Context) (*monitor, error) {
	select {
	case l.dialing <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-l.dialing }()
	if m := l.alive(); m != nil {
		return m, nil
	}
	m, err := l.vm.dial(ctx, l.opt)
	if err != nil {
		return nil, err
	}
	m.learn(l.tree)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.m, l.users = m, 1
	return m, nil
}

// relearn has the connection there is look at the tree again.
func (l *line) relearn() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.m != nil {
		l.m.learn(l.tree)
	}
}

// alive takes a user's share of the connection there is, unless it is dead.
func (l *line) alive() *monitor {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.m == nil {
		return nil
	}
	select {
	case <-l.m.Done():
		l.m = nil // its users close it
		return nil
	default:
		l.users++
		return l.m
	}
}

func (l *line) release(m *monitor) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.m != m { // it died and was replaced: this user may have been any of several
		_ = m.Close()
		return
	}
	l.users--
	l.closeIdle()
}

// off tells whether an error of use says that the VM does not run, as far as can be known.
func (l *line) off(err error) bool {
	return errors.Is(err, snapshot.ErrUnreachable) && l.vm.Manager == nil || errors.Is(err, ErrOff)
}

// hold keeps the connection open between uses, or stops doing so.
func (l *line) hold(held bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held = held
	l.closeIdle()
}

func (l *line) isHeld() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.held
}

// closeIdle closes a connection that nobody needs; the caller holds l.mu.
func (l *line) closeIdle() {
	if l.m != nil && l.users == 0 && !l.held {
		_ = l.m.Close()
		l.m = nil
	}
}

// monitor is a connection to a VM's monitor, and the process behind it.
type monitor struct {
	qmp.Monitor
	vm      VM
	proc    process
	targets map[string]string            // see Managed
	leftOut map[string]snapshot.Excluded // see Managed
	// renamed are files that the process calls by another name than they have.
	renamed atomic.Pointer[map[string]string]
}

func dialMonitor(ctx context.Context, vm VM, opt qmp.Options) (*monitor, error) {
	c, err := qmp.Dial(ctx, vm.QMP, opt)
	if err != nil {
		return nil, err
	}
	pid, err := c.PeerPID()
	if err != nil {
		_ = c.Close() // the error that matters is err
		return nil, err
	}
	return &monitor{Monitor: c, vm: vm, proc: findProcess(pid)}, nil
}

// during runs fn with the VM of a plan. That it cannot be reached any more, or is
// another process by now, is ErrGone.
func (h *Host) during(ctx context.Context, p snapshot.Plan, fn func(*monitor) error) error {
	l, err := h.line(p.VM)
	if err != nil {
		return err
	}
	err = l.use(ctx, func(m *monitor) error {
		if p.Instance != "" && m.proc.instance != p.Instance {
			return fmt.Errorf("VM %s was started anew: %w", p.VM, snapshot.ErrGone)
		}
		return fn(m)
	})
	if l.off(err) || errors.Is(err, qmp.ErrClosed) {
		return fmt.Errorf("%w: %w", snapshot.ErrGone, err)
	}
	return err
}
