package plugins_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/google/go-cmp/cmp"

	"github.com/lull-backup/lull/plugins"
	"github.com/lull-backup/lull/plugins/proto"
	"github.com/lull-backup/lull/quiesce"
	"github.com/lull-backup/lull/quiesce/quiescetest"
)

// patience is generous: the machine may be busy.
const patience = time.Minute

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

// self is the program of the tests. A test binary that cannot find itself can
// test nothing here.
func self() string {
	path, err := os.Executable()
	if err != nil {
		panic(err)
	}
	return path
}

func spec(mode string) plugins.Spec {
	return plugins.Spec{
		Name: "odd", Path: self(), Env: []string{modeEnv + "=" + mode},
		Grants: []plugins.Grant{plugins.GrantInfo, plugins.GrantFreeze},
	}
}

// runtimeDir is short enough for sockets, which t.TempDir may not be.
func runtimeDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "lt")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		left, err := os.ReadDir(dir)
		if err != nil || len(left) > 0 {
			t.Errorf("left behind in the folder for sockets: %v, %v", left, err)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// started is a plugin that is checked for leftovers at the end of the test.
func started(t *testing.T, s plugins.Spec, g *quiescetest.Guest) *plugins.Plugin {
	t.Helper()
	t.Cleanup(func() { goleak.VerifyNone(t) })
	s.RuntimeDir = runtimeDir(t)
	p, err := plugins.Start(t.Context(), s, g, discard())
	if err != nil {
		t.Fatal(err)
	}
	pid := p.Pid()
	t.Cleanup(func() {
		for range 2 {
			if err := p.Close(); err != nil {
				t.Errorf("close: %v", err)
			}
		}
		if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
			t.Errorf("process %d is still there: %v", pid, err)
		}
	})
	return p
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("%s: not within %v", what, patience)
		}
	}
}

func TestConformance(t *testing.T) {
	quiescetest.RunWriter(t, func(t *testing.T) quiescetest.Fixture {
		g := quiescetest.NewGuest()
		return quiescetest.Fixture{Writer: started(t, spec("well"), g), Frozen: g.IsFrozen}
	})
}

