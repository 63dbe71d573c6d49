package repo_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"regexp"
	"strings"
	"testing"
	"testing/cryptotest"
	"time"

	"github.com/lull-backup/lull/transport/blob"
	"github.com/lull-backup/lull/transport/blob/faults"
	"github.com/lull-backup/lull/transport/blob/mem"
	"github.com/lull-backup/lull/transport/block"
	"github.com/lull-backup/lull/transport/repo"
)

// lived is a store with two points, of which the older is to be forgotten.
func lived(t *testing.T) (store *mem.Store, old, kept repo.Point, disk []byte) {
	t.Helper()
	store = mem.NewAt(clock)
	initRepo(t, store)
	r := openSmall(t, store)
	old = mustCommit(t, r, "lab/web", image(1, block.WindowSize))
	// Half of the window stays, so that a pack gets thin.
	disk = image(1, block.WindowSize)
	copy(disk, image(2, block.WindowSize*3/4))
	kept = mustCommit(t, r, "lab/web", disk)
	return store, old, kept, disk
}

// life is all that maintenance does: forget, mark, carry out, twice.
func life(t *testing.T, store blob.Store, old repo.Point) error {
	t.Helper()
	r, err := repo.Open(t.Context(), store, repo.Small(repo.OpenOptions{Passphrase: passphrase, Now: clock}))
	if err != nil {
		return err
	}
	defer r.Close()
	if err := r.Forget(t.Context(), []repo.Point{old}); err != nil {
		return err
	}
	for range 3 {
		if _, err := r.Prune(t.Context(), atOnce); err != nil {
			return err
		}
	}
	return nil
}

// Who only backs up, and perhaps restores, holds nothing: whoever takes over such a host stops
// no rules with that.
func TestWhoMayHold(t *testing.T) {
	store, old, _, _ := lived(t)
	for label, c := range map[string]struct {
		roles repo.Roles
		want  error
	}{
		"host": {repo.RoleBackup, repo.ErrRole}, "both": {repo.RoleBackup | repo.RoleRestore, repo.ErrRole}, "keeper": {repo.RoleMaintain, nil},
	} {
		addKey(t, store, label, c.roles)
		if err := openAs(t, store, label, repo.OpenOptions{}).Hold(t.Context(), old, ""); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", label, err, c.want)
		}
	}
}

// A point that is held cannot be forgotten, and one that is released can.
func TestHold(t *testing.T) {
	store, old, _, _ := lived(t)
	r := openSmall(t, store)
	if err := r.Hold(t.Context(), old, "before the upgrade"); err != nil {
		t.Fatal(err)
	}
	if err := r.Forget(t.Context(), []repo.Point{old}); !errors.Is(err, repo.ErrHeld) {
		t.Errorf("%v, want %v", err, repo.ErrHeld)
	}
	if held, err := r.Holds(t.Context()); err != nil || held[old.ID].Reason != "before the upgrade" {
		t.Errorf("%v, %v", held, err)
	}
	if err := r.Release(t.Context(), old); err != nil {
		t.Fatal(err)
	}
	if err := r.Forget(t.Context(), []repo.Point{old}); err != nil {
		t.Error(err)
	}
	if err := r.Hold(t.Context(), old, ""); !errors.Is(err, repo.ErrNotFound) {
		t.Errorf("%v, want %v", err, repo.ErrNotFound)
	}
}

// The order of operations of a forget and of prunes, as a reviewer can read it.
func TestMaintenanceLogsAreGolden(t *testing.T) {
	cryptotest.SetGlobalRandom(t, 1)
	// One nonce for all, or uploads would draw them from the same source.
	ctx := blob.WithNonce(t.Context())
	store := mem.NewAt(clock)
	initRepo(t, store)
	f := faults.New(store)
	r := openSmall(t, f)
	disk := image(1, block.WindowSize)
	old, err := commit(ctx, r, "lab/web", disk)
	if err != nil {
		t.Fatal(err)
	}
	copy(disk, image(2, block.WindowSize*3/4))
	if _, err := commit(ctx, r, "lab/web", disk); err != nil {
		t.Fatal(err)
	}
	f.ClearLog()
	if err := r.Forget(ctx, []repo.Point{old}); err != nil {
		t.Fatal(err)
	}
	wantGolden(t, "forget.log", plainLog(f.Log()))
	f.ClearLog()
	for range 2 {
		if _, err := r.Prune(ctx, atOnce); err != nil {
			t.Fatal(err)
		}
	}
	wantGolden(t, "prune.log", plainLog(f.Log()))
}

