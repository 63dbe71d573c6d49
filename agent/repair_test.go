package agent_test

import (
	"context"
	"errors"
	"os"
	"path"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lull-backup/lull/agent"
	"github.com/lull-backup/lull/agent/control"
	"github.com/lull-backup/lull/agent/journal"
	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/snapshottest"
)

// pair is a world of two VMs, each of which a run left frozen with a delta.
func pair(t *testing.T) *world {
	t.Helper()
	w := newWorld(t)
	var vms []snapshottest.FakeVM
	for _, name := range []string{"one", "two"} {
		vms = append(vms, snapshottest.FakeVM{Name: name, Disks: []snapshottest.FakeDisk{{Name: "root", Content: w.disks["root"]}}})
	}
	w.fake = snapshottest.NewFake(vms...)
	for _, vm := range vms {
		host := w.fake.Host()
		plan, err := host.Plan(t.Context(), vm.Name, "20261121T013000Z-0badf00d")
		must(t, err)
		must(t, w.journal.Write(journal.Entry{Run: plan.Run, VM: "lab/" + vm.Name, Plan: plan, FreezeSent: true, Started: time.Now()}))
		must(t, host.Prepare(t.Context(), plan))
		if _, err := w.fake.FakeGuest(vm.Name).FreezeFilesystems(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
	}
	return w
}

func (w *world) resolvePair(name string) (snapshot.Host, string, error) {
	return w.fake.Host(), path.Base(name), nil
}

// repaired is closed once a VM is repaired.
func (w *world) repaired(vm string) <-chan struct{} {
	done := make(chan struct{})
	var once sync.Once
	w.hear = func(e agent.Event) {
		if e.VM == vm && e.Step == agent.StepRecovered {
			once.Do(func() { close(done) })
		}
	}
	return done
}

func await(t *testing.T, what string, done <-chan struct{}) {
	t.Helper()
	select {
	case <-done:
	case <-time.After(time.Minute):
		t.Fatalf("%s: not within a minute", what)
	}
}

// A merge that hangs, or a guest that is silent, keeps no other guest frozen.
func TestRecoverAllAtOnce(t *testing.T) {
	w := pair(t)
	w.fake.Inject(snapshottest.Fault{Call: "Merge", VM: "one", Hang: true})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := w.repaired("lab/two")
	d := &agent.Daemon{Runner: w.runner, Resolve: w.resolvePair, Log: w.runner.Log, Ready: func() {},
		Board: agent.NewBoard("test", os.Getpid(), time.Now(), w.journal, nil)}
	ended := make(chan error, 1)
	go func() { ended <- d.Run(ctx) }()
	await(t, "repair of lab/two", done)
	cancel()
	must(t, <-ended)
	w.fake.Heal()
	must(t, w.runner.Recover(t.Context(), w.resolvePair))
	w.tidy()
}

// A repair that fails is no run that goes on.
func TestFailedRepairIsNotShown(t *testing.T) {
	w := pair(t)
	board := agent.NewBoard("test", os.Getpid(), time.Now(), w.journal, nil)
	w.hear = board.Hear
	w.fake.Inject(snapshottest.Fault{Call: "Merge", VM: "one", Err: snapshot.ErrDiverged})
	if err := w.runner.Recover(t.Context(), w.resolvePair); !errors.Is(err, snapshot.ErrDiverged) {
		t.Errorf("recover: %v", err)
	}
	status, err := board.Status()
	if err != nil || len(status.Runs) > 0 {
		t.Errorf("shown as running: %+v, %v", status.Runs, err)
	}
}

// A panic over one VM is an error of that VM.
func TestRecoverContainsPanic(t *testing.T) {
	w := pair(t)
	w.fake.Inject(snapshottest.Fault{Call: "Merge", VM: "one", Times: 1, Do: func() { panic("boo") }})
	if err := w.runner.Recover(t.Context(), w.resolvePair); err == nil {
		t.Error("no error")
	}
	pending, err := w.journal.Pending()
	if err != nil || len(pending) != 1 || pending[0].VM != "lab/one" {
		t.Errorf("journal: %+v, %v", pending, err)
	}
	must(t, w.runner.Recover(t.Context(), w.resolvePair))
	w.tidy()
}

// A run of the schedule waits for the repair of its VM instead of failing.
func TestRunWaitsForRepair(t *testing.T) {
	w := newWorld(t)
	w.fake.Inject(snapshottest.Fault{Call: "Merge", Times: 1, Err: snapshot.ErrNoSpace})
	if _, err := w.runner.Backup(t.Context(), w.job()); err == nil {
		t.Fatal("no error from a failed merge")
	}
	merging, goOn := make(chan struct{}), make(chan struct{})
	w.fake.Inject(snapshottest.Fault{Call: "Merge", Times: 1, Do: func() { close(merging); <-goOn }})
	var both sync.WaitGroup
	both.Go(func() {
		if err := w.runner.Recover(t.Context(), w.resolve); err != nil {
			t.Errorf("recover: %v", err)
		}
	})
	await(t, "the repair's merge", merging)
	both.Go(func() {
		if _, err := w.runner.Backup(t.Context(), w.job()); err != nil {
			t.Errorf("backup: %v", err)
		}
	})
	// Who gives up while it waits says so.
	late, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := w.runner.Backup(late, w.job()); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("backup that gave up: %v", err)
	}
	close(goOn)
	both.Wait()
	w.tidy()
}

