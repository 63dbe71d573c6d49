package agent_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/lull-backup/lull/agent"
	"github.com/lull-backup/lull/snapshot/snapshottest"
	"github.com/lull-backup/lull/transport/blob/mem"
	"github.com/lull-backup/lull/transport/repo"
)

// tracked is a world with a first point, and disks that are known to have hardly
// changed since.
func tracked(t *testing.T) *world {
	t.Helper()
	w := newWorld(t)
	w.point(w.job())
	w.write(5)
	return w
}

// write changes a page of the disk root.
func (w *world) write(fill byte) {
	w.t.Helper()
	p := bytes.Repeat([]byte{fill}, 4096)
	must(w.t, w.fake.Write("web", "root", 1<<20, p))
	copy(w.disks["root"][1<<20:], p)
}

// point makes a point, which restores to what the disks hold.
func (w *world) point(job agent.Job) agent.Result {
	w.t.Helper()
	res, err := w.runner.Backup(w.t.Context(), job)
	must(w.t, err)
	w.wantRestored(res.Point)
	w.tidy()
	return res
}

// wantFull wants that the disk root was read whole, for a reason with these words.
func (w *world) wantFull(res agent.Result, words string) {
	w.t.Helper()
	if got := res.Point.Disks[0].Tracking; got.Used || !strings.Contains(got.Reason, words) || !got.Whole.Equal(res.Point.Frozen) {
		w.t.Errorf("read by %+v, want all read: %s", got, words)
	}
}

func (w *world) wantTracked(res agent.Result) {
	w.t.Helper()
	if got := res.Point.Disks[0].Tracking; !got.Used || got.Record == "" || got.Reason != "" {
		w.t.Errorf("read by %+v, want only what changed", got)
	}
}

func TestTracked(t *testing.T) {
	w := newWorld(t)
	w.disks["root"] = bytes.Repeat([]byte{1}, 64<<20)
	w.fake = snapshottest.NewFake(snapshottest.FakeVM{
		Name: "web", Disks: []snapshottest.FakeDisk{{Name: "root", Content: w.disks["root"]}, {Name: "data", Content: w.disks["data"]}},
	})
	w.point(w.job())
	w.write(5)
	res := w.point(w.job())
	w.wantTracked(res)
	if res.Point.Stats.Read > 30<<20 || res.Point.Disks[0].Tracking.Changed != 4096 {
		t.Errorf("read %d bytes: %+v", res.Point.Stats.Read, res.Point.Disks[0].Tracking)
	}
	last, err := w.journal.Last(vmName)
	if want := "4.0 KiB of 69 MiB changed on root, data"; err != nil || last.Tracking != want {
		t.Errorf("recorded: %q, %v, want %q", last.Tracking, err, want)
	}
}

// A run that fails leaves the record of the point before, wherever it fails.
func TestTrackedAfterFailure(t *testing.T) {
	for _, call := range []string{"Prepare", "Take", "Open", "Disk", "Changes", "ReadAt"} {
		t.Run(call, func(t *testing.T) {
			w := tracked(t)
			w.fake.Inject(snapshottest.Fault{Call: call, Err: errors.New("broken")})
			if _, err := w.runner.Backup(t.Context(), w.job()); err == nil {
				t.Error("no error")
			}
			w.fake.Heal()
			w.write(6)
			w.wantTracked(w.point(w.job()))
		})
	}
}

// What can be done without is no reason to have no point.
func TestUntracked(t *testing.T) {
	for call, reason := range map[string]string{"Track": "read in full", "Settle": ""} {
		t.Run(call, func(t *testing.T) {
			w := tracked(t)
			w.fake.Inject(snapshottest.Fault{Call: call, Times: 1, Err: errors.New("broken")})
			res := w.point(w.job())
			if got := strings.Join(res.Warnings, "; "); !strings.Contains(got, reason) || reason == "" && got != "" {
				t.Errorf("warnings: %q", got)
			}
			w.write(7)
			w.point(w.job())
			w.wantTracked(w.point(w.job()))
		})
	}
}

// Each of these makes what a record says untrue, or nothing to build on.
func TestReadInFull(t *testing.T) {
	for name, c := range map[string]struct {
		happen func(w *world)
		words  string
	}{
		"records lost": {func(w *world) { w.fake.Lose("web") }, "gone"},
		"the last point is forgotten": {func(w *world) {
			last := w.point(w.job())
			must(w.t, w.repo.Forget(w.t.Context(), []repo.Point{last.Point}))
		}, "gone"},
		"all points are forgotten": {func(w *world) {
			points, err := w.repo.Points(w.t.Context(), vmName)
			must(w.t, err)
			must(w.t, w.repo.Forget(w.t.Context(), points))
		}, "first"},
		"the last point is damaged": {func(w *world) {
			id := strings.ToLower(w.point(w.job()).Point.ID)
			for _, name := range w.objects.Names() {
				if strings.HasSuffix(name, id) {
					w.objects.Damage(name, func(b []byte) []byte { b[len(b)-1]++; return b })
				}
			}
		}, "gone"},
		"the repository is another": {func(w *world) {
			w.objects = mem.New()
			_, err := repo.Init(w.t.Context(), w.objects, repo.InitOptions{Passphrase: []byte("x"), Cost: repo.Cost{Time: 1, Memory: 8 << 10, Threads: 1}})
			must(w.t, err)
			w.repo = w.open(w.objects)
		}, "first"},
	} {
		t.Run(name, func(t *testing.T) {
			w := tracked(t)
			c.happen(w)
			w.write(8)
			w.wantFull(w.point(w.job()), c.words)
			w.write(9)
			w.wantTracked(w.point(w.job()))
		})
	}
}

