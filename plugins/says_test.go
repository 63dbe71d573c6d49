package plugins_test

import (
	"log/slog"
	"strings"
	"testing"

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
