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
	"github.com/lull-backup/lull/quiesce"
	"github.com/lull-backup/lull/quiesce/quiescetest"
	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/snapshottest"
	"github.com/lull-backup/lull/transport"
	"github.com/lull-backup/lull/transport/blob"
	"github.com/lull-backup/lull/transport/blob/faults"
	"github.com/lull-backup/lull/transport/repo"
)

func TestBackup(t *testing.T) {
	w := newWorld(t)
	res, err := w.runner.Backup(t.Context(), w.job())
	must(t, err)
	want := []agent.Step{
		agent.StepStarted, agent.StepPlanned, agent.StepJournaled, agent.StepPrepared, agent.StepFreezing,
		agent.StepFrozen, agent.StepTaken, agent.StepThawed, agent.StepReading, agent.StepRead, agent.StepMerging,
		agent.StepMerged, agent.StepCommitted, agent.StepForgotten, agent.StepDone,
	}
	if diff := cmp.Diff(want, w.steps()); diff != "" {
		t.Errorf("steps (-want +got):\n%s", diff)
	}
	if res.Point.Quiesce.Level != quiesce.LevelFilesystem || len(res.Warnings) > 0 {
		t.Errorf("level %v, warnings %q", res.Point.Quiesce.Level, res.Warnings)
	}
	w.tidy()
	w.wantRestored(res.Point)
	nvram, err := transport.RestoreBytes(t.Context(), w.repo, res.Point.Files[0].Root, 100)
	if err != nil || string(nvram) != "nvram of web" {
		t.Errorf("nvram %q, %v", nvram, err)
	}
	last, err := w.journal.Last(vmName)
	if err != nil || last.Point != res.Point.ID || last.Error != "" || last.Success.IsZero() {
		t.Errorf("last result %+v, %v", last, err)
	}
}

func TestFrozenBytesDoNotMove(t *testing.T) {
	w := newWorld(t)
	w.hear = func(e agent.Event) {
		if e.Step == agent.StepThawed {
			must(t, w.fake.Write("web", "root", 4096, []byte("written after the freeze")))
		}
	}
	res, err := w.runner.Backup(t.Context(), w.job())
	must(t, err)
	w.wantRestored(res.Point)

	// What the guest wrote meanwhile is on its disk, and in the next point.
	copy(w.disks["root"][4096:], "written after the freeze")
	w.hear = nil
	next, err := w.runner.Backup(t.Context(), w.job())
	must(t, err)
	w.wantRestored(next.Point)
	if next.Point.Parent != res.Point.ID {
		t.Errorf("parent %q, want %q", next.Point.Parent, res.Point.ID)
	}
	if s := next.Point.Stats; s.NewBlocks == 0 || s.NewBlocks > 4 {
		t.Errorf("one changed page made %d new blocks", s.NewBlocks)
	}
}

// Whatever call fails, in whatever way, the guest goes on, the chain is as
// before, and there is a point or an error.
func TestEveryCallFails(t *testing.T) {
	for _, call := range []string{"Plan", "Prepare", "Take", "Open", "Disk", "File", "Extents", "ReadAt", "Watch", "Guest", "Freeze", "Thaw", "Frozen", "Info"} {
		for _, late := range []bool{false, true} {
			t.Run(call+map[bool]string{true: "-late"}[late], func(t *testing.T) {
				w := newWorld(t)
				w.fake.Inject(snapshottest.Fault{Call: call, Times: 1, Err: errors.New("injected"), Late: late})
				res, err := w.runner.Backup(t.Context(), w.job())
				if err == nil {
					w.wantRestored(res.Point)
				} else if points, perr := w.repo.Points(t.Context(), ""); perr != nil || len(points) > 0 {
					t.Errorf("failed run left %d points, %v", len(points), perr)
				}
				w.tidy()
			})
		}
	}
}

// A merge that fails leaves the journal entry, and the next start repairs.
func TestMergeFails(t *testing.T) {
	w := newWorld(t)
	w.fake.Inject(snapshottest.Fault{Call: "Merge", Times: 2, Err: snapshot.ErrNoSpace})
	res, err := w.runner.Backup(t.Context(), w.job())
	if !errors.Is(err, snapshot.ErrNoSpace) || res.Point.ID == "" {
		t.Fatalf("point %q, error %v", res.Point.ID, err)
	}
	w.wantRestored(res.Point)
	if err := w.runner.Recover(t.Context(), w.resolve); !errors.Is(err, snapshot.ErrNoSpace) {
		t.Fatalf("recover: %v", err)
	}
	must(t, w.runner.Recover(t.Context(), w.resolve))
	w.tidy()
}

// The next backup of a VM repairs what the run before owes.
func TestBackupRecoversFirst(t *testing.T) {
	w := newWorld(t)
	w.fake.Inject(snapshottest.Fault{Call: "Merge", Times: 1, Err: snapshot.ErrNoSpace})
	if _, err := w.runner.Backup(t.Context(), w.job()); err == nil {
		t.Fatal("no error from a failed merge")
	}
	res, err := w.runner.Backup(t.Context(), w.job())
	must(t, err)
	w.wantRestored(res.Point)
	w.tidy()
}