// Two repositories hold points of one VM, each with records of its own.
func TestTrackedTwice(t *testing.T) {
	w := tracked(t)
	store := mem.New()
	_, err := repo.Init(t.Context(), store, repo.InitOptions{Passphrase: []byte("x"), Cost: repo.Cost{Time: 1, Memory: 8 << 10, Threads: 1}})
	must(t, err)
	first, second := w.repo, w.open(store)
	other := w.job()
	other.Repository = second
	w.repo = second
	w.point(other)
	w.write(6)
	w.repo = first
	w.wantTracked(w.point(w.job()))
	w.write(7)
	w.repo = second
	w.wantTracked(w.point(other))
}

// A disk whose content moved unseen is found out by an audit, which fails and leaves a
// right point, and no record that anything relies on.
func TestAudit(t *testing.T) {
	w := tracked(t)
	job := w.job()
	job.Tracking.Audit = true
	res := w.point(job)
	w.wantFull(res, "the record is true")
	p := bytes.Repeat([]byte{3}, 4096)
	must(t, w.fake.Tamper("web", "root", 5<<20, p))
	copy(w.disks["root"][5<<20:], p)
	res, err := w.runner.Backup(t.Context(), job)
	var hinted interface{ Hint() string }
	if !errors.Is(err, agent.ErrUntrue) || !errors.As(err, &hinted) || !strings.Contains(hinted.Hint(), res.Point.ID) {
		t.Errorf("an audit of what is untrue: %v", err)
	}
	w.wantRestored(res.Point)
	w.tidy()
	if got := res.Point.Disks[0].Tracking; got.Record != "" || got.Untrue != 4<<20 {
		t.Errorf("tracking: %+v", got)
	}
	w.wantProvenAnew()
}

// wantProvenAnew wants two runs to read all after a record was untrue: one that has none,
// and the audit of the one that came next.
func (w *world) wantProvenAnew() {
	w.t.Helper()
	w.wantFull(w.point(w.job()), "nothing recorded")
	w.write(11)
	res := w.point(w.job())
	w.wantFull(res, "the record is true")
	if res.Point.Disks[0].Tracking.Doubted {
		w.t.Error("doubted after an audit")
	}
	w.write(12)
	w.wantTracked(w.point(w.job()))
}

// A record that a sample finds untrue is believed as little as one that an audit does.
func TestUntrueSample(t *testing.T) {
	w := tracked(t)
	w.point(w.job())
	p := bytes.Repeat([]byte{3}, 4096)
	must(t, w.fake.Tamper("web", "root", 5<<20, p)) // in the last window of data, which is always sampled
	copy(w.disks["root"][5<<20:], p)
	res := w.point(w.job())
	if got := res.Point.Disks[0].Tracking; got.Used || got.Record != "" || got.Untrue == 0 || !got.Doubted {
		t.Errorf("tracking: %+v", got)
	}
	if got := strings.Join(res.Warnings, "; "); !strings.Contains(got, "may lack changes") || !strings.Contains(got, res.Point.ID) {
		t.Errorf("warnings: %q", got)
	}
	w.wantProvenAnew()
}

// The schedule asks for an audit when a disk was not read whole for long.
func TestAuditIsDue(t *testing.T) {
	w := tracked(t)
	start := time.Now()
	job := w.job()
	job.Tracking.Every = time.Hour
	at := func(d time.Duration) agent.Result {
		w.runner.Now = func() time.Time { return start.Add(d) }
		return w.point(job)
	}
	w.wantTracked(at(30 * time.Minute))
	w.wantTracked(at(45 * time.Minute))
	w.wantFull(at(61*time.Minute), "audit")
	w.wantTracked(at(90 * time.Minute))
}

// Switched off, nothing is recorded, and what was is removed.
func TestTrackingOff(t *testing.T) {
	w := tracked(t)
	job := w.job()
	job.Tracking.Off = true
	res := w.point(job)
	w.wantFull(res, "off")
	if got := res.Point.Disks[0].Tracking.Record; got != "" {
		t.Errorf("recorded as %s", got)
	}
	w.wantFull(w.point(w.job()), "nothing recorded")
}

// What a point of another key says of a record is not believed: whoever can write to the
// repository could make it say that anything is unchanged.
func TestAnothersRecord(t *testing.T) {
	w := tracked(t)
	own := w.repo
	w.as(repo.RoleBackup | repo.RoleRestore)
	res, err := w.runner.Backup(t.Context(), w.job())
	must(t, err)
	w.wantFull(res, "another key")
	w.repo = own
	if res, err = w.runner.Backup(t.Context(), w.job()); err != nil {
		t.Fatal(err)
	}
	w.wantFull(res, "another key")
	w.wantRestored(res.Point)
}

// A host that can read nothing of what is stored keeps the maps to build upon.
func TestTrackedByBackupKey(t *testing.T) {
	w := tracked(t)
	owner := w.repo
	w.as(repo.RoleBackup)
	backup := func() agent.Result {
		res, err := w.runner.Backup(t.Context(), w.job())
		must(t, err)
		mine := w.repo
		w.repo = owner
		w.wantRestored(res.Point)
		w.repo = mine
		w.write(byte(len(w.events)))
		return res
	}
	w.wantFull(backup(), "first") // of which it knows
	w.wantTracked(backup())
	w.wantTracked(backup())
}
