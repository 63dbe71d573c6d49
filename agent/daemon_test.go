package agent_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lull-backup/lull/agent"
	"github.com/lull-backup/lull/agent/journal"
	"github.com/lull-backup/lull/agent/schedule"
	"github.com/lull-backup/lull/quiesce"
	"github.com/lull-backup/lull/quiesce/quiescetest"
	"github.com/lull-backup/lull/snapshot"
)

// tower is a daemon whose groups note when they run, and run nothing.
type tower struct {
	daemon *agent.Daemon
	mu     sync.Mutex
	opened []string // "group time vms"
	begun  time.Time
}

func newTower(t *testing.T, j *journal.Journal, groups ...agent.Group) *tower {
	t.Helper()
	w := &tower{begun: time.Now()}
	for i := range groups {
		g := &groups[i]
		g.Open = func(_ context.Context, vms []string) ([]agent.Job, func() error, error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.opened = append(w.opened, g.Name+" "+time.Since(w.begun).String())
			return nil, func() error { return nil }, nil
		}
	}
	log := slog.New(slog.DiscardHandler)
	w.daemon = &agent.Daemon{
		Runner: &agent.Runner{Journal: j, Log: log, Now: time.Now},
		Groups: groups, Parallel: 1, Log: log, Ready: func() {},
		Resolve: func(name string) (snapshot.Host, string, error) { return nil, name, snapshot.ErrNotFound },
		Board:   agent.NewBoard("test", os.Getpid(), time.Now(), j, groups),
	}
	return w
}

// during runs the daemon for d and returns which group ran when.
func (w *tower) during(t *testing.T, d time.Duration) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	must(t, w.daemon.Run(ctx))
	return w.opened
}

func every(t *testing.T, text string) schedule.Schedule {
	t.Helper()
	s, err := schedule.Parse(text, time.UTC)
	must(t, err)
	return s
}

func TestDaemonKeepsTheSchedule(t *testing.T) {
	j, err := journal.Open(t.TempDir())
	must(t, err)
	synctest.Test(t, func(t *testing.T) { // begins at midnight, 2000-01-01 UTC
		w := newTower(t, j, agent.Group{Name: "nightly", Schedule: every(t, "30 1 * * *"), VMs: []string{vmName}},
			agent.Group{Name: "by-hand", VMs: []string{vmName}})
		got := w.during(t, 50*time.Hour)
		if want := []string{"nightly 1h30m0s", "nightly 25h30m0s", "nightly 49h30m0s"}; !slices.Equal(got, want) {
			t.Errorf("ran %q, want %q", got, want)
		}
		status, err := w.daemon.Board.Status()
		must(t, err)
		if want := w.begun.Add(73*time.Hour + 30*time.Minute); !status.VMs[0].Next.Equal(want) {
			t.Errorf("next %v, want %v", status.VMs[0].Next, want)
		}
	})
}

// A group's VMs come and go with what its hosts find.
func TestDaemonFindsMembers(t *testing.T) {
	j, err := journal.Open(t.TempDir())
	must(t, err)
	synctest.Test(t, func(t *testing.T) {
		var found []string
		var trouble error
		w := newTower(t, j, agent.Group{Name: "nightly", Schedule: every(t, "30 1 * * *"),
			Members: func(context.Context) ([]string, error) {
				switch time.Now().Day() {
				case 2, 3:
					found = []string{"kvm/new", "kvm/web"}
				case 4:
					trouble = errors.New("no libvirt")
				}
				return found, trouble
			}})
		got := w.during(t, 74*time.Hour)
		if want := []string{"nightly 25h30m0s", "nightly 49h30m0s", "nightly 73h30m0s"}; !slices.Equal(got, want) {
			t.Errorf("ran %q, want %q", got, want)
		}
		status, err := w.daemon.Board.Status()
		must(t, err)
		if len(status.VMs) != 2 || status.VMs[1].VM != "kvm/web" {
			t.Errorf("status %+v", status.VMs)
		}
		if len(status.Groups) != 1 || status.Groups[0].LastError != "no libvirt" {
			t.Errorf("trouble %+v", status.Groups)
		}
	})
}

// A host that is down when the agent starts is asked until it answers, and what it missed
// is made up for then; the VMs of others do not wait for it.
func TestDaemonAsksUntilHostsAnswer(t *testing.T) {
	j, err := journal.Open(t.TempDir())
	must(t, err)
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		must(t, errors.Join(j.Record("b/late", journal.Result{Start: begun.Add(-48 * time.Hour)}), j.Record("a/here", journal.Result{Start: begun})))
		asked := 0
		w := newTower(t, j, agent.Group{Name: "nightly", Schedule: every(t, "30 1 * * *"), CatchUp: true,
			Members: func(context.Context) ([]string, error) {
				asked++
				if time.Since(begun) < 150*time.Second {
					return []string{"a/here"}, errors.New("b is down")
				}
				return []string{"a/here", "b/late"}, nil
			}})
		var told []agent.Event
		w.daemon.Runner.Observe = func(e agent.Event) { told = append(told, e) }
		got := w.during(t, 2*time.Hour)
		if want := []string{"nightly 3m0s", "nightly 1h30m0s"}; !slices.Equal(got, want) {
			t.Errorf("ran %q, want %q", got, want)
		}
		if asked != 5 || len(told) != 3 || told[0].Group != "nightly" || told[0].Error != "b is down" {
			t.Errorf("asked %d times, told %+v", asked, told)
		}
		status, err := w.daemon.Board.Status()
		must(t, err)
		if len(status.Groups) > 0 || len(status.VMs) != 2 {
			t.Errorf("status %+v", status)
		}
	})
}

