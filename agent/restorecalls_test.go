package agent_test

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lull-backup/lull/agent"
	"github.com/lull-backup/lull/quiesce"
	"github.com/lull-backup/lull/quiesce/quiescetest"
	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/transport/repo"
)

// restorer is a writer that keeps what it hears of a restore.
type restorer struct {
	*quiescetest.Writer
	heard []string
	pre   error
	post  error
}

func (r *restorer) PreRestore(_ context.Context, q quiesce.RestoreRequest) error {
	r.heard = append(r.heard, "pre "+q.VM+" "+string(q.Document))
	return r.pre
}

func (r *restorer) PostRestore(_ context.Context, q quiesce.RestoreRequest) error {
	r.heard = append(r.heard, "post "+q.VM+" "+string(q.Document))
	return r.post
}

// definerOf defines a VM with this outcome.
type definerOf struct {
	prefixed
	outcome error
}

func (d definerOf) Define(context.Context, string, snapshot.Restored) error { return d.outcome }

// TestRestoreTellsWriters: a document comes back from where PostSnapshot left it.
func TestRestoreTellsWriters(t *testing.T) {
	w := newWorld(t)
	point := w.backupWithDocument()
	absent := &quiesce.Failure{Class: quiesce.NotPresent, Err: errors.New("no such server here")}
	both := []string{"pre lab/web lsn 42", "post lab/web lsn 42"}
	for _, test := range []struct {
		name      string
		missing   bool // from this host
		pre, post error
		defined   error // nil: nothing is
		heard     []string
		fails     string
		warns     string
	}{
		{name: "well", heard: both},
		{name: "missing", missing: true, warns: "writer db is not on this host"},
		{name: "not for it", pre: absent, heard: both},
		{name: "refuses", pre: errors.New("it runs here"), heard: both[:1], fails: "pre-restore: it runs here"},
		{name: "without memory", defined: snapshot.ErrNoMemory, heard: both, fails: snapshot.ErrNoMemory.Error()},
		{name: "not defined", defined: snapshot.ErrBusy, heard: both[:1], fails: snapshot.ErrBusy.Error()},
		{name: "stumbles", post: errors.New("no answer"), heard: both, warns: "post-restore: no answer"},
	} {
		t.Run(test.name, func(t *testing.T) {
			db, stopped := &restorer{pre: test.pre, post: test.post}, 0
			dir := filepath.Join(t.TempDir(), "vm")
			job := w.restoreJob(point, dir)
			job.Writer = func(_ context.Context, name string) (quiesce.Writer, func() error, error) {
				if test.missing || name != "db" {
					return nil, nil, nil
				}
				return db, func() error { stopped++; return nil }, nil
			}
			if test.defined != nil {
				job.Definer, job.Point.Hardware.Hypervisor = definerOf{outcome: test.defined}, "fake"
			}
			res, err := agent.Restore(t.Context(), job)
			if (err == nil) != (test.fails == "") || err != nil && !strings.Contains(err.Error(), test.fails) {
				t.Errorf("%v, want %q", err, test.fails)
			}
			if whole := test.defined != nil; err != nil && (len(list(t, dir)) > 0) != whole {
				t.Errorf("left behind: %q", list(t, dir))
			}
			if got := strings.Join(res.Warnings, "\n"); (got == "") != (test.warns == "") || !strings.Contains(got, test.warns) {
				t.Errorf("warnings %q, want %q", got, test.warns)
			}
			if diff := cmp.Diff(test.heard, db.heard); diff != "" {
				t.Errorf("heard (-want +got):\n%s", diff)
			}
			if want := len(test.heard); (stopped == 1) != (want > 0) {
				t.Errorf("stopped %d times", stopped)
			}
		})
	}
}

// backupWithDocument is a point of the level application, in which a writer left one.
func (w *world) backupWithDocument() repo.Point {
	w.t.Helper()
	job := w.job()
	files := job.Writers
	job.Policy.Ladder = append([]quiesce.Level{quiesce.LevelApplication}, job.Policy.Ladder...)
	job.Writers = func(ctx context.Context, g snapshot.Guest) ([]quiesce.Writer, func() error, error) {
		db := quiescetest.App("db")
		db.Document = []byte("lsn 42")
		writers, stop, err := files(ctx, g)
		return append(writers, db), stop, err
	}
	res, err := w.runner.Backup(w.t.Context(), job)
	must(w.t, err)
	if res.Point.Quiesce.Level != quiesce.LevelApplication {
		w.t.Fatalf("level %v: %q", res.Point.Quiesce.Level, res.Warnings)
	}
	return res.Point
}
