package agent_test

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lull-backup/lull/agent"
	"github.com/lull-backup/lull/agent/retention"
	"github.com/lull-backup/lull/transport/blob"
	"github.com/lull-backup/lull/transport/repo"
)

// story is a log that a test reads.
type story struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *story) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *story) count(text string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Count(s.b.String(), text)
}

// serve runs a daemon with one nightly group for some days, by a clock that does not wait,
// and returns its log.
func (w *world) serve(days int, keep retention.Keep, upkeep ...agent.Upkeep) *story {
	w.t.Helper()
	log := new(story)
	groups := []agent.Group{{
		Name: "nightly", Schedule: every(w.t, "30 1 * * *"), VMs: []string{vmName}, Keep: keep,
		Open: func(context.Context, []string) ([]agent.Job, func() error, error) {
			must(w.t, w.fake.Write("web", "root", int64(len(w.steps())%8)<<20, content(uint64(len(w.steps())), 1<<20)))
			return []agent.Job{w.job()}, func() error { return nil }, nil
		},
	}}
	w.runner.Log = slog.New(slog.NewTextHandler(log, nil))
	w.board = agent.NewBoard("test", os.Getpid(), time.Now(), w.journal, groups)
	d := &agent.Daemon{
		Runner: w.runner, Groups: groups, Upkeep: upkeep, Parallel: 1, Resolve: w.resolve, Log: w.runner.Log, Ready: func() {},
		Board: w.board,
	}
	ctx, cancel := context.WithTimeout(w.t.Context(), time.Duration(days)*24*time.Hour)
	defer cancel()
	must(w.t, d.Run(ctx))
	return log
}

// as lets the world back up with a key of the roles.
func (w *world) as(roles repo.Roles) {
	w.t.Helper()
	cost := repo.Cost{Time: 1, Memory: 8 << 10, Threads: 1}
	_, err := w.repo.AddKey(w.t.Context(), repo.NewKey{Label: "host", Roles: roles, Passphrase: []byte("y"), Cost: cost})
	must(w.t, err)
	r, err := repo.Open(w.t.Context(), w.store, repo.OpenOptions{Passphrase: []byte("y"), Label: "host", Cache: w.t.TempDir()})
	must(w.t, err)
	w.t.Cleanup(func() { must(w.t, r.Close()) })
	w.repo = r
}

func (w *world) pointIDs() (ids []string) {
	w.t.Helper()
	points, err := w.open(w.store).Points(w.t.Context(), vmName)
	must(w.t, err)
	for _, p := range points {
		ids = append(ids, p.ID)
	}
	return ids
}

// After each run what no rule wants is forgotten, but for what is held.
func TestDaemonKeepsWhatTheRulesSay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.serve(2, retention.Keep{Last: 3})
		points, err := w.repo.Points(t.Context(), vmName)
		must(t, err)
		must(t, w.repo.Hold(t.Context(), points[0], "before the upgrade"))
		log := w.serve(6, retention.Keep{Last: 3})
		ids := w.pointIDs()
		if len(ids) != 4 || ids[0] != points[0].ID {
			t.Errorf("%d points are left, the oldest %s; want the 3 newest and %s", len(ids), ids[0], points[0].ID)
		}
		if n := log.count("restore point forgotten"); n != 4 || log.count("level=WARN")+log.count("level=ERROR") > 0 {
			t.Errorf("%d points forgotten, want 4; the log says:\n%s", n, log.b.String())
		}
	})
}

// A host whose key may not forget backs up, says once that it leaves keep to others, and
// takes that for no failure.
func TestDaemonWithoutTheRoleToForget(t *testing.T) {
	for _, roles := range []repo.Roles{repo.RoleBackup, repo.RoleBackup | repo.RoleRestore} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			w.as(roles)
			log := w.serve(4, retention.Keep{Last: 1}, w.upkeep(time.Hour))
			if n := len(w.pointIDs()); n != 4 {
				t.Errorf("%d points, want 4", n)
			}
			if n := log.count("keep is left to a host whose key may forget"); n != 1 {
				t.Errorf("said %d times that keep is left to others:\n%s", n, log.b.String())
			}
			if log.count("level=WARN")+log.count("level=ERROR") > 0 || log.count("backup done") != 4 || log.count("warnings=0") != 4 {
				t.Errorf("the log says:\n%s", log.b.String())
			}
			last, err := w.journal.Last(vmName)
			if err != nil || last.Error != "" {
				t.Errorf("the last run: %+v, %v", last, err)
			}
		})
	}
}

// upkeep prunes the world's repository at noon.
func (w *world) upkeep(grace time.Duration) agent.Upkeep {
	return agent.Upkeep{
		Repository: "main", Schedule: every(w.t, "0 12 * * *"), Prune: true, Grace: grace,
		Open: func(context.Context) (*repo.Repository, func() error, error) {
			return w.repo, func() error { return nil }, nil
		},
	}
}

// What rules forgot is freed by the prunes of the schedule, and what is left restores.
func TestDaemonPrunes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		log := w.serve(8, retention.Keep{Last: 2}, w.upkeep(time.Hour))
		if log.count("msg=pruned") != 8 || log.count("msg=pruned repository=main deleted=0") == 8 || log.count("level=ERROR") > 0 {
			t.Errorf("the log says:\n%s", log.b.String())
		}
		before := w.stored()
		report, err := w.repo.Prune(t.Context(), repo.PruneOptions{Grace: time.Hour, DryRun: true})
		if err != nil || w.stored() != before {
			t.Errorf("a dry run changed the store: %+v, %v", report, err)
		}
		checked, err := w.repo.Check(t.Context(), repo.CheckOptions{ReadAll: true})
		if err != nil || len(checked.Problems) > 0 || checked.Points != 2 {
			t.Errorf("%+v, %v", checked, err)
		}
	})
}

// stored is the names of all objects.
func (w *world) stored() string { return strings.Join(w.objects.Names(), " ") }

// keepsAll is a store that locks restore points for longer than any rule.
type keepsAll struct{ blob.Store }

func (keepsAll) Locking(context.Context) (blob.Locking, error) {
	return blob.Locking{Enabled: true}, nil
}
func (keepsAll) Retain(context.Context, string, blob.Lock) error { return nil }

func (keepsAll) Retention(context.Context, string) (blob.Lock, error) {
	return blob.Lock{Mode: blob.Compliance, Until: time.Now().Add(1000 * time.Hour)}, nil
}

// What the store keeps locked is left for later without a word of failure.
func TestDaemonLeavesLockedPoints(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.repo = w.open(keepsAll{w.store})
		log := w.serve(3, retention.Keep{Last: 1}, w.upkeep(time.Hour))
		if n := len(w.pointIDs()); n != 3 || log.count("level=WARN")+log.count("level=ERROR") > 0 {
			t.Errorf("%d points, want 3; the log says:\n%s", n, log.b.String())
		}
	})
}