// What hangs over one VM delays neither the daemon's start nor its other groups,
// and a run that panics ends alone.
func TestDaemonIsNotHeldUp(t *testing.T) {
	w := pair(t)
	w.fake.Inject(snapshottest.Fault{Call: "Merge", VM: "one", Hang: true})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ready, again := make(chan struct{}), make(chan struct{})
	opened := 0
	groups := []agent.Group{{
		Name: "often", Schedule: every(t, "@every 1s"), VMs: []string{"lab/two"},
		Open: func(context.Context, []string) ([]agent.Job, func() error, error) {
			if opened++; opened == 3 {
				close(again)
			}
			job := w.job()
			job.Name, job.VM, job.Host = "lab/two", "two", panicking{w.fake.Host()}
			return []agent.Job{job}, func() error { return nil }, nil
		},
	}}
	d := &agent.Daemon{
		Runner: w.runner, Groups: groups, Parallel: 1, Resolve: w.resolvePair, Log: w.runner.Log, Ready: func() { close(ready) },
		Board: agent.NewBoard("test", os.Getpid(), time.Now(), w.journal, groups),
	}
	ended := make(chan error, 1)
	go func() { ended <- d.Run(ctx) }()
	await(t, "ready", ready)
	await(t, "a run after one that panicked", again)
	cancel()
	must(t, <-ended)
	last, err := w.journal.Last("lab/two")
	if err != nil || last.Error == "" {
		t.Errorf("last result: %+v, %v", last, err)
	}
}

// panicking is a host whose VMs cannot be planned.
type panicking struct{ snapshot.Host }

func (panicking) Plan(context.Context, string, string) (snapshot.Plan, error) { panic("boo") }

// A guest that a run has frozen ends with its VM: started anew, the VM owes no
// proof, and an agent in it that never answers blocks nothing.
func TestRecoverAfterColdStart(t *testing.T) {
	w := pair(t)
	for _, call := range []string{"Info", "Thaw", "Frozen"} {
		w.fake.Inject(snapshottest.Fault{Call: call, VM: "one", Hang: true})
	}
	w.fake.Crash("one")
	w.fake.StartFromBase("one")
	must(t, w.runner.Recover(t.Context(), w.resolvePair))
	w.tidy()
}

// A VM that stands still as there is no room does not wait an hour once there is.
func TestRepairsForRoom(t *testing.T) {
	w := pair(t)
	synctest.Test(t, func(t *testing.T) {
		tries := 0
		w.fake.Inject(snapshottest.Fault{Call: "Merge", VM: "one", Err: snapshot.ErrNoSpace, Do: func() { tries++ }})
		w.repairs(t, time.Hour)
		if tries < 55 {
			t.Errorf("%d tries in an hour", tries)
		}
		w.fake.Heal()
		if status := w.repairs(t, time.Minute); len(status) > 0 {
			t.Errorf("status after the repair: %+v", status)
		}
	})
	w.tidy()
}

