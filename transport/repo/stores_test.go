package repo_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lull-backup/lull/transport/blob"
	"github.com/lull-backup/lull/transport/block"
	"github.com/lull-backup/lull/transport/repo"
)

// history is what several hosts did to a store, and when.
type history struct {
	now     func() time.Time
	mu      sync.Mutex
	created map[string]change
	deleted map[string]change
}

type change struct {
	at   time.Time
	by   *lagging
	info blob.Info
}

// lagging is one host's view of a store whose lists show what others did only some time
// later, their deletions too. What the host itself did they show at once.
type lagging struct {
	blob.Store
	h   *history
	lag time.Duration
}

func (s *lagging) Create(ctx context.Context, name string, data []byte) error {
	at := s.h.now()
	err := s.Store.Create(ctx, name, data)
	if err == nil {
		s.h.mu.Lock()
		defer s.h.mu.Unlock()
		s.h.created[name] = change{at: at, by: s}
		delete(s.h.deleted, name)
	}
	return err
}

func (s *lagging) Delete(ctx context.Context, name string) error {
	at := s.h.now()
	info, missing := s.Store.Stat(ctx, name)
	err := s.Store.Delete(ctx, name)
	if err == nil && missing == nil {
		s.h.mu.Lock()
		defer s.h.mu.Unlock()
		s.h.deleted[name] = change{at, s, info}
	}
	return err
}

func (s *lagging) List(ctx context.Context, prefix string, fn func(blob.Info) error) error {
	seen := s.h.now().Add(-s.lag)
	var shown []blob.Info
	err := s.Store.List(ctx, prefix, func(i blob.Info) error {
		shown = append(shown, i)
		return nil
	})
	if err != nil {
		return err
	}
	s.h.mu.Lock()
	shown = slices.DeleteFunc(shown, func(i blob.Info) bool {
		c, ok := s.h.created[i.Name]
		return ok && c.by != s && c.at.After(seen)
	})
	for name, d := range s.h.deleted {
		if c := s.h.created[name]; strings.HasPrefix(name, prefix) && d.by != s && d.at.After(seen) && (c.by == s || !c.at.After(seen)) {
			shown = append(shown, d.info)
		}
	}
	s.h.mu.Unlock()
	slices.SortFunc(shown, func(a, b blob.Info) int { return strings.Compare(a.Name, b.Name) })
	for _, i := range shown {
		if err := fn(i); err != nil {
			return err
		}
	}
	return nil
}

// tolerable are the errors that a run may end with among others: nothing is committed then.
func tolerable(err error) bool {
	return err == nil || errors.Is(err, repo.ErrFenced) || errors.Is(err, repo.ErrCorrupt) || errors.Is(err, blob.ErrNotFound)
}

// Lists that lag, by less than a quarter of the grace, lose nothing: hosts and maintainers in
// random order, ten seconds an operation, each of which sees late what the others do: 84
// operations of theirs are in no list.
func TestLaggingLists(t *testing.T) {
	base := newProtocolBase(t)
	mixed := append(slices.Clone(base.disk), base.old...)
	for seed := range uint64(24) {
		rng := rand.New(rand.NewPCG(seed, 1))
		w := base.world()
		h := &history{now: w.now, created: map[string]change{}, deleted: map[string]change{}}
		view := func(s blob.Store) blob.Store { return &lagging{Store: s, h: h, lag: 14 * time.Minute} }
		actors := []*actor{
			{name: "web", view: view, run: w.writer("lab/web", mixed)},
			{name: "db", view: view, run: w.writer("lab/db", base.old)},
			{name: "forgetter", view: view, run: w.forgetter(base.live)},
			{name: "maintainer", view: view, run: w.maintainer(3 * time.Hour)},
			{name: "other", view: view, run: w.maintainer(100 * time.Hour)},
		}
		stay, last := 0, 0
		err := w.schedule(t, actors, func(can []int) int {
			w.sleep(10 * time.Second)
			if stay--; stay < 0 || !slices.Contains(can, last) {
				stay, last = rng.IntN(30), can[rng.IntN(len(can))]
			}
			return last
		})
		if err == nil {
			err = w.afterwards(t.Context(), base.old)
		}
		if err != nil {
			t.Fatalf("seed %d: %v\n%s", seed, err, w.log.String())
		}
		for _, a := range actors {
			if !tolerable(a.err) {
				t.Fatalf("seed %d: %s: %v", seed, a.name, a.err)
			}
		}
	}
}