func TestTroubleEndsTheReading(t *testing.T) {
	for _, trouble := range []error{snapshot.ErrNoSpace, snapshot.ErrGone} {
		w := newWorld(t)
		w.fake.Inject(snapshottest.Fault{Call: "Watch", Err: trouble})
		w.fake.Inject(snapshottest.Fault{Call: "ReadAt", Hang: true})
		if _, err := w.runner.Backup(t.Context(), w.job()); !errors.Is(err, trouble) {
			t.Errorf("error %v, want %v", err, trouble)
		}
		w.tidy()
	}
}

func TestCancelled(t *testing.T) {
	for _, at := range []agent.Step{agent.StepStarted, agent.StepPrepared, agent.StepFreezing, agent.StepFrozen, agent.StepTaken, agent.StepThawed, agent.StepRead} {
		t.Run(string(at), func(t *testing.T) {
			w := newWorld(t)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			w.hear = func(e agent.Event) {
				if e.Step == at {
					cancel()
				}
			}
			if _, err := w.runner.Backup(ctx, w.job()); !errors.Is(err, context.Canceled) {
				t.Errorf("error %v", err)
			}
			w.tidy()
		})
	}
}

func TestStoreFails(t *testing.T) {
	w := newWorld(t)
	w.store.Add(faults.Fault{Op: faults.Create, Before: blob.ErrNoSpace})
	if _, err := w.runner.Backup(t.Context(), w.job()); !errors.Is(err, blob.ErrNoSpace) {
		t.Errorf("error %v", err)
	}
	w.tidy()
}

func TestSecondRunOfOneVM(t *testing.T) {
	w := newWorld(t)
	lock, err := w.journal.Lock(vmName)
	must(t, err)
	if _, err := w.runner.Backup(t.Context(), w.job()); !errors.Is(err, journal.ErrLocked) {
		t.Errorf("error %v", err)
	}
	if calls := w.fake.Calls(); len(calls) > 0 {
		t.Errorf("a locked VM was touched: %v", calls)
	}
	lock.Unlock()
	_, err = w.runner.Backup(t.Context(), w.job())
	must(t, err)
}

func TestBelowTheAskedLevel(t *testing.T) {
	w := newWorld(t)
	w.fake.Inject(snapshottest.Fault{Call: "Freeze", Err: errors.New("no room")})
	res, err := w.runner.Backup(t.Context(), w.job())
	must(t, err)
	if res.Point.Quiesce.Level != quiesce.LevelCrash || !strings.Contains(strings.Join(res.Warnings, "\n"), "no room") {
		t.Errorf("level %v, warnings %q", res.Point.Quiesce.Level, res.Warnings)
	}
	w.tidy()

	job := w.job()
	job.Policy.Floor = quiesce.LevelFilesystem
	if _, err := w.runner.Backup(t.Context(), job); !errors.Is(err, quiesce.ErrBelowFloor) {
		t.Errorf("error %v", err)
	}
	w.tidy()
}

// A restore point that is damaged stops no backup: the next one says so, and
// builds on the newest that is good.
func TestDamagedPoint(t *testing.T) {
	w := newWorld(t)
	_, err := w.runner.Backup(t.Context(), w.job())
	must(t, err)
	bad, err := w.runner.Backup(t.Context(), w.job())
	must(t, err)
	for _, name := range w.objects.Names() {
		if strings.HasPrefix(name, "points/") && strings.HasSuffix(name, strings.ToLower(bad.Point.ID)) {
			w.objects.Damage(name, func([]byte) []byte { return []byte("damaged") })
		}
	}
	res, err := w.runner.Backup(t.Context(), w.job())
	must(t, err)
	w.wantRestored(res.Point)
	if len(res.Warnings) != 1 || !strings.Contains(res.Warnings[0], "damaged") {
		t.Errorf("warnings %q", res.Warnings)
	}
	w.tidy()
}

// A guest that cannot answer is not asked, and that says so in the point.
func TestPausedVM(t *testing.T) {
	w := newWorld(t)
	w.fake = snapshottest.NewFake(snapshottest.FakeVM{Name: "web", State: snapshot.StatePaused,
		Disks: []snapshottest.FakeDisk{{Name: "root", Content: w.disks["root"]}}})
	res, err := w.runner.Backup(t.Context(), w.job())
	must(t, err)
	if res.Point.Quiesce.Level != quiesce.LevelCrash || !strings.Contains(strings.Join(res.Warnings, "\n"), "paused") {
		t.Errorf("level %v, warnings %q", res.Point.Quiesce.Level, res.Warnings)
	}
	if slices.Contains(w.fake.Calls(), "web Guest") {
		t.Error("the guest was asked")
	}
	w.tidy()
}

