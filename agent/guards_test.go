package agent_test

import (
	"context"
	"slices"
	"testing"

	"github.com/lull-backup/lull/quiesce"
	"github.com/lull-backup/lull/snapshot"
)

// ordered is a guard that notes when it is armed.
type ordered struct{ note func(string) }

func (o ordered) Arm(context.Context) error { o.note("dead-man"); return nil }

func (ordered) Disarm(context.Context, bool) error { return nil }

// The guest's timer runs from when it is armed. A dead-man that starts slowly must not
// eat up its time: it would end a freeze window that the host still has in hand.
func TestTimerIsArmedLast(t *testing.T) {
	w := newWorld(t)
	var armed []string
	note := func(what string) { armed = append(armed, what) }
	w.fake.FakeGuest("web").Programs = func(context.Context, snapshot.Command) (snapshot.ExecResult, error) {
		note("timer")
		return snapshot.ExecResult{ExitCode: 1}, nil
	}
	job := w.job()
	job.DeadMan = func(snapshot.Plan) quiesce.Guard { return ordered{note} }
	if _, err := w.runner.Backup(t.Context(), job); err != nil {
		t.Fatal(err)
	}
	if want := []string{"dead-man", "timer"}; !slices.Equal(armed, want) {
		t.Errorf("armed %q, want %q", armed, want)
	}
	w.tidy()
}
