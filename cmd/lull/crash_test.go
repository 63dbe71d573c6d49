package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/lull-backup/lull/agent"
	"github.com/lull-backup/lull/snapshot/guesttest"
)

// The environment that makes the test binary a lull which kills itself.
const (
	crashAt      = "LULL_TEST_CRASH_AT" // the step; or its name or number, in an operation on checkpoints
	crashProgram = "LULL_TEST_PROGRAM"  // the lull binary for plugins
	crashStop    = "LULL_TEST_STOP"     // not empty: it stops, and goes on when it is told to
)

// crashing runs the command line of a lull that dies by SIGKILL at a step, where
// the environment asks for one.
func crashing() {
	step := os.Getenv(crashAt)
	if step == "" {
		return
	}
	app := processApp()
	app.Program = os.Getenv(crashProgram)
	var seen atomic.Bool
	var steps atomic.Int64
	app.Checkpointing = func(_, name string) {
		if strconv.FormatInt(steps.Add(1), 10) != step && name != step {
			return
		}
		fmt.Fprintln(os.Stderr, name)
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {} // the signal ends this
	}
	app.Observe = func(e agent.Event) {
		if string(e.Step) == step && !seen.Swap(true) {
			if os.Getenv(crashStop) != "" {
				_ = syscall.Kill(os.Getpid(), syscall.SIGSTOP)
				return
			}
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {} // the signal ends this
		}
	}
	os.Exit(app.Run(context.Background(), os.Args[1:]))
}

// TestGuestKilledAtEveryStep: lull dies by SIGKILL at every named step of a run against
// a real guest, and the next start repairs everything.
func TestGuestKilledAtEveryStep(t *testing.T) {
	t.Parallel()
	l := newLab(t, guesttest.Options{})
	for _, step := range []agent.Step{
		agent.StepStarted, agent.StepPlanned, agent.StepJournaled, agent.StepPrepared, agent.StepFreezing,
		agent.StepFrozen, agent.StepTaken, agent.StepThawed, agent.StepReading, agent.StepRead,
		agent.StepMerging, agent.StepMerged, agent.StepCommitted, agent.StepForgotten,
	} {
		t.Run(string(step), func(t *testing.T) {
			l := &lab{t: t, ctx: l.ctx, guest: l.guest, dir: l.dir, config: l.config, program: l.program}
			l.killedAt(step)
			l.lull(exitDone, "backup", "lab/web")
			l.tidy()
		})
	}
	l.lull(exitDone, "check", "--all")
	to := filepath.Join(l.dir, "restored")
	before := l.acked()
	l.lull(exitDone, "backup", "lab/web")
	l.lull(exitDone, "restore", "lab/web", "--to", to)
	l.destroy()
	l.boot(to, before)
}

// killedAt runs a backup that dies at a step.
func (l *lab) killedAt(step agent.Step) {
	l.t.Helper()
	l.killedIn("backup", step)
}

// killedIn runs a command that dies at a step.
func (l *lab) killedIn(command string, step agent.Step) {
	l.t.Helper()
	cmd := exec.CommandContext(l.ctx, os.Args[0], "--config", l.config, command, "lab/web")
	cmd.Env = append(os.Environ(), crashAt+"="+string(step), crashProgram+"="+l.program)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		l.t.Fatalf("lull did not die at %s: %v\n%s", step, err, strings.TrimSpace(string(out)))
	}
}
