package qemu

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lull-backup/lull/snapshot"
)

// standsBy puts somebody in force, and tells what those were told in the end: whether the
// guest runs.
func (c *counter) standsBy() (told *[]bool) {
	told = new([]bool)
	c.host.opt.Guard = func(context.Context, string) (func(context.Context, bool) error, error) {
		return func(_ context.Context, runs bool) error { *told = append(*told, runs); return nil }, nil
	}
	return told
}

// pending proves that the operation is not forgotten.
func (c *counter) pending(when string) {
	c.t.Helper()
	if c.Tree().Pending == "" {
		c.t.Errorf("%s: nothing is pending", when)
	}
}

// A create that is taken back does not keep the guest waiting for images that it has not
// moved to, and that QEMU does not close.
func TestCheckpointNotClosed(t *testing.T) {
	t.Parallel()
	c := newCounter(t)
	told := c.standsBy()
	ctx, cancel := context.WithCancel(c.ctx)
	defer cancel()
	c.host.opt.Observe = func(_, step string) {
		switch step {
		case "create-opened":
			c.ask("blockdev-add", args{"driver": "raw", "node-name": "user", "read-only": true, "file": checkpointNode(c.under(""), 0)}, nil)
		case "create-stopped":
			cancel()
		}
	}
	if err := c.TryCreate(ctx, snapshot.NewCheckpoint{}); !errors.Is(err, snapshot.ErrBusy) {
		t.Errorf("create: %v", err)
	}
	c.host.opt.Observe = nil
	c.sound("with an image that is not closed")
	if !slices.Equal(*told, []bool{true}) {
		t.Errorf("whoever stands by was told %v", *told)
	}
	c.pending("with an image that is not closed")
	c.ask("blockdev-del", args{"node-name": "user"}, nil)
	c.ask("stop", nil, nil)
	c.Recovers("create-stopped")
	if s := c.state(); s != "paused" {
		t.Errorf("stopped by its user, the VM is %s", s)
	}
	c.ask("cont", nil, nil)
	c.sound("recovered")
	c.Tidy("recovered")
	if n := len(c.Tree().List); n > 0 {
		t.Errorf("%d checkpoints", n)
	}
}

// away makes the VM's monitor unreachable, until it is put back.
func (c *counter) away() (back func()) {
	c.t.Helper()
	move := func(from, to string) {
		if err := os.Rename(c.dir+from, c.dir+to); err != nil {
			c.t.Fatal(err)
		}
	}
	move("/qmp", "/away")
	l := c.host.lines["web"]
	l.mu.Lock()
	m := l.m
	l.mu.Unlock()
	if m != nil {
		m.Close()
	}
	return func() { move("/away", "/qmp") }
}

// A monitor that is out of reach for a moment is not that of a VM that is off: nothing is
// forgotten that the VM waits for.
func TestCheckpointUnreachable(t *testing.T) {
	t.Parallel()
	c := newCounter(t)
	again := func(when string, back func()) {
		t.Helper()
		if _, err := c.host.RecoverCheckpoints(c.ctx, "web"); !errors.Is(err, snapshot.ErrUnreachable) {
			t.Errorf("%s: recovery without the monitor: %v", when, err)
		}
		c.pending(when)
		back()
		if err := c.host.ReleaseCheckpoint(c.ctx, "web"); err != nil {
			t.Fatalf("%s: release: %v", when, err)
		}
		if s := c.state(); s != "running" {
			t.Fatalf("%s: let go the VM is %s", when, s)
		}
		c.Recovers(when)
		c.sound(when)
		c.Tidy(when)
	}
	c.DiesIn("create-stopped", func(ctx context.Context) error { return c.TryCreate(ctx, snapshot.NewCheckpoint{}) })
	again("after death in create", c.away())
	a := c.Create(snapshot.NewCheckpoint{})
	b := c.Create(snapshot.NewCheckpoint{})
	c.DiesIn("apply-resuming", func(ctx context.Context) error { return c.TryApply(ctx, a, true) })
	again("after death in apply", c.away())

	back := c.away()
	if err := c.host.DeleteCheckpoints(c.ctx, "web", b, false); !errors.Is(err, snapshot.ErrUnreachable) {
		t.Errorf("names that QEMU uses: %v", err)
	}
	c.named("without the monitor")
	back()
	if found, err := c.host.RecoverCheckpoints(c.ctx, "web"); err != nil || !found {
		t.Errorf("recovery: %v, %v", found, err)
	}
	c.Forget()
	c.sound("without the second")
	c.Tidy("without the second")

	b = c.Create(snapshot.NewCheckpoint{})
	c.DiesIn("fold-paused", func(ctx context.Context) error { return c.host.DeleteCheckpoints(ctx, "web", b, false) })
	again("after death in delete", c.away())
	told := c.standsBy()
	c.host.opt.Observe = func(_, step string) {
		if step == "fold-paused" {
			back = c.away()
		}
	}
	if err := c.host.DeleteCheckpoints(c.ctx, "web", a, false); err == nil {
		t.Error("delete without the monitor: no error")
	}
	c.host.opt.Observe = nil
	if len(*told) != 1 || (*told)[0] {
		t.Errorf("whoever stands by was told %v", *told)
	}
	again("given up", back)
	c.fromItsPaths()
}

