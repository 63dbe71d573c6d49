package repo_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/lull-backup/lull/transport/blob"
	"github.com/lull-backup/lull/transport/blob/faults"
	"github.com/lull-backup/lull/transport/blob/mem"
	"github.com/lull-backup/lull/transport/block"
	"github.com/lull-backup/lull/transport/repo"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// An unchanged disk costs its manifest, whether it is read or kept.
func TestUnchangedDiskMakesOnlyAManifest(t *testing.T) {
	store := mem.New()
	initRepo(t, store)
	r := openRepo(t, store)
	disk := image(1, 5*block.WindowSize)
	first := mustCommit(t, r, "lab/web", disk)
	before := store.Names()
	second := mustCommit(t, r, "lab/web", disk)
	wantNew(t, store, before, "points/")
	if second.Disks[0].Root != first.Disks[0].Root || second.Parent != first.ID {
		t.Errorf("root %+v of parent %s, want %+v, %s", second.Disks[0].Root, second.Parent, first.Disks[0].Root, first.ID)
	}
	if st := second.Stats; st.New != 0 || st.Dedup != int64(len(disk)) || st.Read != int64(len(disk)) {
		t.Errorf("stats %+v", st)
	}
	before = store.Names()
	kept := keepAll(t, r, first)
	wantNew(t, store, before, "points/")
	wantDisk(t, r, kept.Disks[0].Root, disk)
}

func keepAll(t *testing.T, r *repo.Repository, p repo.Point) repo.Point {
	t.Helper()
	s := begin(t, r)
	root := p.Disks[0].Root
	st, err := s.Stream(t.Context(), root.Size, &root)
	if err != nil {
		t.Fatal(err)
	}
	if err := st.Keep(0, root.Size/block.WindowSize); err != nil {
		t.Fatal(err)
	}
	return finish(t, s, st, p.VM)
}

func begin(t *testing.T, r *repo.Repository) *repo.Session {
	t.Helper()
	points, err := r.Points(t.Context(), "lab/web")
	if err != nil {
		t.Fatal(err)
	}
	return beginAt(t, r, clock().Add(time.Duration(len(points))*time.Hour))
}