// Hosts whose clocks are days off back up, forget and prune: clocks of hosts name points,
// and decide nothing.
func TestClockSkew(t *testing.T) {
	const off = 72 * time.Hour
	for _, skew := range [][2]time.Duration{{off, 0}, {-off, 0}, {0, off}, {0, -off}, {off, -off}, {-off, off}} {
		base := newProtocolBase(t)
		w := base.world()
		open := func(skew time.Duration) *repo.Repository {
			r, err := repo.Open(t.Context(), w.store, repo.Small(repo.OpenOptions{
				Passphrase: passphrase, Now: func() time.Time { return w.now().Add(skew) },
			}))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { r.Close() })
			return r
		}
		host, maintainer := open(skew[0]), open(skew[1])
		late, err := host.Begin(t.Context(), "lab/slow", w.now().Add(skew[0]))
		if err != nil {
			t.Fatal(err)
		}
		defer late.Close()
		deleted, fenced := 0, 0
		for day := range 5 {
			disk := image(uint64(20+day), 20*block.PageSize)
			if err := w.writer("lab/web", disk)(t.Context(), &opened{w.store, host}); err != nil {
				t.Fatal(err)
			}
			w.sleep(10 * time.Hour)
			report := prune(t, maintainer, repo.PruneOptions{})
			deleted, fenced = deleted+report.Deleted, fenced+report.Fenced
			if day < 2 && report.Fenced > 0 {
				t.Errorf("skew %v: a session of %d h was given up", skew, 10*(day+1))
			}
		}
		if deleted == 0 || fenced != 1 {
			t.Errorf("skew %v: %d packs deleted, %d sessions given up; want some, and one", skew, deleted, fenced)
		}
		if _, err := backup(t.Context(), late, base.old, nil); err == nil {
			_, err = late.Commit(t.Context(), repo.Point{VM: "lab/slow"})
			if !errors.Is(err, repo.ErrFenced) {
				t.Errorf("skew %v: %v, want %v", skew, err, repo.ErrFenced)
			}
		}
		if err := w.restores(t.Context()); err != nil {
			t.Errorf("skew %v: %v", skew, err)
		}
		wantClean(t, open(0))
	}
}

// echoing is a store to which every creation comes twice: a second time right after the
// object was deleted, once.
type echoing struct {
	blob.Store
	mu   sync.Mutex
	sent map[string]func() error
}

func (s *echoing) Create(ctx context.Context, name string, data []byte) error {
	err := s.Store.Create(ctx, name, data)
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, known := s.sent[name]; !known && err == nil {
		data = slices.Clone(data)
		s.sent[name] = func() error { return s.Store.Create(context.WithoutCancel(ctx), name, data) }
	}
	return err
}

func (s *echoing) Delete(ctx context.Context, name string) error {
	if err := s.Store.Delete(ctx, name); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	again := s.sent[name]
	s.sent[name] = nil
	if again == nil {
		return nil
	}
	return again()
}

// Creations that come a second time after the deletion bring nothing back that matters: what
// is decided stays decided.
func TestCreationsThatComeTwice(t *testing.T) {
	base, old, kept, disk := lived(t)
	for _, prefix := range []string{"", "packs/", "index/", "marks/", "sessions/", "leases/"} {
		store := base.Clone()
		e := &echoing{Store: store, sent: map[string]func() error{}}
		// What was there before is sent again, too.
		for _, name := range store.Names() {
			data, err := store.Read(t.Context(), name, 0, -1)
			if err != nil {
				t.Fatal(err)
			}
			if strings.HasPrefix(name, prefix) && !strings.HasPrefix(name, "points/") {
				e.sent[name] = func() error { return store.Create(context.Background(), name, data) }
			}
		}
		if err := life(t, e, old); err != nil && !errors.Is(err, repo.ErrBusy) {
			t.Fatalf("%s: %v", prefix, err)
		}
		now := clock()
		later := store.CloneAt(func() time.Time { return now })
		r := openSmall(t, later)
		wantClean(t, r)
		wantDisk(t, r, kept.Disks[0].Root, disk)
		// A backup meets what was deleted, and trusts nothing of it.
		again := mustCommit(t, r, "lab/late", image(1, block.WindowSize))
		for range 4 {
			now = now.Add(30 * time.Hour)
			prune(t, r, repo.PruneOptions{})
			wantClean(t, r)
		}
		wantDisk(t, openSmall(t, later), again.Disks[0].Root, image(1, block.WindowSize))
		wantDisk(t, openSmall(t, later), kept.Disks[0].Root, disk)
		if left := prune(t, r, repo.PruneOptions{DryRun: true}); left.Unused > 0 && left.Marked+left.Deleted+left.Rewritten > 0 {
			t.Errorf("%s: %+v", prefix, left)
		}
	}
}
