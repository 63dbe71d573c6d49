package repo_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/lull-backup/lull/transport/blob/mem"
	"github.com/lull-backup/lull/transport/block"
	"github.com/lull-backup/lull/transport/repo"
)

// dated makes a point without disks, with any dates.
func dated(t *testing.T, r *repo.Repository, vm string, id, frozen time.Time) repo.Point {
	t.Helper()
	s, err := r.Begin(t.Context(), vm, id)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	p, err := s.Commit(t.Context(), repo.Point{VM: vm, Frozen: frozen})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// A host that was taken over dates a point of another's VM in the future: the newest stays
// the newest, for who reads, for who only backs up, and for who backs up on top of it, and
// all is well again when the point is given up.
func TestPointOfTheFuture(t *testing.T) {
	far := clock().AddDate(73, 0, 0)
	for name, dates := range map[string]struct{ id, frozen time.Time }{
		"by its name": {far, clock()},
		"by its time": {clock().Add(time.Hour), far},
	} {
		t.Run(name, func(t *testing.T) {
			store := mem.NewAt(clock)
			initRepo(t, store)
			web, evil := newHost(t, store, "host1"), newHost(t, store, "evil")
			disk := image(1, 20*block.PageSize)
			first := again(t, web.open(t, "host1", repo.Domain{}), "lab/web", disk, 0)
			bad := dated(t, evil.open(t, "evil", repo.Domain{}), "lab/web", dates.id, dates.frozen)

			owner := openRepo(t, store)
			p, err := owner.Newest(t.Context(), "lab/web")
			if p.ID != first.ID || !errors.Is(err, repo.ErrForged) {
				t.Errorf("the newest is %s, %v, want %s and %v", p.ID, err, first.ID, repo.ErrForged)
			}
			if points, err := owner.Points(t.Context(), ""); len(points) != 1 || !errors.Is(err, repo.ErrForged) {
				t.Errorf("%d points, %v", len(points), err)
			}
			if name == "by its name" { // all that this key sees
				s, err := web.open(t, "host1", repo.Domain{}).Begin(t.Context(), "lab/web", clock().Add(time.Hour))
				if err != nil {
					t.Fatal(err)
				}
				defer s.Close()
				second, err := s.Commit(t.Context(), repo.Point{VM: "lab/web", Frozen: clock()})
				if err != nil || second.Parent != first.ID {
					t.Errorf("the next point follows %q, %v, want %s", second.Parent, err, first.ID)
				}
			}
			if err := owner.ForgetDamaged(t.Context(), "lab/web", bad.ID); err != nil {
				t.Fatal(err)
			}
			wantClean(t, openRepo(t, store))
		})
	}
}

// One clock that is wrong makes nobody's points doubtful: neither a store that lives in
// the past, nor a reader that does.
func TestPointsOutliveWrongClocks(t *testing.T) {
	past := func() time.Time { return clock().AddDate(-20, 0, 0) }
	for name, c := range map[string]struct{ store, reader func() time.Time }{
		"of the store":  {past, clock},
		"of the reader": {clock, past},
	} {
		t.Run(name, func(t *testing.T) {
			store := mem.NewAt(c.store)
			initRepo(t, store)
			want := mustCommit(t, openRepo(t, store), "lab/web", image(1, block.PageSize))
			r, err := repo.Open(t.Context(), store, repo.OpenOptions{Passphrase: passphrase, Now: c.reader})
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			if p, err := r.Newest(t.Context(), "lab/web"); err != nil || p.ID != want.ID {
				t.Errorf("the newest is %s, %v, want %s", p.ID, err, want.ID)
			}
		})
	}
}

// A point of another key that is dated some hours ahead is the newest of its VM and the parent
// of all that follow: those are missed all the same where the store leaves them out.
func TestPointsBehindAPointOfTomorrow(t *testing.T) {
	for _, vms := range [][]string{{"lab/web"}, {"lab/web", "lab/db"}} {
		store := mem.New()
		initRepo(t, store)
		addKey(t, store, "evil", repo.RoleBackup)
		addKey(t, store, "good", repo.RoleBackup|repo.RoleRestore)
		cache := t.TempDir()
		good := func() *repo.Repository { return openAs(t, store, "good", repo.OpenOptions{Cache: cache}) }
		disk := image(1, 20*block.PageSize)
		var made []repo.Point
		for hour := range 4 {
			for _, vm := range vms {
				if p := again(t, good(), vm, disk, hour); vm == "lab/web" {
					made = append(made, p)
				}
			}
			if hour == 0 {
				again(t, openAs(t, store, "evil", repo.OpenOptions{}), "lab/web", disk, 20)
			}
		}
		for i, p := range made[1:] {
			left := store.Clone()
			for _, name := range objects(left, "points/") {
				if strings.HasSuffix(name, strings.ToLower(p.ID)) {
					if err := left.Delete(t.Context(), name); err != nil {
						t.Fatal(err)
					}
				}
			}
			o := repo.OpenOptions{Cache: cache}
			if i < len(made)-2 || len(vms) > 1 {
				o.Cache = "" // a stranger sees it as well
			}
			if _, err := openAs(t, left, "good", o).Points(t.Context(), ""); !errors.Is(err, repo.ErrOmitted) {
				t.Errorf("%d VMs: without point %d: %v, want %v", len(vms), i+1, err, repo.ErrOmitted)
			}
		}
	}
}
