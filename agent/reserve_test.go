package agent_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lull-backup/lull/agent"
	"github.com/lull-backup/lull/agent/journal"
	"github.com/lull-backup/lull/snapshot"
)

// ledger is a host that keeps account of room. What it was asked for, and when the room
// came back, it notes between the calls that the fake logs.
type ledger struct {
	snapshot.Host
	w *world

	waits int   // so many reservations wait
	err   error // of those that do not

	wants    []snapshot.Want
	released []string // the call before each release
}

func (l *ledger) Reserve(_ context.Context, _ snapshot.Plan, want snapshot.Want, waiting func(string)) (bool, error) {
	l.wants = append(l.wants, want)
	if l.waits > 0 {
		l.waits--
		waiting("db has the room")
		return true, nil
	}
	return false, l.err
}

func (l *ledger) Release(snapshot.Plan) {
	calls := l.w.fake.Calls()
	l.released = append(l.released, calls[len(calls)-1])
}

func (l *ledger) Deltas(snapshot.Plan) map[string]int64 { return map[string]int64{"root": 3 << 20} }

func (l *ledger) Written(context.Context, snapshot.Plan) (map[string]int64, time.Duration, error) {
	return nil, time.Second, nil
}

// account is what the journal knows of the room that runs took.
func (w *world) account() journal.Room {
	w.t.Helper()
	last, err := w.journal.Last(vmName)
	must(w.t, err)
	if last.Room == nil {
		return journal.Room{}
	}
	return *last.Room
}

// Each run sets aside what those before it took, gives the rest back when it has merged,
// and remembers five nights.
func TestRunsReserveWhatNightsTook(t *testing.T) {
	w := newWorld(t)
	host := &ledger{Host: w.fake.Host(), w: w}
	job := w.job()
	job.Host = host
	for range 6 {
		_, err := w.runner.Backup(t.Context(), job)
		must(t, err)
	}
	w.tidy()
	if len(host.wants[0].Deltas) > 0 {
		t.Errorf("the first run wanted %v, of which nothing was known", host.wants[0])
	}
	if diff := cmp.Diff(snapshot.Want{Deltas: map[string]int64{"root": 3 << 20}}, host.wants[1]); diff != "" {
		t.Errorf("the second run (-want +got):\n%s", diff)
	}
	if len(host.released) != 6 || slices.ContainsFunc(host.released, func(call string) bool { return call != "web Merge" }) {
		t.Errorf("released after %q, want after each merge", host.released)
	}
	if past := w.account(); len(past.Nights) != 5 || past.Nights[4].Deltas["root"] != 3<<20 {
		t.Errorf("the journal knows of %+v", past)
	}
}

// A VM may change while its run waits for room: it is planned again.
func TestRunThatWaitedPlansAgain(t *testing.T) {
	w := newWorld(t)
	host := &ledger{Host: w.fake.Host(), w: w, waits: 2}
	job := w.job()
	job.Host = host
	_, err := w.runner.Backup(t.Context(), job)
	must(t, err)
	w.tidy()
	plans := slices.DeleteFunc(w.fake.Calls(), func(call string) bool { return call != "web Plan" })
	if len(plans) != 3 || len(host.wants) != 3 {
		t.Errorf("planned %d times, asked for room %d times, want 3 of each", len(plans), len(host.wants))
	}
	if !slices.Contains(w.steps(), agent.StepWaiting) {
		t.Errorf("steps %q say nothing of the wait", w.steps())
	}
}

// A run that does not fit leaves the VM alone, and the next one expects less.
func TestRunWithoutRoomIsRefused(t *testing.T) {
	w := newWorld(t)
	host := &ledger{Host: w.fake.Host(), w: w}
	job := w.job()
	job.Host = host
	_, err := w.runner.Backup(t.Context(), job)
	must(t, err)
	before := len(w.fake.Calls())
	host.err = snapshot.ErrNoSpace
	if _, err := w.runner.Backup(t.Context(), job); !errors.Is(err, snapshot.ErrNoSpace) {
		t.Fatalf("error %v", err)
	}
	w.tidy()
	for _, call := range w.fake.Calls()[before:] {
		if strings.HasSuffix(call, "Prepare") || strings.HasSuffix(call, "Take") {
			t.Errorf("a run that was refused called %q", call)
		}
	}
	if past := w.account(); past.Refused != 1 || len(past.Nights) != 1 {
		t.Errorf("the journal knows of %+v", past)
	}
	host.err = nil
	_, err = w.runner.Backup(t.Context(), job)
	must(t, err)
	if got := host.wants[2].Deltas["root"]; got != 3<<19 {
		t.Errorf("after a refusal the run wants %d bytes, want half of the night before", got)
	}
	if past := w.account(); past.Refused != 0 || len(past.Nights) != 2 {
		t.Errorf("a run that fitted leaves %+v in the journal", past)
	}
}
