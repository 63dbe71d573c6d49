package repo_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lull-backup/lull/transport/blob"
	"github.com/lull-backup/lull/transport/blob/faults"
	"github.com/lull-backup/lull/transport/blob/lock"
	"github.com/lull-backup/lull/transport/blob/mem"
	"github.com/lull-backup/lull/transport/block"
	"github.com/lull-backup/lull/transport/repo"
)

const (
	lockPeriod = 30 * 24 * time.Hour
	lockSlack  = 7 * 24 * time.Hour
)

// lockedStore is a store with locks and a clock that a test sets.
type lockedStore struct {
	*mem.Store
	store blob.Store // with the decorator that locks
	now   atomic.Int64
	asked *faults.Store
}

func newLockedStore() *lockedStore {
	s := &lockedStore{}
	s.now.Store(clock().UnixNano())
	s.Store = mem.NewLocking(s.time, blob.Locking{Enabled: true, Versioned: true})
	s.asked = faults.New(s.Store)
	s.store = lock.New(s.asked, lock.Policy{Mode: blob.Compliance, Period: lockPeriod, Now: s.time})
	return s
}

func (s *lockedStore) time() time.Time      { return time.Unix(0, s.now.Load()) }
func (s *lockedStore) pass(d time.Duration) { s.now.Add(int64(d)) }
func (s *lockedStore) renewals() int        { return strings.Count(s.asked.Log(), "retain ") }
func (s *lockedStore) until(name string) int64 {
	l, _ := s.Retention(context.Background(), name)
	return l.Until.Unix()
}
func (s *lockedStore) open(t *testing.T) *repo.Repository {
	t.Helper()
	return openWith(t, s.store, repo.OpenOptions{Passphrase: passphrase, Now: s.time})
}

// attack deletes all that the store lets go, as someone with every key would.
func (s *lockedStore) attack(t *testing.T) {
	t.Helper()
	for _, name := range s.Names() {
		if err := s.Delete(t.Context(), name); err != nil && !errors.Is(err, blob.ErrLocked) {
			t.Fatal(err)
		}
	}
}

func (s *lockedStore) renew(t *testing.T, r *repo.Repository, memory string) repo.LockReport {
	t.Helper()
	report, err := r.RenewLocks(t.Context(), repo.LockOptions{Mode: blob.Compliance, Period: lockPeriod, Slack: lockSlack, Memory: memory})
	if err != nil {
		t.Fatal(err)
	}
	return report
}

// A point that reuses what older ones stored is whole after an attack, until the end
// of its own time; nothing that it needs is locked by the older points' time alone.
func TestLocksFollowThePoints(t *testing.T) {
	s := newLockedStore()
	initRepo(t, s.store)
	r := s.open(t)
	memory := filepath.Join(t.TempDir(), "locks")
	disk := image(1, 3*block.WindowSize)
	mustCommit(t, r, "lab/web", disk)
	s.renew(t, r, memory)
	var newest repo.Point
	for range 10 { // every few days a little changes
		s.pass(4 * 24 * time.Hour)
		copy(disk[block.WindowSize:], image(uint64(s.now.Load()), block.PageSize))
		newest = mustCommit(t, r, "lab/web", disk)
		s.renew(t, r, memory)
	}
	s.pass(lockPeriod - time.Hour)
	s.attack(t)
	again := s.open(t)
	wantDisk(t, again, newest.Disks[0].Root, disk)
	if points, err := again.Points(t.Context(), "lab/web"); len(points) != 1 {
		t.Errorf("%d points left of those whose time is over, %v", len(points), err)
	}
	s.pass(lockSlack + 2*time.Hour)
	s.attack(t)
	if left := s.Names(); len(left) > 0 {
		t.Errorf("still locked: %q", left)
	}
}

// Without a renewal the same attack would have won: the test above tests something.
func TestLocksOfOldPacksEnd(t *testing.T) {
	s := newLockedStore()
	initRepo(t, s.store)
	r := s.open(t)
	disk := image(1, 3*block.WindowSize)
	mustCommit(t, r, "lab/web", disk)
	s.pass(lockPeriod - time.Hour)
	p := mustCommit(t, r, "lab/web", disk)
	s.pass(2 * time.Hour)
	s.attack(t)
	if _, err := restore(t.Context(), r, p.Disks[0].Root); err == nil {
		t.Error("restored from packs that were not locked")
	}
}

