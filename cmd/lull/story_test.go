package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lull-backup/lull/agent"
	"github.com/lull-backup/lull/agent/control"
)

// A writer's progress is told without flooding the output, whatever it says.
func TestStoryOfAWriter(t *testing.T) {
	var out bytes.Buffer
	s := (&invocation{App: &App{Stderr: &out}}).newStory("lab/web")
	begin := time.Date(2026, 11, 22, 1, 30, 0, 0, time.UTC)
	for _, e := range []struct {
		after time.Duration
		what  string
		done  int64
	}{
		{0, "checkpoint", 1},
		{100 * time.Millisecond, "checkpoint", 2}, // the same, too soon
		{200 * time.Millisecond, "another\x1b[2J", 2},
		{time.Second, "rows\x1b[2J", 1},
		{5 * time.Second, "rows\x1b[2J", 2},
		{11 * time.Second, "rows\x1b[2J", 7},
	} {
		s.hear(agent.Event{Time: begin.Add(e.after), VM: "lab/web", Step: agent.StepWriter, Writer: "db", Message: e.what, Done: e.done, Total: 7})
	}
	want := "lull: lab/web: db: checkpoint: 1 of 7\nlull: lab/web: db: rows [2J: 1 of 7\nlull: lab/web: db: rows [2J: 7 of 7\n"
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestStatusShowsWriters(t *testing.T) {
	var out strings.Builder
	err := runTable([]control.RunStatus{{
		VM: "lab/web", Step: "prepared", Since: time.Now(),
		Writers: []control.WriterStatus{{Writer: "postgresql", What: "checkpoint", Done: 3, Total: 7}, {Writer: "redis", What: "keys", Done: 9}},
	}}).write(&out)
	if err != nil || !strings.Contains(out.String(), "prepared  postgresql checkpoint: 3 of 7; redis keys: 9") {
		t.Errorf("%v, it shows:\n%s", err, out.String())
	}
}
