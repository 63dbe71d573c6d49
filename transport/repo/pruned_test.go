package repo_test

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/lull-backup/lull/transport/blob/mem"
	"github.com/lull-backup/lull/transport/block"
	"github.com/lull-backup/lull/transport/repo"
)

// A point that cannot be read stops rules and prunes, until somebody gives it up by its id.
// Neither the point after it nor a host that has seen it misses it then.
func TestForgetDamaged(t *testing.T) {
	for name, damage := range map[string]func([]byte) []byte{
		"a flipped bit": func(b []byte) []byte { b[len(b)/2] ^= 1; return b },
		"cut off":       func(b []byte) []byte { return b[:len(b)/2] },
		"empty":         func([]byte) []byte { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			store := mem.New()
			initRepo(t, store)
			witness, err := repo.Open(t.Context(), store, repo.OpenOptions{Passphrase: passphrase, Now: clock, Cache: t.TempDir()})
			if err != nil {
				t.Fatal(err)
			}
			defer witness.Close()
			r := openSmall(t, store)
			lost := mustCommit(t, r, "lab/web", image(1, block.WindowSize))
			alone := mustCommit(t, r, "lab/db", image(3, block.WindowSize))
			if _, err := witness.Points(t.Context(), ""); err != nil {
				t.Fatal(err)
			}
			disk := image(2, block.WindowSize)
			kept := mustCommit(t, r, "lab/web", disk)
			for _, p := range []repo.Point{lost, alone} {
				store.Damage(pointName(t, store, p.ID), damage)
			}
			r = openSmall(t, store)
			if _, err := r.Prune(t.Context(), atOnce); !errors.Is(err, repo.ErrCorrupt) {
				t.Fatalf("prune says %v", err)
			}
			report, err := r.Check(t.Context(), repo.CheckOptions{})
			if err != nil || !slices.ContainsFunc(report.Problems, func(p repo.Problem) bool { return slices.Contains(p.Points, lost.ID) }) {
				t.Errorf("check does not name the point: %+v, %v", report.Problems, err)
			}
			if err := r.ForgetDamaged(t.Context(), "", kept.ID); !errors.Is(err, repo.ErrWhole) {
				t.Errorf("a whole point: %v, want %v", err, repo.ErrWhole)
			}
			for _, p := range []repo.Point{lost, alone} {
				if err := r.ForgetDamaged(t.Context(), p.VM, p.ID); err != nil {
					t.Fatal(err)
				}
			}
			if err := r.ForgetDamaged(t.Context(), "", "20200101T000000Z-00000000"); !errors.Is(err, repo.ErrNotFound) {
				t.Errorf("no point: %v, want %v", err, repo.ErrNotFound)
			}
			for range 3 {
				prune(t, r, atOnce)
			}
			wantClean(t, r)
			wantClean(t, openRepo(t, store))
			wantDisk(t, openRepo(t, store), kept.Disks[0].Root, disk)
			if points, err := witness.Points(t.Context(), ""); err != nil || len(points) != 1 {
				t.Errorf("who has seen them reads %d points, %v", len(points), err)
			}
		})
	}
}

// racing is a store that prunes meanwhile: before the first read of a pack since it was
// armed.
type racing struct {
	*mem.Store
	once sync.Once
	do   func()
}

func (s *racing) Read(ctx context.Context, name string, off, length int64) ([]byte, error) {
	if strings.HasPrefix(name, "packs/") && s.do != nil {
		s.once.Do(s.do)
	}
	return s.Store.Read(ctx, name, off, length)
}

// thinned is a store with packs that a prune rewrites, as only a part is needed, and the
// point that needs it.
func thinned(t *testing.T) (*mem.Store, repo.Point, []byte) {
	t.Helper()
	store, old, kept, disk := lived(t)
	r := openSmall(t, store)
	if err := r.Forget(t.Context(), []repo.Point{old}); err != nil {
		t.Fatal(err)
	}
	return store, kept, disk
}

// A restore goes on though maintenance moves what it reads, and takes nothing for damaged.
func TestRestoreWhilePacksMove(t *testing.T) {
	store, kept, disk := thinned(t)
	s := &racing{Store: store}
	cache := t.TempDir()
	open := func() *repo.Repository {
		r, err := repo.Open(t.Context(), s, repo.Small(repo.OpenOptions{Passphrase: passphrase, Cache: cache, Now: clock}))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { r.Close() })
		return r
	}
	r := open()
	moved := 0
	s.do = func() {
		other := openSmall(t, store)
		for range 3 {
			moved += prune(t, other, repo.PruneOptions{Grace: -1, Keep: 1}).Deleted
		}
	}
	got, err := restore(t.Context(), r, kept.Disks[0].Root)
	if err != nil || !bytes.Equal(got, disk) || moved == 0 {
		t.Fatalf("%v; %d packs were deleted meanwhile", err, moved)
	}
	// The next backup builds on the point: nothing is in doubt.
	next := open()
	p := mustCommit(t, next, "lab/web", disk)
	if p.Stats.New != 0 || p.Stats.Dedup != 0 && p.Stats.NewBlocks != 0 || next.Doubts() != 0 {
		t.Errorf("%+v, %d doubts", p.Stats, next.Doubts())
	}
}

// A restore of a point that is forgotten meanwhile fails, and leaves no doubt either.
func TestRestoreWhileThePointGoes(t *testing.T) {
	store, _, kept, _ := lived(t)
	s := &racing{Store: store}
	r, err := repo.Open(t.Context(), s, repo.Small(repo.OpenOptions{Passphrase: passphrase, Cache: t.TempDir(), Now: clock}))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	s.do = func() {
		other := openSmall(t, store)
		if err := other.Forget(t.Context(), []repo.Point{kept}); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			prune(t, other, atOnce)
		}
	}
	if _, err := restore(t.Context(), r, kept.Disks[0].Root); !errors.Is(err, repo.ErrCorrupt) {
		t.Errorf("%v, want %v", err, repo.ErrCorrupt)
	}
	if n := r.Doubts(); n != 0 {
		t.Errorf("%d doubts", n)
	}
}

// A pack that is gone though nobody decided so is damage, as ever.
func TestRestoreOfALostPackDoubts(t *testing.T) {
	store, _, kept, _ := lived(t)
	r := openSmall(t, store)
	for _, name := range store.Names() {
		if strings.HasPrefix(name, "packs/") {
			if err := store.Delete(t.Context(), name); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := restore(t.Context(), r, kept.Disks[0].Root); !errors.Is(err, repo.ErrCorrupt) || r.Doubts() == 0 {
		t.Errorf("%v, %d doubts", err, r.Doubts())
	}
}
