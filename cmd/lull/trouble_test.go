package main

import (
	"io"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/lull-backup/lull/agent"
	"github.com/lull-backup/lull/quiesce"
	"github.com/lull-backup/lull/snapshot/guesttest"
	"github.com/lull-backup/lull/snapshot/guesttest/record"
)

// Rules for the group of a lab. Their window is as long as can be: an emulated guest
// on a busy machine takes its time to thaw, and that is not what the tests are about.
const (
	bestLevel = "schedule: manual, consistency: {ladder: [filesystem, crash], floor: crash, window: 60s}"
	mustHold  = "schedule: manual, consistency: {ladder: [filesystem, crash], floor: filesystem, window: 60s}"
	// A window that a slow machine alone might overrun.
	shortBest = "schedule: manual, consistency: {ladder: [filesystem, crash], floor: crash, window: 2s}"
	shortHold = "schedule: manual, consistency: {ladder: [filesystem, crash], floor: filesystem, window: 2s}"
)

// complains runs a command that ends with a code and prints one line, and that
// line holds all of the words.
func (l *lab) complains(want int, words []string, args ...string) {
	l.t.Helper()
	code, stdout, stderr := l.attempt(l.ctx, append([]string{"--quiet"}, args...)...)
	if code != want {
		l.t.Fatalf("lull %s: exit code %d, want %d\n%s%s", strings.Join(args, " "), code, want, stdout, stderr)
	}
	l.says(stderr, words...)
}

// says looks for the one line of an error.
func (l *lab) says(stderr string, words ...string) {
	l.t.Helper()
	l.t.Logf("%s", strings.TrimSpace(stderr))
	if strings.Count(stderr, "\n") != 1 || !strings.HasPrefix(stderr, "lull: ") {
		l.t.Errorf("not one line:\n%s", stderr)
	}
	for _, w := range words {
		if !strings.Contains(stderr, w) {
			l.t.Errorf("the line does not say %q: %s", w, stderr)
		}
	}
}

// under runs one case of a test on the guest that all of them share.
func (l *lab) under(t *testing.T, name string, test func(l *lab)) {
	t.Helper()
	t.Run(name, func(t *testing.T) {
		l := &lab{t: t, ctx: l.ctx, guest: l.guest, dir: l.dir, config: l.config, program: l.program}
		test(l)
		l.proven()
	})
}

// proven reads every byte of the repository. A second look at what is damaged
// tells a fault in what was stored from one in the reading.
func (l *lab) proven() {
	l.t.Helper()
	code, found, said := l.attempt(l.ctx, "check", "--all")
	if code == exitDone {
		return
	}
	code, again, saidAgain := l.attempt(l.ctx, "check", "--all")
	l.t.Errorf("check: %s%s\na second time, exit code %d: %s%s", found, said, code, again, saidAgain)
}

// warned proves that the last point has only the level crash, and says why.
func (l *lab) warned(words ...string) {
	l.t.Helper()
	r := l.result()
	l.t.Logf("%q", r.Warnings)
	if r.Point.Quiesce.Level != quiesce.LevelCrash {
		l.t.Errorf("level %v", r.Point.Quiesce.Level)
	}
	for _, w := range words {
		if !slices.ContainsFunc(r.Warnings, func(s string) bool { return strings.Contains(s, w) }) {
			l.t.Errorf("no warning says %q: %q", w, r.Warnings)
		}
	}
}

// TestGuestHoldsStill: what holds a guest still, and what the agent in it may do wrong,
// one case after the other on one guest that writes all the time.
func TestGuestHoldsStill(t *testing.T) {
	t.Parallel()
	l := newLab(t, guesttest.Options{})
	l.under(t, "plugin", configuredPlugin)
	l.under(t, "scripts", guestScripts)
	l.under(t, "killed while scripts hold", killedHolding)
	l.under(t, "mount points", mountPoints)
	l.under(t, "hidden hook", hiddenHook)
	l.under(t, "silent agent", silentAgent)
	l.under(t, "no agent", noAgent)
	l.under(t, "late freeze", lateFreeze)
	l.under(t, "failing hook", failingHook)
}

