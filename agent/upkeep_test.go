package agent_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lull-backup/lull/agent"
	"github.com/lull-backup/lull/agent/retention"
	"github.com/lull-backup/lull/transport/blob"
	"github.com/lull-backup/lull/transport/blob/lock"
	"github.com/lull-backup/lull/transport/blob/mem"
	"github.com/lull-backup/lull/transport/repo"
)

const lockPeriod = 5 * 24 * time.Hour

// locked is a world whose store locks what is put into it, and maintenance that renews the
// locks.
func locked(t *testing.T, decorate func(blob.Locker) blob.Locker) (*world, agent.Upkeep) {
	t.Helper()
	w := newWorldIn(t, mem.NewLocking(time.Now, blob.Locking{Enabled: true, Versioned: true}))
	w.repo = w.open(lock.New(decorate(w.store), lock.Policy{Mode: blob.Compliance, Period: lockPeriod, Now: time.Now}))
	u := w.upkeep(time.Hour)
	memory := t.TempDir() + "/locks"
	u.Locks = func(*repo.Repository) repo.LockOptions {
		return repo.LockOptions{Mode: blob.Compliance, Period: lockPeriod, Slack: 48 * time.Hour, Memory: memory}
	}
	return w, u
}

func asIs(s blob.Locker) blob.Locker { return s }

// What new points reuse of older ones stays locked as long as they are to be, by the agent's
// own work: after days of backups and maintenance everything that the newest point needs
// is locked for its whole period.
func TestDaemonRenewsLocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, u := locked(t, asIs)
		log := w.serve(12, retention.Keep{Last: 2}, u)
		if log.count("msg=\"locks renewed\"") != 12 || log.count("level=ERROR") > 0 {
			t.Errorf("the log says:\n%s", log.b.String())
		}
		newest, err := w.repo.Newest(t.Context(), vmName)
		must(t, err)
		time.Sleep(time.Until(newest.Frozen.Add(lockPeriod - time.Hour))) // by the clock of the bubble
		for _, name := range w.objects.Names() {                          // as somebody with every key would
			if err := w.objects.Delete(t.Context(), name); err != nil && !errors.Is(err, blob.ErrLocked) {
				t.Fatal(err)
			}
		}
		report, err := w.open(w.store).Check(t.Context(), repo.CheckOptions{ReadAll: true})
		if err != nil || report.Points == 0 || len(report.Lost) > 0 {
			t.Errorf("after an attack: %+v, %v", report, err)
		}
	})
}

// stubborn is a store that makes no lock longer.
type stubborn struct{ blob.Locker }

func (stubborn) Retain(context.Context, string, blob.Lock) error { return blob.ErrDenied }

// A renewal that fails is in the status and the log, and keeps no prune from its work.
func TestDaemonTellsOfLocksThatAreNotRenewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, u := locked(t, func(s blob.Locker) blob.Locker { return stubborn{s} })
		log := w.serve(3, retention.Keep{Last: 2}, u)
		if n := log.count("msg=maintenance"); n != 3 {
			t.Errorf("%d failures told, want 3:\n%s", n, log.b.String())
		}
		if n := log.count("msg=pruned"); n != 3 {
			t.Errorf("%d prunes, want 3:\n%s", n, log.b.String())
		}
		s, err := w.board.Status()
		if err != nil || len(s.Upkeep) != 1 || s.Upkeep[0].Repository != "main" || s.Upkeep[0].Next.IsZero() ||
			!strings.Contains(s.Upkeep[0].LastError, "renewal of locks") {
			t.Errorf("%+v, %v", s.Upkeep, err)
		}
	})
}

// A host whose key reads no maps leaves the locks to others, and takes that for no failure.
func TestDaemonLeavesLocksToWhoReadsMaps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, u := locked(t, asIs)
		w.as(repo.RoleBackup)
		log := w.serve(2, retention.Keep{}, u)
		if log.count("renewal of locks is left to another host") != 2 || log.count("level=WARN")+log.count("level=ERROR") > 0 {
			t.Errorf("the log says:\n%s", log.b.String())
		}
	})
}