func TestRenewalsAreRemembered(t *testing.T) {
	s := newLockedStore()
	initRepo(t, s.store)
	r := s.open(t)
	memory := filepath.Join(t.TempDir(), "locks")
	disk := image(1, 2*block.WindowSize)
	mustCommit(t, r, "lab/web", disk)
	first := s.renew(t, r, memory)
	if first.Points != 1 || first.Renewed != first.Objects || first.Objects < 5 || s.renewals() != first.Renewed {
		t.Errorf("%+v, %d requests", first, s.renewals())
	}
	if again := s.renew(t, r, memory); again.Renewed != 0 || again.Objects != first.Objects {
		t.Errorf("again: %+v", again)
	}
	s.pass(24 * time.Hour)
	mustCommit(t, r, "lab/web", disk) // reuses all: within the slack only the manifest is new
	if next := s.renew(t, r, memory); next.Points != 2 || next.Renewed != 1 {
		t.Errorf("a day later: %+v", next)
	}
	if err := os.WriteFile(memory, []byte("{damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	dry, err := r.RenewLocks(t.Context(), repo.LockOptions{Mode: blob.Compliance, Period: lockPeriod, Memory: memory, DryRun: true})
	before := s.renewals()
	if err != nil || dry.Renewed != dry.Objects || s.renewals() != before {
		t.Errorf("dry: %+v, %v", dry, err)
	}
	if lost := s.renew(t, r, memory); lost.Renewed != lost.Objects {
		t.Errorf("memory lost: %+v", lost)
	}
	s.pass(lockPeriod + time.Hour)
	if over := s.renew(t, r, memory); over.Points != 0 || over.Renewed != 0 {
		t.Errorf("all over: %+v", over)
	}
}

// What is remembered of one mode says nothing of another. A store that refuses it is heard
// of, and what it does not refuse is locked.
func TestRenewalInAnotherMode(t *testing.T) {
	s := newLockedStore()
	s.store = lock.New(s.asked, lock.Policy{Mode: blob.Governance, Period: lockPeriod, Now: s.time})
	initRepo(t, s.store)
	r := s.open(t)
	o := repo.LockOptions{Mode: blob.Governance, Period: lockPeriod, Slack: lockSlack, Memory: filepath.Join(t.TempDir(), "locks")}
	mustCommit(t, r, "lab/web", image(1, block.WindowSize))
	first, err := r.RenewLocks(t.Context(), o)
	if err != nil || first.Renewed != first.Objects {
		t.Fatalf("%+v, %v", first, err)
	}
	o.Mode = blob.Compliance
	before := s.renewals()
	report, err := r.RenewLocks(t.Context(), o)
	if !errors.Is(err, blob.ErrLocked) || report.Renewed != 0 || s.renewals() != before+first.Objects {
		t.Errorf("%+v, %d requests, %v", report, s.renewals()-before, err)
	}
	s.pass(lockPeriod + lockSlack + time.Hour) // the old locks are over
	o.Period *= 3
	if report, err = r.RenewLocks(t.Context(), o); err != nil || report.Renewed != first.Objects {
		t.Errorf("%+v, %v", report, err)
	}
	if got, err := s.Retention(t.Context(), "config"); err != nil || got.Mode != blob.Compliance {
		t.Errorf("config: %+v, %v", got, err)
	}
}

// A point that is to stay for longer than all others is locked for longer, with what it
// needs, though it is older; and no others are.
func TestLocksFollowWhatIsKept(t *testing.T) {
	s := newLockedStore()
	initRepo(t, s.store)
	disk := image(1, 2*block.WindowSize)
	kept := mustCommit(t, s.open(t), "lab/web", disk)
	other := mustCommit(t, s.open(t), "lab/web", image(2, block.WindowSize))
	asked := 0
	o := repo.LockOptions{Mode: blob.Compliance, Period: lockPeriod, Until: func(points []repo.Point) []time.Time {
		asked++
		out := make([]time.Time, len(points))
		if points[0].VM == "lab/web" && points[0].ID == kept.ID {
			out[0] = clock().Add(10 * lockPeriod)
		}
		return out
	}}
	if report, err := s.open(t).RenewLocks(t.Context(), o); err != nil || report.Points != 2 || asked != 1 {
		t.Fatalf("%+v, %v, asked for %d VMs", report, err, asked)
	}
	s.pass(2 * lockPeriod) // the other's time is over; what is kept is renewed
	if report, err := s.open(t).RenewLocks(t.Context(), o); err != nil || report.Points != 1 {
		t.Fatalf("%+v, %v", report, err)
	}
	s.pass(8*lockPeriod - time.Hour)
	s.attack(t)
	wantDisk(t, s.open(t), kept.Disks[0].Root, disk)
	points, _ := s.open(t).Points(t.Context(), "")
	for _, p := range points {
		if p.ID == other.ID {
			t.Error("what was not to be kept is locked")
		}
	}
}

// A point that cannot be read leaves the others no less locked.
func TestRenewalPassesDamage(t *testing.T) {
	s := newLockedStore()
	initRepo(t, s.store)
	r := s.open(t)
	good := mustCommit(t, r, "lab/web", image(1, block.WindowSize))
	mustCommit(t, r, "lab/db", image(2, block.WindowSize))
	var bad string
	for _, name := range s.Names() {
		if strings.HasPrefix(name, "points/") && !strings.HasSuffix(name, strings.ToLower(good.ID)) {
			bad = name
		}
	}
	s.Damage(bad, func(b []byte) []byte { b[len(b)/2] ^= 1; return b })
	s.pass(24 * time.Hour)
	report, err := r.RenewLocks(t.Context(), repo.LockOptions{Mode: blob.Compliance, Period: lockPeriod, Slack: lockSlack})
	if !errors.Is(err, repo.ErrCorrupt) || report.Points != 1 || report.Renewed != report.Objects {
		t.Errorf("%+v, %v", report, err)
	}
	if until := s.until("config"); until <= clock().Add(lockPeriod).Unix() {
		t.Errorf("config is locked until %v only", time.Unix(until, 0))
	}
}

// Renewal locks the copies of blocks that maintenance keeps: of those that a host has listed
// that was taken over, and of the good ones, both.
func TestRenewalIsNotMisledByPoison(t *testing.T) {
	for hour := range 4 { // names of packs are random: whose is found first is too
		s := newLockedStore()
		initRepo(t, s.store)
		addKey(t, s.store, "evil", repo.RoleBackup)
		disk := image(1, 100*block.PageSize)
		mustCommit(t, s.open(t), "lab/web", disk)
		evil := openAs(t, s.store, "evil", repo.OpenOptions{Domain: repo.Domain{Own: true}})
		if err := repo.Poison(t.Context(), evil, disk, clock().Add(hours(hour))); err != nil {
			t.Fatal(err)
		}
		s.pass(lockPeriod - 24*time.Hour)
		p := mustCommit(t, s.open(t), "lab/web", disk)
		s.renew(t, s.open(t), "")
		s.pass(lockPeriod - time.Hour)
		s.attack(t)
		wantDisk(t, s.open(t), p.Disks[0].Root, disk)
	}
}

// Of blocks that a host has stored twice one copy is locked, that which prune keeps.
func TestRenewalAndPruneChooseAlike(t *testing.T) {
	for range 4 {
		s := newLockedStore()
		initRepo(t, s.store)
		disk := image(1, 100*block.PageSize)
		var sessions [2]*repo.Session
		for i := range sessions { // neither knows of the other
			var err error
			if sessions[i], err = s.open(t).Begin(t.Context(), "lab/web", clock().Add(hours(i))); err != nil {
				t.Fatal(err)
			}
			defer sessions[i].Close()
		}
		for i, session := range sessions {
			root, err := backup(t.Context(), session, disk, nil)
			if err == nil {
				_, err = session.Commit(t.Context(), repo.Point{VM: "lab/web", Frozen: clock().Add(hours(i)), Disks: []repo.Disk{{Root: root}}})
			}
			if err != nil {
				t.Fatal(err)
			}
			s.pass(time.Minute)
		}
		twice := objects(s.Store, "packs/")
		s.pass(lockPeriod - 24*time.Hour)
		p := mustCommit(t, s.open(t), "lab/web", disk)
		s.renew(t, s.open(t), filepath.Join(t.TempDir(), "locks"))
		s.pass(48 * time.Hour)
		for range 4 {
			prune(t, s.open(t), repo.PruneOptions{})
			s.pass(25 * time.Hour)
		}
		if left := objects(s.Store, "packs/"); len(left) != len(twice)/2 {
			t.Errorf("%d packs of %d are left, want half", len(left), len(twice))
		}
		wantDisk(t, s.open(t), p.Disks[0].Root, disk)
		wantClean(t, s.open(t))
	}
}

func TestRenewalNeedsLocks(t *testing.T) {
	store := mem.New()
	initRepo(t, store)
	r := openRepo(t, store)
	mustCommit(t, r, "lab/web", image(1, block.WindowSize))
	r2, err := repo.Open(t.Context(), store, repo.OpenOptions{Passphrase: passphrase, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	defer r2.Close()
	if _, err := r2.RenewLocks(t.Context(), repo.LockOptions{Mode: blob.Governance, Period: time.Hour}); !errors.Is(err, blob.ErrNoLocks) {
		t.Error(err)
	}
}
