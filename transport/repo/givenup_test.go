package repo_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/lull-backup/lull/transport/blob"
	"github.com/lull-backup/lull/transport/block"
	"github.com/lull-backup/lull/transport/repo"
)

// Garbage under points' names that the store keeps locked stops maintenance until it is given
// up, and not until its lock ends; what else comes under the name does.
func TestGarbageUnderLockIsGivenUp(t *testing.T) {
	s, r, _, kept, disk := lockedLife(t)
	folder, _, _ := strings.Cut(pointName(t, s.Store, kept.ID)[len("points/"):], "/")
	for id, garbage := range map[string][]byte{
		"20261121T053000Z-00000001": []byte("garbage"),
		"20261121T053000Z-00000002": bytes.Repeat([]byte{0}, 16<<20+1), // too large to be read
	} {
		object := "points/" + folder + "/" + strings.ToLower(id)
		if err := s.Store.Create(t.Context(), object, garbage); err != nil {
			t.Fatal(err)
		}
		if err := s.Retain(t.Context(), object, blob.Lock{Mode: blob.Compliance, Until: s.time().Add(100 * lockPeriod)}); err != nil {
			t.Fatal(err)
		}
		if _, err := r.Prune(t.Context(), atOnce); !errors.Is(err, repo.ErrCorrupt) {
			t.Fatalf("%v, want %v", err, repo.ErrCorrupt)
		}
		var locked *repo.LockedError
		if err := r.ForgetDamaged(t.Context(), "", id); !errors.As(err, &locked) {
			t.Fatalf("%v, want a LockedError", err)
		}
	}
	prune(t, r, atOnce)
	if all, err := r.Points(t.Context(), ""); err != nil || len(all) != 2 {
		t.Errorf("%d points, %v", len(all), err)
	}
	if newest, err := r.Newest(t.Context(), "lab/web"); err != nil || newest.ID != kept.ID {
		t.Errorf("newest %q, %v", newest.ID, err)
	}
	s.renew(t, r, "")
	wantClean(t, r)
	wantDisk(t, r, kept.Disks[0].Root, disk)

	s.Damage("points/"+folder+"/20261121t053000z-00000001", func(b []byte) []byte { return append(b, 'x') })
	if _, err := r.Prune(t.Context(), atOnce); !errors.Is(err, repo.ErrCorrupt) {
		t.Errorf("other garbage under the name: %v, want %v", err, repo.ErrCorrupt)
	}
}

// Points that name what is not there are not locked for longer, so that they can be forgotten;
// the second shares all that is there with the first.
func TestRenewalLocksNoPointThatIsNotWhole(t *testing.T) {
	s := newLockedStore()
	initRepo(t, s.store)
	mustCommit(t, s.open(t), "lab/web", image(1, block.WindowSize))
	root := repo.Root{Size: block.WindowSize, Node: block.Name{6, 6, 6}, Data: block.PageSize}
	evil := map[string]int64{}
	for n := range 2 {
		at := clock().Add(hours(n + 1))
		session, err := s.open(t).Begin(t.Context(), "lab/evil", at)
		if err != nil {
			t.Fatal(err)
		}
		p, err := session.Commit(t.Context(), repo.Point{VM: "lab/evil", Frozen: at, Disks: []repo.Disk{{Root: root}}})
		if err := errors.Join(err, session.Close()); err != nil {
			t.Fatal(err)
		}
		name := pointName(t, s.Store, p.ID)
		evil[name] = s.until(name)
	}
	s.pass(time.Hour)
	longer := func(points []repo.Point) []time.Time {
		out := make([]time.Time, len(points))
		for i := range out {
			out[i] = s.time().Add(10 * lockPeriod)
		}
		return out
	}
	report, err := s.open(t).RenewLocks(t.Context(), repo.LockOptions{Mode: blob.Compliance, Period: lockPeriod, Until: longer})
	if !errors.Is(err, repo.ErrCorrupt) || report.Points != 3 || report.Renewed == 0 {
		t.Errorf("%+v, %v", report, err)
	}
	for name, until := range evil {
		if s.until(name) != until {
			t.Errorf("%s is locked until %v", name, time.Unix(s.until(name), 0))
		}
	}
}