func TestTwoMethods(t *testing.T) {
	p := started(t, spec("two-methods"), nil)
	id, err := p.Identify(t.Context())
	if err != nil || id.Level != quiesce.LevelApplication || id.Tier != quiesce.BackEnd {
		t.Errorf("identity %+v, %v", id, err)
	}
	job := quiesce.Job{
		Policy:  quiesce.Policy{Ladder: []quiesce.Level{quiesce.LevelApplication}, Floor: quiesce.LevelApplication, Window: quiesce.MaxWindow},
		Writers: []quiesce.Writer{p}, Take: func(context.Context) error { return nil },
	}
	held, err := quiesce.Do(t.Context(), job)
	if err != nil {
		t.Fatal(err)
	}
	if err := held.Complete(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestIdentity(t *testing.T) {
	p := started(t, spec("well"), quiescetest.NewGuest())
	id, err := p.Identify(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := quiesce.Identity{Name: "odd", Version: "1", Tier: quiesce.System, Level: quiesce.LevelFilesystem, Components: []string{"db1"}, Budget: time.Second}
	if diff := cmp.Diff(want, id); diff != "" {
		t.Errorf("identity (-want +got):\n%s", diff)
	}
}

func TestStartFails(t *testing.T) {
	tests := map[string]string{
		"garbage":        `it printed "Welcome to this plugin!`,
		"unending-line":  "no handshake",
		"no-tls":         "does not speak mutual TLS",
		"tcp":            "it must be a socket in",
		"exit":           `exit status 1; it said "no configuration"`,
		"panic connect":  "panicked: odd writer",
		"die connect":    "signal: killed",
		"nobody-listens": "cert",
	}
	for mode, want := range tests {
		t.Run(mode, func(t *testing.T) {
			t.Cleanup(func() { goleak.VerifyNone(t) })
			s := spec(mode)
			s.RuntimeDir = runtimeDir(t)
			_, err := plugins.Start(t.Context(), s, quiescetest.NewGuest(), discard())
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("error %v, want one with %q", err, want)
			}
			if err != nil && len(err.Error()) > 2000 {
				t.Errorf("error of %d bytes", len(err.Error()))
			}
		})
	}
}

func TestStartEndsWithItsContext(t *testing.T) {
	for _, mode := range []string{"silent", "hang connect", "stop connect"} {
		t.Run(mode, func(t *testing.T) {
			t.Cleanup(func() { goleak.VerifyNone(t) })
			s := spec(mode)
			s.RuntimeDir = runtimeDir(t)
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if _, err := plugins.Start(ctx, s, quiescetest.NewGuest(), discard()); err == nil {
				t.Error("no error")
			}
		})
	}
}

func TestChecksum(t *testing.T) {
	data, err := os.ReadFile(self())
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(data)
	s := spec("well")
	s.SHA256 = hex.EncodeToString(sum[:])
	started(t, s, nil)

	s.RuntimeDir = runtimeDir(t)
	s.SHA256 = strings.Repeat("00", 32)
	if _, err := plugins.Start(t.Context(), s, nil, discard()); !errors.Is(err, plugins.ErrUntrusted) {
		t.Errorf("error %v, want ErrUntrusted", err)
	}
}

func TestBadSpec(t *testing.T) {
	tests := map[string]plugins.Spec{
		"no name":       {Path: "/bin/true"},
		"relative path": {Name: "x", Path: "true"},
		"no program":    {Name: "x", Path: "/does/not/exist"},
		"short sum":     {Name: "x", Path: "/bin/true", SHA256: "1234"},
		"unknown grant": {Name: "x", Path: "/bin/true", Grants: []plugins.Grant{"everything"}},
		"long folder":   {Name: "x", Path: "/bin/true", RuntimeDir: filepath.Join(t.TempDir(), strings.Repeat("d", 60))},
	}
	for name, s := range tests {
		t.Run(name, func(t *testing.T) {
			if s.RuntimeDir == "" {
				s.RuntimeDir = runtimeDir(t)
			} else if err := os.Mkdir(s.RuntimeDir, 0o700); err != nil {
				t.Fatal(err)
			}
			if _, err := plugins.Start(t.Context(), s, nil, discard()); err == nil {
				t.Error("no error")
			}
			left, err := os.ReadDir(s.RuntimeDir)
			if err != nil || len(left) > 0 {
				t.Errorf("left behind: %v, %v", left, err)
			}
		})
	}
}

// each calls every method of a writer by its name.
func each(p quiesce.Writer) map[quiescetest.Call]func(context.Context) error {
	req, res := quiesce.Request{Run: "r", VM: "vm"}, quiesce.RestoreRequest{VM: "vm"}
	return map[quiescetest.Call]func(context.Context) error{
		quiescetest.Identify:     func(ctx context.Context) error { _, err := p.Identify(ctx); return err },
		quiescetest.Prepare:      func(ctx context.Context) error { return p.Prepare(ctx, req) },
		quiescetest.Freeze:       func(ctx context.Context) error { return p.Freeze(ctx, req) },
		quiescetest.Thaw:         func(ctx context.Context) error { _, err := p.Thaw(ctx, req); return err },
		quiescetest.PostSnapshot: func(ctx context.Context) error { _, err := p.PostSnapshot(ctx, req); return err },
		quiescetest.Complete:     func(ctx context.Context) error { return p.Complete(ctx, req) },
		quiescetest.Abort:        func(ctx context.Context) error { return p.Abort(ctx, req) },
		quiescetest.PreRestore:   func(ctx context.Context) error { return p.PreRestore(ctx, res) },
		quiescetest.PostRestore:  func(ctx context.Context) error { return p.PostRestore(ctx, res) },
	}
}

func callOdd(t *testing.T, verb string, call quiescetest.Call, limit time.Duration) (*plugins.Plugin, *quiesce.Failure) {
	t.Helper()
	p := started(t, spec(verb+" "+string(call)), quiescetest.NewGuest())
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	err := each(p)[call](ctx)
	var f *quiesce.Failure
	if !errors.As(err, &f) {
		t.Fatalf("%s in %s: %v, want a failure", verb, call, err)
	}
	return p, f
}

func TestEveryCall(t *testing.T) {
	for call := range each(nil) {
		t.Run(string(call), func(t *testing.T) {
			t.Run("hang", func(t *testing.T) {
				if _, f := callOdd(t, "hang", call, 200*time.Millisecond); f.Class != quiesce.Timeout {
					t.Errorf("%v, want a timeout", f)
				}
			})
			t.Run("panic", func(t *testing.T) {
				p, f := callOdd(t, "panic", call, patience)
				if !strings.Contains(f.Error(), "panicked: odd writer") {
					t.Errorf("%v, want the panic", f)
				}
				if err := p.PreRestore(t.Context(), quiesce.RestoreRequest{}); call != quiescetest.PreRestore && err != nil {
					t.Errorf("the plugin does not live on: %v", err)
				}
			})
			t.Run("die", func(t *testing.T) {
				p, f := callOdd(t, "die", call, patience)
				if !errors.Is(f, quiesce.ErrWriterGone) || !strings.Contains(f.Error(), "signal: killed") {
					t.Errorf("%v, want ErrWriterGone with the cause", f)
				}
				if _, err := p.Identify(t.Context()); !errors.Is(err, quiesce.ErrWriterGone) {
					t.Errorf("call of a dead plugin: %v, want ErrWriterGone", err)
				}
			})
			t.Run("veto", func(t *testing.T) {
				_, f := callOdd(t, "veto", call, patience)
				want := quiesce.Failure{Class: quiesce.Vetoed, Writer: "odd", Component: "db1", Next: "come back later"}
				got := *f
				got.Err = nil
				if got != want || f.Err.Error() != "not now" {
					t.Errorf("got %+v", f)
				}
			})
			t.Run("stop", func(t *testing.T) {
				if _, f := callOdd(t, "stop", call, 200*time.Millisecond); f.Class != quiesce.Timeout {
					t.Errorf("%v, want a timeout", f)
				}
			})
		})
	}
}

func TestLargeFailure(t *testing.T) {
	_, f := callOdd(t, "large", quiescetest.Freeze, patience)
	if len(f.Error()) > 2*proto.MaxText {
		t.Errorf("failure of %d bytes", len(f.Error()))
	}
}

func TestLargestDocument(t *testing.T) {
	p := started(t, spec("well"), quiescetest.NewGuest())
	doc, err := p.PostSnapshot(t.Context(), quiesce.Request{})
	if err != nil || len(doc) != quiesce.MaxDocument {
		t.Errorf("%d bytes, %v; want the largest document", len(doc), err)
	}
}

func TestTooLargeDocument(t *testing.T) {
	if _, f := callOdd(t, "document", quiescetest.PostSnapshot, patience); !strings.Contains(f.Error(), "is larger than") {
		t.Errorf("failure %v, want one about the size", f)
	}
}

func TestDeafToAbort(t *testing.T) {
	p, _ := callOdd(t, "hang", quiescetest.Abort, 200*time.Millisecond)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := p.Abort(ctx, quiesce.Request{}); !errors.Is(err, quiesce.ErrWriterGone) {
		t.Errorf("second Abort: %v, want the plugin killed", err)
	}
}

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
			if err := p.Prepare(t.Context(), quiesce.Request{}); !errors.As(err, &f) {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, f.Err.Error()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestLateFreezeIsRefused(t *testing.T) {
	g := quiescetest.NewGuest()
	p := started(t, spec("late complete"), g)
	if err := p.Complete(t.Context(), quiesce.Request{}); err == nil || g.IsFrozen() {
		t.Errorf("freeze outside of Freeze: %v, frozen %v", err, g.IsFrozen())
	}
}

// The freeze of a guest that is under way ends with the call of Freeze, whatever
// the plugin does.
func TestGivenUpFreezeIsCancelled(t *testing.T) {
	g := quiescetest.NewGuest()
	cancelled := make(chan struct{})
	g.Fault = func(ctx context.Context, method string) error {
		if method == "FreezeFilesystems" {
			<-ctx.Done()
			close(cancelled)
			return ctx.Err()
		}
		return nil
	}
	p := started(t, spec("well"), g)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := p.Freeze(ctx, quiesce.Request{}); err == nil {
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
			if err := held.Complete(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

// Nobody without this start's certificate gets an answer, even with access to
// the socket.
func TestMutualTLS(t *testing.T) {
	s := spec("well")
	s.RuntimeDir = runtimeDir(t)
	p, err := plugins.Start(t.Context(), s, quiescetest.NewGuest(), discard())
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	}()
	sockets, err := filepath.Glob(filepath.Join(s.RuntimeDir, "*", "*", "plugin*"))
	if err != nil || len(sockets) != 2 {
		t.Fatalf("sockets %q, %v; want the plugin's and the guest service's", sockets, err)
	}
	for _, socket := range sockets {
		for name, creds := range map[string]credentials.TransportCredentials{
			"plain": insecure.NewCredentials(), "TLS": credentials.NewTLS(&tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12}),
		} {
			conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(creds))
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			_, writer := proto.NewWriterClient(conn).Identify(ctx, &proto.IdentifyRequest{})
			_, guest := proto.NewGuestClient(conn).Info(ctx, &proto.InfoRequest{})
			if writer == nil || guest == nil || ctx.Err() != nil {
				t.Errorf("%s: a stranger was answered: %v, %v", name, writer, guest)
			}
			cancel()
			if err := conn.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}

func TestHostDies(t *testing.T) {
	dir := runtimeDir(t)
	host := exec.CommandContext(t.Context(), self())
	host.Env = append(os.Environ(), modeEnv+"=host", "TMPDIR="+dir)
	stdin, err := host.StdinPipe() // open, so that the host waits
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	stdout, err := host.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := host.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	if err := host.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := host.Wait(); err == nil {
		t.Error("the host was not killed")
	}
	eventually(t, "the plugin dies with its host", func() bool { return gone(pid) })

	// The folder of the dead host goes at the next start.
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Fatalf("in the folder for sockets: %v, %v; want what the host left", left, err)
	}
	s := spec("well")
	s.RuntimeDir = dir
	p, err := plugins.Start(t.Context(), s, nil, discard())
	if err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("in the folder for sockets: %v, %v; want the new plugin's alone", left, err)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
}

// gone also holds for a zombie: nobody may be there to reap an orphan in a
// container.
func gone(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return true
	}
	_, after, _ := bytes.Cut(stat, []byte(") "))
	return bytes.HasPrefix(after, []byte("Z"))
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

var _ io.Writer = (*syncBuffer)(nil)
