package libvirt

import (
	"errors"
	"syscall"
	"testing"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/libvirt/rpc"
)

// loading: lull dies while libvirt loads a memory for it. The next start waits for what comes of
// that: the domain goes on, or the memory does not fit and is loaded once more.
func (l *lifeline) loading(id string) {
	l.t.Helper()
	for _, then := range []syscall.Signal{syscall.SIGCONT, syscall.SIGKILL} {
		l.diesApplying(id, "apply-loading")
		l.Went(id)
		loaded := make(chan error, 1)
		go func() { loaded <- l.orderLoad(id, 0) }()
		pid := halt(l.t, l.dom.ID, l.ctx.Done())
		if pid == 0 {
			l.t.Fatalf("libvirt has not begun to load the memory: %v", <-loaded)
		}
		waits := false
		l.at = func(step string) {
			if step == "apply-arriving" && !waits {
				waits = true
				_ = syscall.Kill(pid, then) // it is halted, and no other process by now
			}
		}
		l.Recovers("apply-loading")
		l.at = nil
		if !waits {
			_ = syscall.Kill(pid, syscall.SIGKILL) // so that this ends
		}
		if err := <-loaded; !waits || (err == nil) != (then == syscall.SIGCONT) {
			l.t.Errorf("waited %v for a memory in a QEMU that gets %v: %v", waits, then, err)
		}
		l.goesOn()
		l.Right()
	}
}

// leftPaused: libvirt's daemon died between the last byte of a memory and letting the domain go on.
func (l *lifeline) leftPaused(id string) {
	l.t.Helper()
	l.diesApplying(id, "apply-loading")
	l.Went(id)
	if err := l.orderLoad(id, rpc.SavePaused); err != nil {
		l.t.Fatal(err)
	}
	l.Recovers("apply-loading, and the domain stands still")
	l.goesOn()
	l.Right()
	if err := l.conn.Suspend(l.ctx, l.dom.ID); err != nil { // as somebody wants it
		l.t.Fatal(err)
	}
	err := l.host.onTree(l.ctx, "web", func(c *checkpointing) error {
		s, err := c.look(l.ctx)
		if err != nil {
			return err
		}
		halted, err := c.halted(l.ctx, s.dom)
		if halted {
			err = errors.Join(err, errors.New("a domain that its user has stopped is let go on"))
		}
		return err
	})
	if err := errors.Join(err, l.conn.Resume(l.ctx, l.dom.ID)); err != nil {
		l.t.Error(err)
	}
}

// orderLoad has libvirt load the memory of the checkpoint that is being applied, as a lull did
// that has died since.
func (l *lifeline) orderLoad(id string, flags uint32) error {
	return l.host.seeTree(l.ctx, "web", func(c *checkpointing) error {
		n := c.tree.Find(id)
		text, err := c.ranAs(l.ctx, *n)
		if err != nil {
			return err
		}
		return c.dom.link.order(l.ctx, func(conn *rpc.Conn) error { return conn.Restore(l.ctx, n.Memory.Path, text, flags) })
	})
}

// goesOn: the domain runs.
func (l *lifeline) goesOn() {
	l.t.Helper()
	if state, why, err := l.conn.State(l.ctx, l.dom.ID); err != nil || state != rpc.StateRunning {
		l.t.Errorf("the domain is in state %d, %d: %v", state, why, err)
	}
}

// restarting: libvirt's daemon dies between the end of a domain and its start from a checkpoint,
// and is there again soon. The domain goes back all the same.
func (l *lifeline) restarting(id string) {
	l.t.Helper()
	for at, cold := range map[string]bool{"apply-ended": false, "apply-loading": false, "apply-defined": true} {
		l.Writes()
		died := make(chan error, 1)
		l.at = func(step string) {
			if step == at {
				l.at = nil
				go func() {
					l.daemon.Kill()
					died <- l.daemon.Restart(l.ctx)
				}()
			}
		}
		err := l.TryApply(l.ctx, id, cold)
		if err := errors.Join(err, <-died); err != nil {
			l.t.Fatalf("the daemon died at %s: %v", at, err)
		}
		l.conn = l.daemon.Dial(l.whole)
		l.Went(id)
		l.goesOn()
		l.Right()
	}
}

// TestTwice: what is lost is done once more, and what is refused is not.
func TestTwice(t *testing.T) {
	t.Parallel()
	for err, want := range map[error]int{nil: 1, errLost: 2, snapshot.ErrBusy: 1} {
		n := 0
		got := twice(func() error {
			n++
			return err
		})
		if got != err || n != want {
			t.Errorf("%v: %v, %d times", err, got, n)
		}
	}
}