// TestGuestInTrouble: what the VM may do wrong, and who else uses its sockets.
func TestGuestInTrouble(t *testing.T) {
	t.Parallel()
	l := newLab(t, guesttest.Options{})
	l.under(t, "no monitor", noMonitor)
	l.under(t, "dead neighbour", deadNeighbour)
	l.under(t, "reboot", reboot)
	l.under(t, "shutdown", shutdown)
	l.under(t, "QEMU dies", dies)
	l.under(t, "cold start", coldStart)
}

// silentAgent: the agent process hangs.
func silentAgent(l *lab) {
	l.inGuest("kill -STOP $(cat /run/agent.pid)")
	l.configure(l.web(), bestLevel)
	l.lull(exitWarnings, "backup", "lab/web")
	l.warned("guest agent does not answer", "qemu-guest-agent")
	l.tidy()
	l.configure(l.web(), mustHold)
	l.complains(exitFailed, []string{"lab/web", "below the floor", "guest agent does not answer", "qemu-guest-agent"}, "backup", "lab/web")
	l.tidy()
	l.inGuest("kill -CONT $(cat /run/agent.pid)")
	l.lull(exitDone, "backup", "lab/web")
	l.tidy()
}

// noAgent: there is no way to the agent.
func noAgent(l *lab) {
	l.configure("{name: web, qmp: "+l.guest.QMP+", guest_agent: "+filepath.Join(l.guest.Dir, "none")+"}", bestLevel)
	l.lull(exitWarnings, "backup", "lab/web")
	l.warned("no such socket")
	l.configure("{name: web, qmp: "+l.guest.QMP+"}", mustHold)
	l.complains(exitFailed, []string{"lab/web", "below the floor", "guest_agent"}, "backup", "lab/web")
	l.tidy()
}

// hook lets the guest run a script around every freeze.
func (l *lab) hook(script string) {
	l.t.Helper()
	l.inGuest("printf '#!/bin/sh\\n%s\\n' '" + script + "' >/run/freeze-hook; chmod +x /run/freeze-hook")
	l.t.Cleanup(func() { l.inGuest("rm -f /run/freeze-hook") })
}

// lateFreeze: the guest freezes when the host has long given up.
func lateFreeze(l *lab) {
	l.hook(`[ "$1" = freeze ] && sleep 5; echo "$1" >>/run/freeze-log`)
	l.configure(l.web(), shortBest)
	l.lull(exitWarnings, "backup", "lab/web")
	l.warned("no answer in time", "lengthen the window")
	l.tidy()
	l.inGuest("tail -n 1 /run/freeze-log | grep thaw") // and it had been frozen
	l.configure(l.web(), shortHold)
	l.complains(exitFailed, []string{"lab/web", "below the floor", "no answer in time"}, "backup", "lab/web")
	l.tidy()
}

// failingHook: the guest refuses to freeze.
func failingHook(l *lab) {
	l.hook(`[ "$1" != freeze ]`)
	l.configure(l.web(), bestLevel)
	l.lull(exitWarnings, "backup", "lab/web")
	l.warned("hook has failed")
	l.tidy()
	l.configure(l.web(), mustHold)
	l.complains(exitFailed, []string{"lab/web", "below the floor", "hook has failed"}, "backup", "lab/web")
	l.tidy()
}

// noMonitor: the VM's QMP socket is not what it should be.
func noMonitor(l *lab) {
	dead, garbage, mute := l.socket("dead", nil), l.socket("garbage", greet("220 mail.example.net ESMTP\r\n")), l.socket("mute", greet(""))
	held, err := net.Dial("unix", l.guest.QMP)
	if err != nil {
		l.t.Fatal(err)
	}
	defer held.Close()
	for _, c := range []struct {
		qmp   string
		words []string
	}{
		{filepath.Join(l.guest.Dir, "none"), []string{"no such socket", "check that the VM runs"}},
		{dead, []string{"nobody listens", "left behind"}},
		{garbage, []string{"protocol", "check that the path"}},
		{mute, []string{"another client", "close the other client"}},
		{l.guest.QMP, []string{"another client", "close the other client"}},
	} {
		l.configure("{name: web, qmp: "+c.qmp+", guest_agent: "+l.guest.Agent+"}", bestLevel)
		l.complains(exitFailed, append(c.words, "lab/web", c.qmp), "backup", "lab/web")
	}
	held.Close()
	l.tidy()
}