func beginAt(t *testing.T, r *repo.Repository, at time.Time) *repo.Session {
	t.Helper()
	s, err := r.Begin(t.Context(), "lab/web", at)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func finish(t *testing.T, s *repo.Session, st *repo.Stream, vm string) repo.Point {
	t.Helper()
	root, err := st.Finish(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	p, err := s.Commit(t.Context(), repo.Point{VM: vm, Frozen: clock(), Disks: []repo.Disk{{Root: root}}})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// wantNew fails unless the store has gained exactly one object under each prefix.
func wantNew(t *testing.T, store *mem.Store, before []string, prefixes ...string) {
	t.Helper()
	var gained []string
	for _, name := range store.Names() {
		if !slices.Contains(before, name) && !strings.HasPrefix(name, "sessions/") {
			gained = append(gained, name)
		}
	}
	ok := len(gained) == len(prefixes)
	for i := range min(len(gained), len(prefixes)) {
		ok = ok && strings.HasPrefix(gained[i], prefixes[i])
	}
	if !ok {
		t.Errorf("new objects %q, want one under each of %q", gained, prefixes)
	}
}

// A small change on a large disk costs a few requests, whatever the disk.
func TestIncrementalIsCheap(t *testing.T) {
	store := mem.New()
	initRepo(t, store)
	f := faults.New(store)
	r := openRepo(t, f)
	const windows = 400
	s := begin(t, r)
	st, err := s.Stream(t.Context(), windows*block.WindowSize, nil)
	if err != nil {
		t.Fatal(err)
	}
	small := make([]byte, block.WindowSize)
	for w := range int64(windows) {
		copy(small, fmt.Sprintf("window %d", w))
		if err := st.Put(t.Context(), w, small); err != nil {
			t.Fatal(err)
		}
	}
	first := finish(t, s, st, "lab/web")

	r = openRepo(t, f)
	f.ClearLog()
	s = beginAt(t, r, clock().Add(time.Hour))
	root := first.Disks[0].Root
	if st, err = s.Stream(t.Context(), root.Size, &root); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(st.Keep(0, 200), st.Zero(201, 1), st.Keep(202, windows-202)); err != nil {
		t.Fatal(err)
	}
	if err := st.Put(t.Context(), 200, image(1, block.WindowSize)); err != nil {
		t.Fatal(err)
	}
	p := finish(t, s, st, "lab/web")
	if n := strings.Count(f.Log(), "\n"); n > 12 || int64(n) != s.Stats().Requests {
		t.Errorf("%d requests, %d by the session's count:\n%s", n, s.Stats().Requests, f.Log())
	}
	if p.Disks[0].Root.Data != (windows-2)*block.PageSize+block.WindowSize {
		t.Errorf("%d bytes in blocks", p.Disks[0].Root.Data)
	}
}

// Two workers that meet the same new block store it once.
func TestConcurrentDuplicatesAreStoredOnce(t *testing.T) {
	store := mem.New()
	initRepo(t, store)
	r := openRepo(t, store)
	s := begin(t, r)
	const windows = 24
	st, err := s.Stream(t.Context(), windows*block.WindowSize, nil)
	if err != nil {
		t.Fatal(err)
	}
	same := image(7, block.WindowSize)
	var wg sync.WaitGroup
	for worker := range int64(4) {
		wg.Go(func() {
			for w := worker; w < windows; w += 4 {
				if err := st.Put(t.Context(), w, same); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	p := finish(t, s, st, "lab/web")
	if got := s.Stats(); got.New != block.WindowSize || got.Dedup != (windows-1)*block.WindowSize {
		t.Errorf("stats %+v", got)
	}
	disk, err := restore(t.Context(), r, p.Disks[0].Root)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(disk[(windows-1)*block.WindowSize:], same) {
		t.Error("last window differs")
	}
}

// Points of one second are in order too.
func TestIDsSortByTime(t *testing.T) {
	store := mem.New()
	initRepo(t, store)
	r := openRepo(t, store)
	parent := ""
	for i := range 8 {
		s := beginAt(t, r, clock().Add(time.Duration(i+1)*20*time.Millisecond))
		p, err := s.Commit(t.Context(), repo.Point{VM: "lab/web"})
		if err != nil {
			t.Fatal(err)
		}
		if p.Parent != parent || p.ID <= parent {
			t.Errorf("%s has parent %s, want %s", p.ID, p.Parent, parent)
		}
		parent = p.ID
	}
}

func TestSessionRefuses(t *testing.T) {
	store := mem.New()
	initRepo(t, store)
	r := openRepo(t, store)
	s := begin(t, r)
	st, err := s.Stream(t.Context(), 2*block.WindowSize+1, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := st.Zero(0, 4); err == nil {
		t.Error("a window past the end")
	}
	if err := st.Keep(0, 1); err == nil {
		t.Error("kept without a parent")
	}
	if _, err := st.Finish(t.Context()); err == nil {
		t.Error("finished without its windows")
	}
	if _, err := s.Stream(t.Context(), -1, nil); err == nil {
		t.Error("negative size")
	}
	if err := st.Put(t.Context(), 2, make([]byte, 2)); err == nil {
		t.Error("window of a wrong length")
	}
	if _, err := s.Commit(t.Context(), repo.Point{VM: "x"}); err == nil {
		t.Error("committed after a failed Put")
	}
}

// A store that fails ends the session with its error, and leaves no point.
func TestStoreFails(t *testing.T) {
	for _, prefix := range []string{"packs/", "index/", "points/"} {
		store := mem.New()
		initRepo(t, store)
		f := faults.New(store)
		r := openRepo(t, f)
		f.Add(faults.Fault{Op: faults.Create, Prefix: prefix, Before: blob.ErrNoSpace})
		if _, err := commit(t.Context(), r, "lab/web", image(1, 2*block.WindowSize)); !errors.Is(err, blob.ErrNoSpace) {
			t.Errorf("%s: %v, want %v", prefix, err, blob.ErrNoSpace)
		}
		if points, err := r.Points(t.Context(), ""); err != nil || len(points) > 0 {
			t.Errorf("%s: %d points, %v", prefix, len(points), err)
		}
		f.Heal()
		disk := image(1, 2*block.WindowSize)
		p := mustCommit(t, r, "lab/web", disk)
		wantDisk(t, r, p.Disks[0].Root, disk)
		wantClean(t, r)
	}
}

// A store that hangs lets go when the context ends, wherever the session is.
func TestCancel(t *testing.T) {
	store := mem.New()
	initRepo(t, store)
	f := faults.New(store)
	r := openSmall(t, f)
	never := make(chan struct{})
	f.Add(faults.Fault{Op: faults.Create, Hold: never})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		_, err := commit(ctx, r, "lab/web", image(1, 6*block.WindowSize))
		done <- err
	}()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want %v", err, context.Canceled)
	}
}

func openSmall(t testing.TB, store blob.Store) *repo.Repository {
	t.Helper()
	return openWith(t, store, repo.Small(repo.OpenOptions{Passphrase: passphrase, Now: clock}))
}

func wantClean(t testing.TB, r *repo.Repository) {
	t.Helper()
	report, err := r.Check(t.Context(), repo.CheckOptions{ReadAll: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range report.Problems {
		t.Errorf("check: %s: %s, hits %q", p.Object, p.Err, p.Points)
	}
}

// Blocks of a session that is given up are no one's.
func TestSessionsAreApart(t *testing.T) {
	store := mem.New()
	initRepo(t, store)
	r := openSmall(t, store)
	disk := image(3, 2*block.WindowSize)
	given := begin(t, r)
	if _, err := backup(t.Context(), given, disk, nil); err != nil {
		t.Fatal(err)
	}
	p := mustCommit(t, r, "lab/web", disk)
	if err := given.Close(); err != nil {
		t.Error(err)
	}
	wantClean(t, r)
	wantDisk(t, openRepo(t, store), p.Disks[0].Root, disk)
}