// plainLog calls what is random by numbers, and leaves sizes out.
func plainLog(log string) string {
	random := regexp.MustCompile(`[0-9a-f]{64}|[0-9a-f]{32}|[0-9]{8}t[0-9]{6}z-[0-9a-f]{8}|\.[0-9a-f]{16}\b`)
	names := map[string]string{}
	var out strings.Builder
	for line := range strings.Lines(log) {
		op, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		name, _, _ := strings.Cut(rest, " ")
		name = random.ReplaceAllStringFunc(name, func(s string) string {
			if names[s] == "" {
				names[s] = fmt.Sprintf("<%d>", len(names)+1)
			}
			return names[s]
		})
		out.WriteString(op + " " + regexp.MustCompile(`packs/../`).ReplaceAllString(name, "packs/") + "\n")
	}
	return out.String()
}

// An incremental of 64 MiB takes at most 12 requests, a full backup a PUT for 16 MiB and
// a constant. Stats, which the run's summary shows, count the same.
func TestRequestBudget(t *testing.T) {
	store := mem.New()
	initRepo(t, store)
	disk := image(1, 128<<20)
	full := budget(t, store, disk)
	if most := full.Stored/(16<<20) + 8; full.Objects > most {
		t.Errorf("a full backup put %d objects for %d bytes, want at most %d", full.Objects, full.Stored, most)
	}
	copy(disk[32<<20:], image(2, 64<<20))
	if s := budget(t, store, disk); s.New != 64<<20 || s.Requests > 12 {
		t.Errorf("an incremental of %d bytes took %d requests, want at most 12", s.New, s.Requests)
	}
}

// Nor does one of 64 MiB that lie in 64 places of a large disk, other ones each night: not by a
// host that reads maps, of data that shrinks by half, nor by one that keeps its own, of data
// that does not shrink.
func TestScatteredRequestBudget(t *testing.T) {
	pages := image(1, 256<<20)
	noise := make([]byte, 256<<20)
	rand.NewChaCha8([32]byte{1}).Read(noise)
	for _, keeps := range []bool{false, true} {
		store := mem.New()
		initRepo(t, store)
		r, news := openRepo(t, store), pages
		if keeps {
			r, news = newHost(t, store, "host").open(t, "host", repo.Domain{}), noise
		}
		scattered(t, r, news)
	}
}

// scattered backs up, night after night, a MiB in each of 64 places.
func scattered(t *testing.T, r *repo.Repository, news []byte) {
	t.Helper()
	const windows, places = 16384, 64
	nights := int64(len(news) / places >> 20)
	window := make([]byte, block.WindowSize)
	var last repo.Point
	for night := range nights {
		s := beginAt(t, r, clock().Add(time.Duration(night)*time.Hour))
		var parent *repo.Root
		if p, _ := s.Parent(); len(p.Disks) > 0 {
			parent = &p.Disks[0].Root
		}
		st, err := s.Stream(t.Context(), windows*block.WindowSize, parent)
		if err != nil {
			t.Fatal(err)
		}
		told := int64(0) // windows
		for i := range int64(places) {
			w := i*windows/places + 7*night
			copy(window, news[:1<<20])
			news = news[1<<20:]
			if err := errors.Join(rest(st, parent, told, w-told), st.Put(t.Context(), w, window)); err != nil {
				t.Fatal(err)
			}
			told = w + 1
		}
		if err := rest(st, parent, told, windows-told); err != nil {
			t.Fatal(err)
		}
		last = finish(t, s, st, "lab/web")
		if last.Stats.New != 64<<20 || last.Stats.Requests > 12 {
			t.Errorf("night %d: %d new bytes in %d places took %d requests, want at most 12", night, last.Stats.New, places, last.Stats.Requests)
		}
	}
	if want := nights * 64 << 20; last.Disks[0].Root.Data != want {
		t.Errorf("%d bytes in blocks in the end, want %d", last.Disks[0].Root.Data, want)
	}
}

// rest tells of windows in which nothing has changed.
func rest(st *repo.Stream, parent *repo.Root, first, count int64) error {
	if parent == nil {
		return st.Zero(first, count)
	}
	return st.Keep(first, count)
}

// budget backs a disk up by a new host, and returns what the session did until its end.
func budget(t *testing.T, store *mem.Store, disk []byte) repo.Stats {
	t.Helper()
	r := openRepo(t, store)
	n, err := r.Points(t.Context(), "lab/web")
	if err != nil {
		t.Fatal(err)
	}
	s := beginAt(t, r, clock().Add(time.Duration(len(n))*time.Hour))
	var parent *repo.Root
	if p, _ := s.Parent(); len(p.Disks) > 0 {
		parent = &p.Disks[0].Root
	}
	root, err := backup(t.Context(), s, disk, parent)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Commit(t.Context(), repo.Point{VM: "lab/web", Disks: []repo.Disk{{Root: root}}}); err != nil {
		t.Fatal(err)
	}
	return s.Stats()
}