// socket listens with a server, or leaves a socket behind that nobody serves.
func (l *lab) socket(name string, serve func(net.Conn)) string {
	l.t.Helper()
	path := filepath.Join(l.guest.Dir, name)
	s, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		l.t.Fatal(err)
	}
	if serve == nil {
		s.SetUnlinkOnClose(false)
		s.Close()
		return path
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			c, err := s.Accept()
			if err != nil {
				return
			}
			serve(c)
			c.Close()
		}
	}()
	l.t.Cleanup(func() {
		s.Close()
		<-ended
	})
	return path
}

// greet says one thing and then only listens, until the client goes.
func greet(text string) func(net.Conn) {
	return func(c net.Conn) {
		_, _ = io.WriteString(c, text)
		_, _ = io.Copy(io.Discard, c)
	}
}

// deadNeighbour: of two VMs one is gone. The other is backed up all the same.
func deadNeighbour(l *lab) {
	l.configure("{name: dead, qmp: "+filepath.Join(l.guest.Dir, "none")+"}, "+l.web(), bestLevel)
	l.complains(exitFailed, []string{"lab/dead", "no such socket"}, "backup", "lab/*")
	if got := l.result().VM; got != "lab/web" {
		l.t.Errorf("backed up %q", got)
	}
	l.tidy()
}

// whileReading calls do once, while the run reads.
func (l *lab) whileReading(do func()) {
	begun := false
	l.hear = func(e agent.Event) {
		if e.Step == agent.StepReading && !begun {
			begun = true
			do()
		}
	}
}

// reboot: the guest is reset in the middle of a run, which goes on.
func reboot(l *lab) {
	l.configure(l.web(), bestLevel)
	l.whileReading(func() {
		before := l.acked()
		// The answer may get lost when the guest is faster.
		_, _ = l.guest.Exec(l.ctx, "/bin/sh", "-c", "(sync; reboot -f) >/dev/null 2>&1 &")
		if err := l.guest.WaitAcked(l.ctx, before+100); err != nil {
			l.t.Error(err)
		}
	})
	l.lull(exitDone, "backup", "lab/web")
	l.tidy()
}

// shutdown: the guest powers itself off in the middle of a run.
func shutdown(l *lab) {
	l.configure(l.web(), bestLevel)
	l.whileReading(func() {
		if err := l.guest.Shutdown(l.ctx); err != nil {
			l.t.Error(err)
		}
	})
	l.complains(exitFailed, []string{"lab/web", "went away"}, "backup", "lab/web")
	l.restart()
	l.tidy()
	l.lull(exitDone, "backup", "lab/web")
	l.tidy()
}

// dies: QEMU is killed in the middle of a run. The run fails, and the disks hold
// everything that the guest had been told is written.
func dies(l *lab) {
	l.configure(l.web(), bestLevel)
	var written uint64
	l.hear = func(e agent.Event) {
		if e.Step == agent.StepThawed {
			l.goesOn()
			written = l.acked()
			l.guest.Kill()
		}
	}
	l.lull(exitFailed, "backup", "lab/web")
	l.hear = nil
	if found := l.restart(); found.Last() < written {
		l.t.Errorf("after the crash the log ends with %d, and %d was written", found.Last(), written)
	}
	l.tidy()
	l.lull(exitDone, "backup", "lab/web")
	l.tidy()
}

// coldStart: lull died while the guest was frozen, and the VM was started anew, with
// an agent that never answers. Nobody waits for that one to prove a thaw.
func coldStart(l *lab) {
	l.configure(l.web(), bestLevel)
	l.killedAt(agent.StepFrozen)
	l.guest.Kill()
	l.restart()
	l.inGuest("kill -STOP $(cat /run/agent.pid)")
	l.lull(exitWarnings, "backup", "lab/web")
	l.warned("guest agent does not answer")
	l.tidy()
}

// restart boots a guest that has ended, and proves that its disks are whole. It
// returns what the guest found on them.
func (l *lab) restart() record.Report {
	l.t.Helper()
	if err := l.guest.Start(l.ctx); err != nil {
		l.t.Fatal(err)
	}
	if err := l.guest.WaitReady(l.ctx); err != nil {
		l.t.Fatal(err)
	}
	found, err := l.guest.Found(l.ctx)
	if err == nil {
		err = found.Err()
	}
	if err != nil {
		l.t.Error("after a new start:", err)
	}
	return found
}