func TestDaemonCatchesUp(t *testing.T) {
	j, err := journal.Open(t.TempDir())
	must(t, err)
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		must(t, j.Record("lab/missed", journal.Result{Start: now.Add(-48 * time.Hour)}))
		must(t, j.Record("lab/done", journal.Result{Start: now.Add(-time.Hour)}))
		group := agent.Group{Name: "nightly", Schedule: every(t, "0 12 * * *"), CatchUp: true, VMs: []string{"lab/missed", "lab/done", "lab/new"}}
		if got, want := newTower(t, j, group).during(t, time.Hour), []string{"nightly 0s"}; !slices.Equal(got, want) {
			t.Errorf("ran %q, want %q", got, want)
		}
		group.VMs = []string{"lab/done", "lab/new"}
		if got := newTower(t, j, group).during(t, time.Hour); len(got) > 0 {
			t.Errorf("ran %q, and nothing was missed", got)
		}
	})
}

// A daemon that is told to stop ends the run in progress and merges its deltas.
func TestDaemonStopsCleanly(t *testing.T) {
	w := newWorld(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	w.hear = func(e agent.Event) {
		if e.Step == agent.StepThawed {
			cancel()
		}
	}
	groups := []agent.Group{{
		Name: "often", Schedule: every(t, "@every 1s"), VMs: []string{vmName},
		Open: func(context.Context, []string) ([]agent.Job, func() error, error) {
			return []agent.Job{w.job()}, func() error { return nil }, nil
		},
	}}
	d := &agent.Daemon{
		Runner: w.runner, Groups: groups, Parallel: 1, Resolve: w.resolve, Log: w.runner.Log, Ready: func() {},
		Board: agent.NewBoard("test", os.Getpid(), time.Now(), w.journal, groups),
	}
	must(t, d.Run(ctx))
	w.tidy()
	points, err := w.repo.Points(t.Context(), "")
	if err != nil || len(points) != 0 {
		t.Errorf("%d points, %v; the run was to be ended", len(points), err)
	}
}

// A run that waits for its next attempt lets another have its place, and gets it back.
func TestDaemonRunsOthersMeanwhile(t *testing.T) {
	waits, other := newWorld(t), newWorld(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var steps []string
	note := func(e agent.Event) {
		switch e.Step {
		case agent.StepRetrying, agent.StepTaken, agent.StepFailed:
			steps = append(steps, fmt.Sprint(e.VM, " ", e.Step))
		case agent.StepDone:
			if steps = append(steps, fmt.Sprint(e.VM, " ", e.Step)); e.VM == vmName {
				cancel()
			}
		}
	}
	var mu sync.Mutex
	waits.hear = func(e agent.Event) {
		mu.Lock()
		defer mu.Unlock()
		note(e)
	}
	first, second := waits.job(), other.job()
	second.Name = "lab/db"
	app := quiescetest.App("db").On(quiescetest.Prepare, quiescetest.Act{
		Err: &quiesce.Failure{Class: quiesce.Retryable, Err: errors.New("a checkpoint runs")}, Times: 1,
	})
	first.Policy = quiesce.Policy{
		Ladder: []quiesce.Level{quiesce.LevelApplication}, Floor: quiesce.LevelApplication,
		Retry: quiesce.Retry{Attempts: 2, Delay: 100 * time.Millisecond, Until: time.Hour},
	}
	first.Writers = func(context.Context, snapshot.Guest) ([]quiesce.Writer, func() error, error) {
		return []quiesce.Writer{app}, func() error { return nil }, nil
	}
	// It has the place until the first run waits for it, however long the other takes.
	files := second.Writers
	second.Writers = func(ctx context.Context, g snapshot.Guest) ([]quiesce.Writer, func() error, error) {
		w, end, err := files(ctx, g)
		w = append(w, quiescetest.App("slow").On(quiescetest.Prepare, quiescetest.Act{Delay: 200 * time.Millisecond}))
		return w, end, err
	}
	groups := []agent.Group{{
		Name: "nightly", Schedule: every(t, "@every 1s"), VMs: []string{vmName, second.Name},
		Open: func(context.Context, []string) ([]agent.Job, func() error, error) {
			return []agent.Job{first, second}, func() error { return nil }, nil
		},
	}}
	d := &agent.Daemon{
		Runner: waits.runner, Groups: groups, Parallel: 1, Resolve: waits.resolve, Log: waits.runner.Log, Ready: func() {},
		Board: agent.NewBoard("test", os.Getpid(), time.Now(), waits.journal, groups),
	}
	must(t, d.Run(ctx))
	want := []string{
		vmName + " retrying", "lab/db taken", "lab/db done", vmName + " taken", vmName + " done",
	}
	if !slices.Equal(steps, want) {
		t.Errorf("steps %q, want %q", steps, want)
	}
	waits.tidy()
	other.tidy()
}