// What a crash left is repaired by a process that knows nothing but the journal.
func TestRecoverAfterCrash(t *testing.T) {
	w := newWorld(t)
	host := w.fake.Host()
	plan, err := host.Plan(t.Context(), "web", "20261121T013000Z-0badf00d")
	must(t, err)
	must(t, w.journal.Write(journal.Entry{Run: plan.Run, VM: vmName, Plan: plan, FreezeSent: true, Started: time.Now()}))
	must(t, host.Prepare(t.Context(), plan))
	if _, err := w.fake.FakeGuest("web").FreezeFilesystems(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	must(t, host.Take(t.Context(), plan))
	tape := &quiescetest.Tape{}
	app := quiescetest.App("db")
	app.Tape = tape
	w.runner.Writers = func(vm string) agent.Writers {
		if vm != vmName {
			t.Errorf("writers of %s", vm)
		}
		return func(context.Context, snapshot.Guest) ([]quiesce.Writer, func() error, error) {
			return []quiesce.Writer{app}, func() error { return nil }, nil
		}
	}

	must(t, w.runner.Recover(t.Context(), w.resolve))
	w.tidy()
	if diff := cmp.Diff([]string{"db " + string(quiescetest.Abort)}, tape.Calls()); diff != "" {
		t.Errorf("asked of the writers (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]agent.Step{agent.StepRecovering, agent.StepRecovered}, w.steps()); diff != "" {
		t.Errorf("steps (-want +got):\n%s", diff)
	}
	must(t, w.runner.Recover(t.Context(), w.resolve))
}

// A guest whose agent cannot be reached any more is not taken for thawed while its VM
// still runs.
func TestRecoverWithoutGuest(t *testing.T) {
	w := newWorld(t)
	host := w.fake.Host()
	plan, err := host.Plan(t.Context(), "web", "20261121T013000Z-0badf00d")
	must(t, err)
	must(t, w.journal.Write(journal.Entry{Run: plan.Run, VM: vmName, Plan: plan, FreezeSent: true, Started: time.Now()}))
	must(t, host.Prepare(t.Context(), plan))
	w.fake.Inject(snapshottest.Fault{Call: "Guest", Times: 1, Err: snapshot.ErrNoGuest})
	if err := w.runner.Recover(t.Context(), w.resolve); !errors.Is(err, snapshot.ErrNoGuest) || !strings.Contains(err.Error(), "may be frozen") {
		t.Fatalf("recover: %v", err)
	}
	if e, found, err := w.journal.Read(vmName); err != nil || !found || !e.FreezeSent {
		t.Errorf("journal: %+v, %v, %v", e, found, err)
	}
	must(t, w.runner.Recover(t.Context(), w.resolve))
	w.tidy()
}

// A VM without a way into its guest owes no thaw.
func TestNoGuestOwesNoThaw(t *testing.T) {
	w := newWorld(t)
	w.fake.Inject(snapshottest.Fault{Call: "Guest", Times: 1, Err: snapshot.ErrNoGuest})
	w.hear = func(e agent.Event) {
		if entry, found, err := w.journal.Read(vmName); e.Step == agent.StepTaken && (err != nil || !found || entry.FreezeSent) {
			t.Errorf("journal: %+v, %v, %v", entry, found, err)
		}
	}
	_, err := w.runner.Backup(t.Context(), w.job())
	must(t, err)
	w.tidy()
}

func TestPointIsNamedInList(t *testing.T) {
	w := newWorld(t)
	res, err := w.runner.Backup(t.Context(), w.job())
	must(t, err)
	points, err := w.repo.Points(t.Context(), vmName)
	must(t, err)
	if diff := cmp.Diff([]repo.Point{res.Point}, points); diff != "" {
		t.Errorf("points (-made +listed):\n%s", diff)
	}
}

// Firmware variables that changed at the very instant are kept, and the point's run
// says that they are not exact.
func TestInexactVariables(t *testing.T) {
	w := newWorld(t)
	w.fake.Inject(snapshottest.Fault{Call: "File", Late: true, Err: snapshot.ErrInexact})
	res, err := w.runner.Backup(t.Context(), w.job())
	must(t, err)
	if len(res.Point.Files) != 1 || len(res.Warnings) != 1 || !strings.Contains(res.Warnings[0], "changed while the disks froze") {
		t.Fatalf("files %+v, warnings %q", res.Point.Files, res.Warnings)
	}
	last, err := w.journal.Last(vmName)
	must(t, err)
	if last.Level != res.Point.Quiesce.Level.String() || last.Warned != 1 || !slices.Equal(last.Warnings, res.Warnings) {
		t.Errorf("on record: %+v", last)
	}
	data, err := transport.RestoreBytes(t.Context(), w.repo, res.Point.Files[0].Root, 1<<20)
	if err != nil || string(data) != "nvram of web" {
		t.Errorf("restored %q, %v", data, err)
	}
}
