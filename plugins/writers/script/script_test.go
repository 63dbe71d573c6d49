package script_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lull-backup/lull/plugins"
	"github.com/lull-backup/lull/plugins/plugintest"
	"github.com/lull-backup/lull/plugins/writers/internal/writertest"
	"github.com/lull-backup/lull/plugins/writers/script"
	"github.com/lull-backup/lull/quiesce"
	"github.com/lull-backup/lull/quiesce/quiescetest"
)

func TestMain(m *testing.M) { writertest.Main(m, script.Serve) }

// app is an application that holds still while a file is there; log has a line for each
// script that ran.
type app struct {
	t        *testing.T
	dir      string
	settings script.Settings
}

// newApp writes the two scripts; before and after are what they do besides.
func newApp(t *testing.T, before, after string) *app {
	t.Helper()
	a := &app{t: t, dir: t.TempDir()}
	a.settings = script.Settings{
		Name: "app", Host: true, State: filepath.Join(a.dir, "state"), Tier: quiesce.BackEnd, Limit: 20 * time.Second,
		Freeze: []string{a.script("freeze", before+"\ntouch "+a.path("frozen")+"\n"), "an argument", "$(touch " + a.path("oops") + ")"},
		Thaw:   []string{a.script("thaw", "rm -f "+a.path("frozen")+"\n"+after), "*"},
	}
	return a
}

func (a *app) path(name string) string { return filepath.Join(a.dir, name) }

func (a *app) script(name, text string) string {
	a.t.Helper()
	path := a.path(name)
	text = "#!/bin/sh\necho " + name + " \"$LULL_VM\" \"$LULL_RUN\" \"$@\" >>" + a.path("log") + "\n" + text
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		a.t.Fatal(err)
	}
	return path
}

func (a *app) frozen() bool {
	_, err := os.Stat(a.path("frozen"))
	return err == nil
}

// ran is the log.
func (a *app) ran() string {
	log, err := os.ReadFile(a.path("log"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		a.t.Error(err)
	}
	return string(log)
}

func (a *app) writer() *script.Writer { return script.New(a.settings, nil) }

func request() quiesce.Request { return quiesce.Request{Run: "run-1", VM: "lab/web"} }

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func TestWriterInProcess(t *testing.T) {
	t.Parallel() // it waits for programs more than it works
	for _, place := range []string{"host", "guest"} {
		t.Run(place, func(t *testing.T) {
			quiescetest.RunWriter(t, func(t *testing.T) quiescetest.Fixture {
				a := newApp(t, "", "")
				a.settings.Name = fmt.Sprintf("test-%d-%s", os.Getpid(), filepath.Base(a.dir)) // a folder of its own in /run
				a.settings.Host = place == "host"
				a.cleanGuestState()
				return quiescetest.Fixture{Writer: script.New(a.settings, plugintest.Here()), Frozen: a.frozen}
			})
		})
	}
}

// cleanGuestState removes what a guest that is this machine remembers.
func (a *app) cleanGuestState() {
	a.t.Cleanup(func() {
		if err := os.RemoveAll(filepath.Join("/run/lull/scripts", a.settings.Name)); err != nil {
			a.t.Error(err)
		}
	})
}

func TestWriterAsPlugin(t *testing.T) {
	t.Parallel() // it waits for programs more than it works
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	a := newApp(t, "", "")
	settings, err := json.Marshal(a.settings)
	if err != nil {
		t.Fatal(err)
	}
	plugintest.Run(t, plugintest.Options{
		Path: self, Args: []string{writertest.ServedArg, string(settings)}, Grants: []plugins.Grant{}, Frozen: a.frozen,
		Env: []string{"GORACE=atexit_sleep_ms=0"}, Log: slog.New(slog.DiscardHandler), // the race detector sleeps a second at the end
	})
}

// Words reach the scripts as they are, with the names of VM and run; what they print is
// in the document.
func TestWordsAndOutput(t *testing.T) {
	t.Parallel() // it waits for programs more than it works
	a := newApp(t, "echo flushed 17 pages; echo and more >&2", "echo bye")
	w := a.writer()
	a.cycle(w)
	want := "freeze lab/web run-1 an argument $(touch " + a.path("oops") + ")\nthaw lab/web run-1 *\n"
	if got := a.ran(); got != want {
		t.Errorf("the scripts ran with\n%swant\n%s", got, want)
	}
	if _, err := os.Stat(a.path("oops")); err == nil {
		t.Error("a shell has read an argument")
	}
	doc, err := w.PostSnapshot(within(t), request())
	if want := `{"freeze":"flushed 17 pages\nand more","thaw":"bye"}`; err != nil || string(doc) != want {
		t.Errorf("document %s, %v; want %s", doc, err, want)
	}
}

func (a *app) cycle(w *script.Writer) {
	a.t.Helper()
	ctx := within(a.t)
	if err := quiescetest.PrepareOnly(ctx, w, request()); err != nil {
		a.t.Fatal(err)
	}
	if err := w.Freeze(ctx, request()); err != nil {
		a.t.Fatal(err)
	}
	if res, err := w.Thaw(ctx, request()); err != nil || !res.Held {
		a.t.Fatalf("thaw: %+v, %v", res, err)
	}
	if a.frozen() {
		a.t.Fatal("frozen after thaw")
	}
}

func TestFailures(t *testing.T) {
	tests := []struct {
		name          string
		before, after string
		limit         time.Duration
		class         quiesce.Class
		freeze, thaw  string // what the failure says; empty: none
		aborts        bool   // Abort goes well
	}{
		{name: "veto", before: "echo a migration runs; exit 3", class: quiesce.Vetoed, freeze: `ended with 3; it said "a migration runs"`, aborts: true},
		{name: "later", before: "exit 75", class: quiesce.Retryable, freeze: "ended with 75", aborts: true},
		{name: "hangs", before: "sleep 1000", limit: time.Second, class: quiesce.Timeout, freeze: "took longer than 1s", aborts: true},
		{name: "hangs in a child", before: "trap '' TERM; sleep 1000 & wait", limit: time.Second, class: quiesce.Timeout, freeze: "took longer than 1s", aborts: true},
		{name: "thaw fails", after: "echo no room; exit 4", thaw: `ended with 4; it said "no room"`},
		{name: "thaw hangs", after: "sleep 1000", limit: time.Second, class: quiesce.Timeout, thaw: "took longer than 1s"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			a := newApp(t, test.before, test.after)
			if test.limit > 0 {
				a.settings.Limit = test.limit
			}
			w := a.writer()
			err := w.Freeze(within(t), request())
			if test.freeze == "" && err == nil {
				_, err = w.Thaw(within(t), request())
			}
			var f *quiesce.Failure
			if !errors.As(err, &f) || f.Class != test.class || !strings.Contains(f.Error(), test.freeze+test.thaw) {
				t.Errorf("%v, want %v: ... %s", err, test.class, test.freeze+test.thaw)
			}
			err = w.Abort(within(t), request())
			if (err == nil) != test.aborts {
				t.Errorf("abort: %v", err)
			}
			if strings.Count(a.ran(), "thaw ") == 0 || a.frozen() {
				t.Errorf("frozen %v after\n%s", a.frozen(), a.ran())
			}
		})
	}
}

