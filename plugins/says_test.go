package plugins_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lull-backup/lull/plugins"
	"github.com/lull-backup/lull/quiesce"
	"github.com/lull-backup/lull/quiesce/quiescetest"
)

// heard is what lull's log has of a plugin after one call.
func heard(t *testing.T, mode string, call func(*plugins.Plugin, quiesce.Request) error) (lines []string, err error) {
	t.Helper()
	var out syncBuffer
	p, err := plugins.Start(t.Context(), spec(mode), quiescetest.NewGuest(), slog.New(slog.NewTextHandler(&out, nil)))
	if err != nil {
		t.Fatal(err)
	}
	err = call(p, quiesce.Request{Run: "run-7", VM: "lab/web"})
	if err := p.Close(); err != nil { // only then all that it said is there
		t.Fatal(err)
	}
	return strings.Split(out.String(), "\n"), err
}

func wantLine(t *testing.T, lines []string, words ...string) {
	t.Helper()
	for _, line := range lines {
		has := true
		for _, w := range words {
			has = has && strings.Contains(line, w)
		}
		if has {
			return
		}
	}
	t.Errorf("no line has %q:\n%s", words, strings.Join(lines, "\n"))
}

// What a plugin says carries its name, the run and the VM, whatever way it says it.
func TestPluginSays(t *testing.T) {
	lines, err := heard(t, "talks", func(p *plugins.Plugin, r quiesce.Request) error { return quiescetest.PrepareOnly(t.Context(), p, r) })
	if err != nil {
		t.Fatal(err)
	}
	for _, words := range [][]string{
		{"level=WARN", "a long transaction call=Prepare since=05:12"},
		{"level=INFO", "checkpoint call=Prepare done=3 total=7"},
		{"in plain words"},
	} {
		wantLine(t, lines, append(words, "plugin=odd", "run=run-7", "vm=lab/web")...)
	}
}

// A panic is a failure of its call, and the log has the stack from the writer on.
func TestPanicHasItsStack(t *testing.T) {
	lines, err := heard(t, "panic freeze", func(p *plugins.Plugin, r quiesce.Request) error { return p.Freeze(t.Context(), r) })
	if err == nil {
		t.Fatal("no error")
	}
	wantLine(t, lines, "level=ERROR", "writer panicked call=Freeze", "odd writer", "(*odd).act", "main_test.go:", "run=run-7")
}

// Progress goes to whoever listens to the call, with the run in the log; of a restore, too.
func TestProgressIsHeard(t *testing.T) {
	want := []quiesce.Progress{{Writer: "db", What: "checkpoint", Done: 3, Total: 7}, {Writer: "db", What: "logs of p1", Done: 1}}
	var got []quiesce.Progress
	lines, err := heard(t, "reports", func(p *plugins.Plugin, r quiesce.Request) error {
		for _, call := range []func(context.Context) error{
			func(ctx context.Context) error { return quiescetest.PrepareOnly(ctx, p, r) },
			func(ctx context.Context) error {
				return p.PreRestore(ctx, quiesce.RestoreRequest{VM: "lab/web", Point: "p1"})
			},
		} {
			ctx, enough := context.WithTimeout(t.Context(), patience)
			defer enough()
			listening, stop := quiesce.Listen(ctx, "db", func(p quiesce.Progress) {
				got = append(got, p)
				enough()
			})
			err := call(listening)
			stop()
			if err == nil || errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return fmt.Errorf("it was not heard: %w", ctx.Err())
			}
		}
		return nil
	})
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v, heard (-want +got):\n%s", err, diff)
	}
	wantLine(t, lines, "level=INFO", "checkpoint call=Prepare done=3 total=7", "run=run-7", "vm=lab/web")
	wantLine(t, lines, "logs of p1 call=PreRestore done=1 total=0", "vm=lab/web")
}

// What looks like a line of a log but is none does no harm: lull lives, the call goes
// well, and the next line is read.
func TestOddLinesAreRead(t *testing.T) {
	lines, err := heard(t, "odd-json freeze", func(p *plugins.Plugin, r quiesce.Request) error { return p.Freeze(t.Context(), r) })
	if err != nil {
		t.Fatal(err)
	}
	wantLine(t, lines, "level=INFO", "oddly timed", "run=run-7")
	wantLine(t, lines, "level=INFO", "the last one", "run=run-7")
}