// A repair that fails is tried again ever more seldom, an hour apart at most, and
// status says how it goes.
func TestRepairsGetSeldom(t *testing.T) {
	w := pair(t)
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		var tries []time.Duration
		w.fake.Inject(snapshottest.Fault{Call: "Merge", VM: "one", Err: snapshot.ErrBusy,
			Do: func() { tries = append(tries, time.Since(begun).Round(time.Minute)) }})
		status := w.repairs(t, 4*time.Hour)
		want := []time.Duration{0, 1, 3, 7, 15, 31, 63, 123, 183}
		for i := range want {
			want[i] *= time.Minute
		}
		if diff := cmp.Diff(want, tries); diff != "" {
			t.Errorf("tries (-want +got):\n%s", diff)
		}
		if len(status) != 1 {
			t.Fatalf("repairs: %+v", status)
		}
		if s := status[0]; s.VM != "lab/one" || s.Tries != len(want) || !strings.Contains(s.LastError, "in use") ||
			!s.Next.Equal(begun.Add(243*time.Minute)) {
			t.Errorf("status: %+v", s)
		}
		w.fake.Heal()
		if status := w.repairs(t, time.Minute); len(status) > 0 {
			t.Errorf("status after the repair: %+v", status)
		}
	})
	w.tidy()
}

// A guest that may be frozen is not kept waiting for a repair.
func TestFrozenGuestIsFollowed(t *testing.T) {
	w := pair(t)
	synctest.Test(t, func(t *testing.T) {
		for _, call := range []string{"Thaw", "Frozen"} {
			w.fake.Inject(snapshottest.Fault{Call: call, VM: "one", Err: snapshot.ErrGuestSilent})
		}
		status := w.repairs(t, 4*time.Hour)
		if len(status) != 1 || status[0].Tries < 30 { // each takes five minutes of asking
			t.Errorf("status: %+v", status)
		}
		w.fake.Heal()
		w.repairs(t, time.Minute)
	})
	w.tidy()
}

// A guest that freezes for good while another VM's merge goes on is not kept waiting
// for that.
func TestRepairsDoNotWait(t *testing.T) {
	w := pair(t)
	two, found, err := w.journal.Read("lab/two")
	if must(t, err); !found {
		t.Fatal("no entry of lab/two")
	}
	must(t, w.journal.Remove("lab/two"))
	synctest.Test(t, func(t *testing.T) {
		w.fake.Inject(snapshottest.Fault{Call: "Merge", VM: "one", Hang: true})
		ctx, cancel := context.WithCancel(t.Context())
		d := &agent.Daemon{Runner: w.runner, Resolve: w.resolvePair, Log: w.runner.Log, Ready: func() {},
			Board: agent.NewBoard("test", os.Getpid(), time.Now(), w.journal, nil)}
		ended := make(chan error, 1)
		go func() { ended <- d.Run(ctx) }()
		synctest.Wait() // the merge of lab/one hangs
		must(t, w.journal.Write(two))
		time.Sleep(2 * time.Minute) // of the bubble
		if w.fake.Frozen("two") {
			t.Error("lab/two is frozen still")
		}
		cancel()
		must(t, <-ended)
		w.fake.Heal()
		w.repairs(t, time.Minute)
	})
	w.tidy()
}

// repairs runs a daemon without groups for a while and returns what it says then.
func (w *world) repairs(t *testing.T, long time.Duration) []control.RepairStatus {
	t.Helper()
	board := agent.NewBoard("test", os.Getpid(), time.Now(), w.journal, nil)
	w.hear = board.Hear
	run(t, &agent.Daemon{Runner: w.runner, Resolve: w.resolvePair, Board: board, Log: w.runner.Log, Ready: func() {}}, long)
	status, err := board.Status()
	must(t, err)
	return status.Repairs
}

// run lets a daemon serve for a while.
func run(t *testing.T, d *agent.Daemon, long time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), long)
	defer cancel()
	must(t, d.Run(ctx))
}