// A script may leave something running that keeps its output, and may print without end.
func TestOutputIsBounded(t *testing.T) {
	t.Parallel() // it waits for programs more than it works
	a := newApp(t, "yes | head -c 10000000; sleep 1000 & echo $! >>$0.pids", "sleep 1000 & echo $! >>$0.pids")
	begin := time.Now()
	w := a.writer()
	a.cycle(w)
	if took := time.Since(begin); took > a.settings.Limit {
		t.Errorf("it waited %v for what the scripts had started", took)
	}
	doc, err := w.PostSnapshot(within(t), request())
	if err != nil || len(doc) < 1000 || len(doc) > 30000 {
		t.Errorf("a document of %d bytes, %v", len(doc), err)
	}
	for _, name := range []string{"freeze", "thaw"} {
		pids, err := os.ReadFile(a.path(name + ".pids"))
		if err != nil {
			t.Fatal(err)
		}
		a.killAll(string(pids))
	}
}

func (a *app) killAll(pids string) {
	a.t.Helper()
	for _, word := range strings.Fields(pids) {
		pid, err := strconv.Atoi(word)
		if err == nil {
			err = syscall.Kill(pid, syscall.SIGKILL)
		}
		if err != nil {
			a.t.Errorf("%s: %v", word, err)
		}
	}
}

// A freeze that was given up is undone where it is under way, and does not begin where it
// comes after the thaw.
func TestFreezeGivenUp(t *testing.T) {
	t.Parallel() // it waits for programs more than it works
	a := newApp(t, "touch $0.begun; sleep 1000", "")
	w := a.writer()
	ctx, cancel := context.WithCancel(within(t))
	ended := make(chan error, 1)
	go func() { ended <- w.Freeze(ctx, request()) }()
	a.await("freeze.begun")
	cancel()
	if err := <-ended; err == nil {
		t.Error("freeze went well")
	}
	if err := w.Abort(within(t), request()); err != nil || a.frozen() {
		t.Errorf("abort: %v, frozen %v", err, a.frozen())
	}
	if !strings.HasSuffix(a.ran(), "thaw lab/web run-1 *\n") {
		t.Errorf("no thaw in\n%s", a.ran())
	}
	if left, err := filepath.Glob(filepath.Join(a.dir, "state", "app", "*", "[be]*-*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %q, %v", left, err)
	}
}

// await waits until a file is there.
func (a *app) await(name string) {
	a.t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for ctx := within(a.t); ; {
		if _, err := os.Stat(a.path(name)); err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			a.t.Fatalf("no %s", name)
		}
	}
}

func TestAbsent(t *testing.T) {
	a := newApp(t, "", "")
	a.settings.Freeze[0] += "-not-there"
	for _, test := range []struct {
		name  string
		host  bool
		class quiesce.Class
	}{{"host", true, quiesce.NotRetryable}, {"guest", false, quiesce.NotPresent}} {
		a.settings.Host = test.host
		a.cleanGuestState()
		err := quiescetest.PrepareOnly(within(t), script.New(a.settings, plugintest.Here()), request())
		var f *quiesce.Failure
		if !errors.As(err, &f) || f.Class != test.class {
			t.Errorf("%s: %v, want class %v", test.name, err, test.class)
		}
	}
}
