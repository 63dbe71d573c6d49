package plugins_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lull-backup/lull/plugins"
	"github.com/lull-backup/lull/quiesce"
	"github.com/lull-backup/lull/quiesce/quiescetest"
)

func TestFloodIsKilled(t *testing.T) {
	var out syncBuffer
	s := spec("flood freeze")
	s.RuntimeDir = runtimeDir(t)
	p, err := plugins.Start(t.Context(), s, quiescetest.NewGuest(), slog.New(slog.NewTextHandler(&out, nil)))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	err = p.Freeze(ctx, quiesce.Request{})
	if !errors.Is(err, quiesce.ErrWriterGone) || !strings.Contains(err.Error(), "it wrote more than a plugin may") {
		t.Errorf("freeze: %v, want the plugin killed", err)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	if n := len(out.String()); n > 1<<20 {
		t.Errorf("the flood made a log of %d bytes", n)
	}
}

func TestGarbageOnStdout(t *testing.T) {
	var out syncBuffer
	s := spec("stdout freeze")
	s.RuntimeDir = runtimeDir(t)
	p, err := plugins.Start(t.Context(), s, quiescetest.NewGuest(), slog.New(slog.NewTextHandler(&out, nil)))
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Freeze(t.Context(), quiesce.Request{}); err != nil {
		t.Errorf("freeze: %v", err)
	}
	eventually(t, "what it printed is in the log", func() bool {
		return strings.Contains(out.String(), "garbage") && strings.Contains(out.String(), "and in words")
	})
	if err := p.Abort(t.Context(), quiesce.Request{}); err != nil {
		t.Errorf("abort: %v", err)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
}

// A child in a session of its own escapes the kill, and holds the plugin's
// outputs open.
func TestChildThatStays(t *testing.T) {
	p, f := callOdd(t, "child", quiescetest.Prepare, patience)
	pid, err := strconv.Atoi(strings.TrimPrefix(f.Err.Error(), "child "))
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Error(err)
	}
}

func TestEnvironment(t *testing.T) {
	t.Setenv("AWS_SECRET_ACCESS_KEY", "not for plugins")
	_, f := callOdd(t, "environment", quiescetest.Prepare, patience)
	var names []string
	for line := range strings.Lines(f.Err.Error()) {
		if line == endAtOnce+"\n" {
			continue // this test's own
		}
		name, _, _ := strings.Cut(line, "=")
		names = append(names, name)
	}
	for _, name := range names {
		if !strings.HasPrefix(name, "PLUGIN_") && !strings.HasPrefix(name, "LULL_") && name != "PATH" && name != "LANG" && name != "TMPDIR" {
			t.Errorf("%s is in the plugin's environment", name)
		}
	}
	if len(names) < 5 {
		t.Errorf("environment of %q", names)
	}
}

func TestGrants(t *testing.T) {
	tests := []struct {
		grants []plugins.Grant
		want   string
	}{
		{nil, "info: denied\nexec: denied\nread-file: denied\nwrite-file: denied\nfreeze: denied\nthaw: denied\nfrozen: denied"},
		{[]plugins.Grant{plugins.GrantExec, plugins.GrantReadFile, plugins.GrantWriteFile},
			"info: denied\nexec: done\nread-file: not found\nwrite-file: done\nfreeze: denied\nthaw: denied\nfrozen: denied"},
		{plugins.Grants(), "info: done\nexec: done\nread-file: not found\nwrite-file: done\n" +
			"freeze: plugin odd freezes the guest although no Freeze is under way\nthaw: done\nfrozen: done"},
	}
	for _, test := range tests {
		t.Run(fmt.Sprint(test.grants), func(t *testing.T) {
			s := spec("reach prepare")
			s.Grants = test.grants
			p := started(t, s, quiescetest.NewGuest())
			var f *quiesce.Failure
			if err := quiescetest.PrepareOnly(t.Context(), p, quiesce.Request{}); !errors.As(err, &f) {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, f.Err.Error()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// Very many calls into the guest at once wait for each other in the plugin, not in lull's memory.
func TestCrowdOfCalls(t *testing.T) {
	var under, tooMany atomic.Int32
	waited := make(chan struct{})
	begin := sync.OnceFunc(func() { time.AfterFunc(100*time.Millisecond, func() { close(waited) }) })
	g := quiescetest.NewGuest()
	g.Fault = func(context.Context, string) error {
		defer under.Add(-1)
		if under.Add(1) > 16 {
			tooMany.Add(1)
		}
		begin()
		<-waited // for more to come
		return nil
	}
	s := spec("crowd prepare")
	s.Grants = plugins.Grants()
	p := started(t, s, g)
	if err := quiescetest.PrepareOnly(t.Context(), p, quiesce.Request{}); err != nil {
		t.Fatal(err)
	}
	if n := tooMany.Load(); n > 0 {
		t.Errorf("%d calls came beside 16 others", n)
	}
}

// What lull advises on a call into the guest comes back with the failure of the writer that
// only passes the error on.
func TestHintComesBack(t *testing.T) {
	s := spec("late prepare")
	s.Grants = nil
	p := started(t, s, quiescetest.NewGuest())
	var f *quiesce.Failure
	if err := quiescetest.PrepareOnly(t.Context(), p, quiesce.Request{}); !errors.As(err, &f) {
		t.Fatal(err)
	}
	if !strings.Contains(f.Next, "name it in its grants") {
		t.Errorf("%v (%s)", f, f.Next)
	}
}

func TestLateFreezeIsRefused(t *testing.T) {
	g := quiescetest.NewGuest()
	p := started(t, spec("late complete"), g)
	if err := quiescetest.CompleteWith(t.Context(), p, quiesce.Request{}, nil); err == nil || g.IsFrozen() {
		t.Errorf("freeze outside of Freeze: %v, frozen %v", err, g.IsFrozen())
	}
}

// The freeze of a guest that is under way ends with the call of Freeze, whatever
// the plugin does.
func TestGivenUpFreezeIsCancelled(t *testing.T) {
	g := quiescetest.NewGuest()
	cancelled := make(chan struct{})
	given, giveUp := context.WithCancel(t.Context())
	defer giveUp()
	g.Fault = func(ctx context.Context, method string) error {
		if method == "FreezeFilesystems" {
			giveUp()
			<-ctx.Done()
			close(cancelled)
			return ctx.Err()
		}
		return nil
	}
	p := started(t, spec("well"), g)
	if err := p.Freeze(given, quiesce.Request{}); err == nil {
		t.Error("no error")
	}
	select {
	case <-cancelled:
	case <-time.After(patience):
		t.Error("the freeze in the guest goes on")
	}
}

// killed in the window: the coordinator thaws the guest through its Thawer.
func TestKilledInTheWindow(t *testing.T) {
	for _, verb := range []string{"kill", "stop"} {
		t.Run(verb, func(t *testing.T) {
			g := quiescetest.NewGuest()
			p := started(t, spec("well"), g)
			signal := map[string]syscall.Signal{"kill": syscall.SIGKILL, "stop": syscall.SIGSTOP}[verb]
			job := quiesce.Job{
				Run: "run-1", VM: "vm", Guest: g, Writers: []quiesce.Writer{p}, Log: quiescetest.Logger(t),
				Policy: quiesce.Policy{Ladder: []quiesce.Level{quiesce.LevelFilesystem, quiesce.LevelCrash}, Floor: quiesce.LevelCrash},
				Limits: quiesce.Limits{Abort: time.Second},
				Take: func(context.Context) error {
					if !g.IsFrozen() {
						t.Error("not frozen at the snapshot")
					}
					return syscall.Kill(p.Pid(), signal)
				},
			}
			held, err := quiesce.Do(t.Context(), job)
			if err != nil {
				t.Fatal(err)
			}
			if g.IsFrozen() {
				t.Error("the guest is still frozen")
			}
			if r := held.Report(); r.Level != quiesce.LevelCrash || len(r.Reasons) == 0 {
				t.Errorf("report %+v, want crash with the reason", r)
			}
			if err := held.Complete(t.Context(), "point-1"); err != nil {
				t.Error(err)
			}
		})
	}
}
