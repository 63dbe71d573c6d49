package plugins_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

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

// endAtOnce keeps a program that was built with the race detector from sleeping for a
// second before it ends, as it does by default.
const endAtOnce = "GORACE=atexit_sleep_ms=0"

func spec(mode string) plugins.Spec {
	return plugins.Spec{
		Name: "odd", Path: self(), Env: []string{modeEnv + "=" + mode, endAtOnce},
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
	if err := held.Complete(t.Context(), "point-1"); err != nil {
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

// each calls every method of a writer by its name.
func each(p quiesce.Writer) map[quiescetest.Call]func(context.Context) error {
	req, res := quiesce.Request{Run: "r", VM: "vm"}, quiesce.RestoreRequest{VM: "vm"}
	return map[quiescetest.Call]func(context.Context) error{
		quiescetest.Identify:     func(ctx context.Context) error { _, err := p.Identify(ctx); return err },
		quiescetest.Prepare:      func(ctx context.Context) error { return quiescetest.PrepareOnly(ctx, p, req) },
		quiescetest.Freeze:       func(ctx context.Context) error { return p.Freeze(ctx, req) },
		quiescetest.Thaw:         func(ctx context.Context) error { _, err := p.Thaw(ctx, req); return err },
		quiescetest.PostSnapshot: func(ctx context.Context) error { _, err := p.PostSnapshot(ctx, req); return err },
		quiescetest.Complete:     func(ctx context.Context) error { return quiescetest.CompleteWith(ctx, p, req, nil) },
		quiescetest.Abort:        func(ctx context.Context) error { return p.Abort(ctx, req) },
		quiescetest.PreRestore:   func(ctx context.Context) error { return p.PreRestore(ctx, res) },
		quiescetest.PostRestore:  func(ctx context.Context) error { return p.PostRestore(ctx, res) },
	}
}

func callOdd(t *testing.T, verb string, call quiescetest.Call, limit time.Duration) (*plugins.Plugin, *quiesce.Failure) {
	t.Helper()
	var p *plugins.Plugin
	var err error
	untilSeen(t, limit, func(seen string, limit time.Duration) {
		if p != nil { // it was too slow to come so far
			_ = p.Close()
		}
		s := spec(verb + " " + string(call))
		s.Env = append(s.Env, seen)
		p = started(t, s, quiescetest.NewGuest())
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		defer cancel()
		err = each(p)[call](ctx)
	})
	var f *quiesce.Failure
	if !errors.As(err, &f) {
		t.Fatalf("%s in %s: %v, want a failure", verb, call, err)
	}
	return p, f
}

// untilSeen tries again with more time what ended before the plugin did its part: a
// limit that is over too early proves nothing.
func untilSeen(t *testing.T, limit time.Duration, try func(seen string, limit time.Duration)) {
	t.Helper()
	for i := 0; ; i++ {
		path := filepath.Join(t.TempDir(), fmt.Sprint("seen", i))
		try(seenEnv+"="+path, limit)
		if _, err := os.Stat(path); err == nil || limit >= patience {
			return
		}
		limit *= 4
	}
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
	// It answers in no time, however long: this is all waited for.
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := p.Abort(ctx, quiesce.Request{}); !errors.Is(err, quiesce.ErrWriterGone) {
		t.Errorf("second Abort: %v, want the plugin killed", err)
	}
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
