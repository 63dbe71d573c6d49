package main

import (
	"context"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lull-backup/lull/agent"
	"github.com/lull-backup/lull/snapshot/guesttest"
)

// everySecond runs a group all the time.
const everySecond = `schedule: "@every 1s", consistency: {ladder: [filesystem, crash], floor: crash, window: 60s}`

// serving is an agent that runs in this process.
type serving struct {
	l     *lab
	stop  context.CancelFunc // what SIGTERM is to a process
	ended chan struct{}
	code  int
	said  string
}

func (l *lab) serve() *serving {
	ctx, cancel := context.WithCancel(l.ctx)
	s := &serving{l: l, stop: cancel, ended: make(chan struct{})}
	go func() {
		defer close(s.ended)
		s.code, _, s.said = l.attempt(ctx, "agent")
	}()
	l.t.Cleanup(func() { s.end() })
	return s
}

// end stops the agent and returns its exit code and its log.
func (s *serving) end() (code int, log string) {
	s.stop()
	<-s.ended
	return s.code, s.said
}

// await waits for a step of a run, and for what is done about it.
func (l *lab) await(step agent.Step, vm string, do func()) (reached <-chan struct{}) {
	c := make(chan struct{})
	var once sync.Once
	l.hear = func(e agent.Event) {
		if e.Step == step && e.VM == vm {
			once.Do(func() {
				do()
				close(c)
			})
		}
	}
	return c
}

func (l *lab) wait(what string, c <-chan struct{}) {
	l.t.Helper()
	select {
	case <-c:
	case <-time.After(e2eLimit):
		l.t.Fatal("waited in vain for ", what)
	}
}

// TestGuestAgent: `lull agent` on a guest that writes all the time.
func TestGuestAgent(t *testing.T) {
	t.Parallel()
	l := newLab(t, guesttest.Options{})
	l.under(t, "recovers by itself", recoversByItself)
	l.under(t, "stopped in a run", stoppedInARun)
	l.under(t, "dead neighbour", servedNeighbour)
}

// recoversByItself: lull died in the freeze window; a start of the agent is all
// that it takes.
func recoversByItself(l *lab) {
	l.killedAt(agent.StepFrozen)
	recovered := l.await(agent.StepRecovered, "lab/web", func() {})
	s := l.serve()
	l.wait("the recovery", recovered)
	l.tidy()
	if code, log := s.end(); code != exitDone {
		l.t.Errorf("exit code %d\n%s", code, log)
	}
}

// stoppedInARun: status, a second agent and a backup by hand beside a run of the
// agent, and the agent's end in the middle of it.
func stoppedInARun(l *lab) {
	l.configure(l.web(), everySecond)
	var s *serving
	stopped := make(chan struct{})
	reached := l.await(agent.StepReading, "lab/web", func() {
		l.beside()
		s.stop()
		close(stopped)
	})
	begin := make(chan struct{})
	hear := l.hear
	l.hear = func(e agent.Event) {
		<-begin // s is set
		hear(e)
	}
	s = l.serve()
	close(begin)
	l.wait("a run", reached)
	code, log := s.end()
	l.t.Log(log)
	if code != exitDone || !strings.Contains(log, "interrupted") {
		l.t.Errorf("exit code %d\n%s", code, log)
	}
	l.hear = nil
	l.tidy()
	status := l.lull(exitDone, "status")
	l.t.Log(status)
	if !strings.Contains(status, "not running") || !strings.Contains(status, "interrupted") {
		l.t.Errorf("status says:\n%s", status)
	}
}

// beside is what others see of a run of the agent. It is called in the run.
func (l *lab) beside() {
	code, status, _ := l.attempt(l.ctx, "status")
	l.t.Log(status)
	if code != exitDone || !strings.Contains(status, "running since") || !strings.Contains(status, "reading") {
		l.t.Errorf("status: exit code %d\n%s", code, status)
	}
	for _, c := range []struct{ command, says string }{
		{"agent", "an agent is running"}, {"backup lab/web", "another process works on this VM"},
	} {
		code, _, said := l.attempt(l.ctx, append([]string{"--quiet"}, strings.Fields(c.command)...)...)
		if code != exitFailed {
			l.t.Errorf("lull %s: exit code %d", c.command, code)
		}
		l.says(said, c.says)
	}
}

// servedNeighbour: of two VMs of a group one is gone, and runs come one by one.
func servedNeighbour(l *lab) {
	l.configure("{name: dead, qmp: "+filepath.Join(l.guest.Dir, "none")+"}, "+l.web(), everySecond)
	done, failed := make(chan struct{}), make(chan struct{})
	var once, twice sync.Once
	l.hear = func(e agent.Event) {
		switch {
		case e.VM == "lab/web" && e.Step == agent.StepDone:
			once.Do(func() { close(done) })
		case e.VM == "lab/dead" && e.Step == agent.StepFailed:
			twice.Do(func() { close(failed) })
		}
	}
	s := l.serve()
	l.wait("a backup", done)
	l.wait("a failure", failed)
	if code, log := s.end(); code != exitDone || !strings.Contains(log, "no such socket") {
		l.t.Errorf("exit code %d\n%s", code, log)
	}
	l.hear = nil
	l.tidy()
	status := l.lull(exitDone, "status")
	l.t.Log(status)
	if !strings.Contains(status, "no such socket") {
		l.t.Errorf("status says:\n%s", status)
	}
}