// lines counts what is logged.
type lines struct{ atomic.Int64 }

func (l *lines) Write(b []byte) (int, error) { l.Add(1); return len(b), nil }

// A guest whose memory takes longer to load than anybody would wait goes on as soon as it is
// loaded: with lull, or, where that has died, with whoever stands by, who also gives up
// when there is nothing left that could go on.
func TestCheckpointLoadsForLong(t *testing.T) {
	t.Parallel()
	c := newCounter(t)
	id := c.Create(snapshot.NewCheckpoint{Memory: true})
	apply := func(ctx context.Context) error { return c.TryApply(ctx, id, false) }
	over, cancel := context.WithCancel(c.ctx)
	cancel()
	c.DiesIn("apply-loading", apply)
	if err := c.host.onTree(c.ctx, "web", func(at *checkpointing) error {
		return at.line.use(c.ctx, func(m *monitor) error { return at.exchange(over, m, *at.tree.Find(id)) })
	}); err != nil {
		t.Errorf("memory is loaded when time is over: %v", err)
	}
	c.sound("loaded")
	c.Tidy("loaded")

	stuck := func() (released chan error) {
		t.Helper()
		c.DiesIn("apply-loaded", apply)
		var said lines
		c.host.opt.Log = slog.New(slog.NewTextHandler(&said, nil))
		c.host.lines["web"].opt.Handshake = 100 * time.Millisecond // that who stands by has time for several
		c.signal(unix.SIGSTOP)
		released = make(chan error, 1)
		host := c.host
		go func() { released <- host.ReleaseCheckpoint(over, "web") }()
		eventually(t, "tries beyond its time", func() bool { return said.Load() >= 4 })
		if len(released) > 0 {
			t.Fatalf("given up: %v", <-released)
		}
		return released
	}
	released := stuck()
	c.signal(unix.SIGCONT)
	if err := <-released; err != nil {
		t.Errorf("release: %v", err)
	}
	c.sound("let go")
	c.Recovers("apply-loaded")
	c.Tidy("let go")

	released = stuck()
	c.kill()
	if err := <-released; err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("release of a VM that has ended: %v", err)
	}
	c.Recovers("apply-loaded")
	c.start(c.disks)
	c.ask("cont", nil, nil)
	c.sound("started anew")
	c.Tidy("started anew")
}

func (c *counter) signal(s unix.Signal) {
	c.t.Helper()
	if err := c.cmd.Process.Signal(s); err != nil {
		c.t.Fatal(err)
	}
}

// A process that has ended is not there, though its parent has not asked how.
func TestZombieIsNotLiving(t *testing.T) {
	t.Parallel()
	cmd := exec.Command("cat")
	in, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	instance := instanceOf(cmd.Process.Pid)
	if !living(instance) {
		t.Errorf("%q does not live", instance)
	}
	if err := in.Close(); err != nil {
		t.Error(err)
	}
	eventually(t, "its end", func() bool { return !living(instance) })
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}
