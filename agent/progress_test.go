package agent_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lull-backup/lull/agent"
	"github.com/lull-backup/lull/agent/control"
	"github.com/lull-backup/lull/plugins/writers/filesystem"
	"github.com/lull-backup/lull/quiesce"
	"github.com/lull-backup/lull/snapshot"
)

// telling is a writer whose Prepare lasts until it was heard.
type telling struct {
	quiesce.Writer
	heard chan struct{}
}

func (w *telling) Prepare(ctx context.Context, r quiesce.PrepareRequest) ([]quiesce.Component, error) {
	quiesce.Teller(ctx)(quiesce.Progress{What: "checkpoint", Done: 3, Total: 7})
	select {
	case <-w.heard:
		return w.Writer.Prepare(ctx, r)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// What a writer tells is an event of its run, and in the status while its call lasts.
func TestWriterProgress(t *testing.T) {
	w := newWorld(t)
	board := agent.NewBoard("test", 1, time.Now(), w.journal, nil)
	heard := make(chan struct{})
	var once sync.Once
	var shown, after []control.RunStatus
	var event agent.Event
	status := func() []control.RunStatus {
		s, err := board.Status()
		if err != nil {
			t.Error(err)
		}
		return s.Runs
	}
	w.hear = func(e agent.Event) {
		board.Hear(e)
		switch e.Step {
		case agent.StepWriter:
			once.Do(func() {
				event, shown = e, status()
				close(heard)
			})
		case agent.StepFreezing:
			after = status()
		}
	}
	job := w.job()
	job.Writers = func(_ context.Context, g snapshot.Guest) ([]quiesce.Writer, func() error, error) {
		return []quiesce.Writer{&telling{filesystem.New(filesystem.Settings{}, g), heard}}, func() error { return nil }, nil
	}
	res, err := w.runner.Backup(t.Context(), job)
	must(t, err)
	want := agent.Event{Time: event.Time, Run: res.Run, VM: vmName, Step: agent.StepWriter, Writer: "filesystem", Message: "checkpoint", Done: 3, Total: 7}
	if diff := cmp.Diff(want, event); diff != "" {
		t.Errorf("event (-want +got):\n%s", diff)
	}
	if len(shown) != 1 || len(after) != 1 {
		t.Fatalf("status %+v, then %+v; want the run", shown, after)
	}
	told := []control.WriterStatus{{Writer: "filesystem", What: "checkpoint", Done: 3, Total: 7}}
	if diff := cmp.Diff(told, shown[0].Writers); diff != "" || shown[0].Step != string(agent.StepPrepared) || shown[0].Total != 0 {
		t.Errorf("status %+v (-want +got):\n%s", shown[0], diff)
	}
	if len(after[0].Writers) != 0 {
		t.Errorf("once its call is over the status still says %+v", after[0].Writers)
	}
	board.Hear(event)
	if runs := status(); len(runs) != 0 {
		t.Errorf("a late word makes a run of its own: %+v", runs)
	}
}

// Each writer has one word in the status, its newest.
func TestBoardKeepsNewestWords(t *testing.T) {
	board := agent.NewBoard("test", 1, time.Now(), newWorld(t).journal, nil)
	board.Hear(agent.Event{VM: vmName, Step: agent.StepPrepared})
	for i := range int64(1000) {
		board.Hear(agent.Event{VM: vmName, Step: agent.StepWriter, Writer: fmt.Sprint("db", i%2), Message: "rows", Done: i})
	}
	s, err := board.Status()
	must(t, err)
	want := []control.WriterStatus{{Writer: "db0", What: "rows", Done: 998}, {Writer: "db1", What: "rows", Done: 999}}
	if diff := cmp.Diff(want, s.Runs[0].Writers); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
