package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lull-backup/lull/agent"
	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/guesttest"
	"github.com/lull-backup/lull/snapshot/qmp"
)

// The dead-man needs no configuration: that may be broken, or another, by then.
func TestDeadManWithoutConfiguration(t *testing.T) {
	for _, c := range []struct {
		said string
		code int
		out  string
	}{
		{`{"name":"web","qmp":"/run/web.qmp","guest_agent":"/run/web.qga"}` + "\nl", exitDone, "r"},
		{`{"name":"web"}` + "\nl", exitFailed, ""},
		{"\nl", exitFailed, ""},
	} {
		var out, diag bytes.Buffer
		app := &App{Stdin: strings.NewReader(c.said), Stdout: &out, Stderr: &diag, Env: func(string) string { return "" }}
		code := app.Run(t.Context(), []string{"--config", "/nonexistent", "--quiet", deadManName, "lab/web"})
		if code != c.code || out.String() != c.out {
			t.Errorf("%q: exit code %d, said %q: %s", c.said, code, out.String(), diag.String())
		}
	}
}

// comingBack is a host whose guest is not reached at first.
type comingBack struct {
	snapshot.Host
	guest snapshot.Guest
	fails int
}

func (h *comingBack) Guest(context.Context, string) (snapshot.Guest, error) {
	if h.fails--; h.fails >= 0 {
		return nil, snapshot.ErrUnreachable
	}
	return h.guest, nil
}

// thawing is a guest that loses its connection once.
type thawing struct {
	snapshot.Guest
	frozen bool
	asked  int
}

func (g *thawing) FilesystemsFrozen(context.Context) (bool, error) {
	if g.asked++; g.asked == 1 {
		return false, snapshot.ErrUnreachable
	}
	return g.frozen, nil
}

func (g *thawing) Close() error { return nil }
func (g *thawing) ThawFilesystems(context.Context) (int, error) {
	g.frozen = false
	return 1, nil
}

// Libvirt's daemon may go down together with lull, and be back a minute later.
func TestDeadManInsists(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &thawing{frozen: true}
		in := &invocation{App: &App{Stderr: io.Discard}}
		if err := in.thawGuest(t.Context(), &comingBack{guest: g, fails: 20}, recipe{Name: "web", Libvirt: "qemu:///system"}); err != nil || g.frozen {
			t.Errorf("frozen: %v, %v", g.frozen, err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := in.thawGuest(ctx, &comingBack{fails: 1000}, recipe{Name: "web"}); !errors.Is(err, snapshot.ErrUnreachable) {
			t.Errorf("for good: %v", err)
		}
	})
}

// TestGuestOutlivesLull: a guest that is frozen when lull dies or hangs goes on by
// itself: nobody starts lull again before it writes.
func TestGuestOutlivesLull(t *testing.T) {
	t.Parallel()
	l := newLab(t, guesttest.Options{})
	for _, step := range []agent.Step{agent.StepFreezing, agent.StepFrozen, agent.StepTaken} {
		t.Run("killed at "+string(step), func(t *testing.T) {
			l.t = t
			l.killedAt(step)
			l.goesOn()
			l.lull(exitDone, "backup", "lab/web")
			l.tidy()
		})
	}
	t.Run("recovery is killed", func(t *testing.T) {
		l.t = t
		l.killedAt(agent.StepTaken)
		l.goesOn()
		l.freeze() // as if that run's dead-man had died, too
		l.killedIn("recover", agent.StepRecovering)
		l.goesOn()
		l.lull(exitDone, "recover", "lab/web")
		l.tidy()
	})
	t.Run("agent's socket is elsewhere", func(t *testing.T) {
		l.t = t
		l.killedAt(agent.StepTaken)
		l.goesOn()
		l.configure(fmt.Sprintf("{name: web, qmp: %s, guest_agent: /nonexistent/qga}", l.guest.QMP), bestLevel)
		l.complains(exitFailed, []string{"recover lab/web", "its guest may be frozen", "/nonexistent/qga", "guest-agent socket"}, "backup", "lab/web")
		l.configure(l.web(), bestLevel)
		l.lull(exitDone, "backup", "lab/web")
		l.tidy()
	})
	t.Run("hangs", func(t *testing.T) {
		l.t = t
		l.configure(l.web(), "schedule: manual, consistency: {ladder: [filesystem, crash], floor: crash, window: 1s}")
		l.hangs(agent.StepTaken)
		l.tidy()
	})
}

// freeze freezes the guest, with nobody to thaw it.
func (l *lab) freeze() {
	l.t.Helper()
	a := qmp.NewAgent(l.guest.Agent, qmp.AgentOptions{})
	defer a.Close()
	if err := a.Execute(l.ctx, "guest-fsfreeze-freeze", nil, nil); err != nil {
		l.t.Fatal(err)
	}
}

// hangs stops lull at a step of a backup until the guest writes again, by the timer
// inside it. Woken up, lull merges and says that the freeze did not hold.
func (l *lab) hangs(step agent.Step) {
	l.t.Helper()
	cmd := exec.CommandContext(l.ctx, os.Args[0], "--config", l.config, "backup", "lab/web")
	cmd.Env = append(os.Environ(), crashAt+"="+string(step), crashProgram+"="+l.program, crashStop+"=yes")
	var said strings.Builder
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		l.t.Fatal(err)
	}
	ended := make(chan error, 1)
	l.awaitStopped(cmd.Process.Pid)
	l.goesOn()
	if err := cmd.Process.Signal(syscall.SIGCONT); err != nil {
		l.t.Error(err)
	}
	go func() { ended <- cmd.Wait() }()
	err := <-ended
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != exitWarnings {
		l.t.Errorf("lull ended with %v, want exit code %d\n%s", err, exitWarnings, said.String())
	}
	if !strings.Contains(said.String(), "crash was reached") {
		l.t.Errorf("it does not say that the freeze did not hold:\n%s", said.String())
	}
}

// awaitStopped waits until a process has stopped itself.
func (l *lab) awaitStopped(pid int) {
	l.t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
		if err != nil {
			l.t.Fatal(err)
		}
		if _, rest, ok := strings.Cut(string(stat), ") "); ok && rest[0] == 'T' {
			return
		}
		select {
		case <-tick.C:
		case <-l.ctx.Done():
			l.t.Fatal("lull did not stop")
		}
	}
}
