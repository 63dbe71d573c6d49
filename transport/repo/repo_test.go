package repo_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lull-backup/lull/transport/blob"
	"github.com/lull-backup/lull/transport/blob/mem"
	"github.com/lull-backup/lull/transport/block"
	"github.com/lull-backup/lull/transport/repo"
)

var passphrase = []byte("correct horse battery staple")

// cheap makes a passphrase cheap to try.
var cheap = repo.Cost{Time: 1, Memory: 64, Threads: 1}

func initRepo(t testing.TB, store blob.Store) {
	t.Helper()
	if _, err := repo.Init(t.Context(), store, repo.InitOptions{Passphrase: passphrase, Cost: cheap, Now: clock}); err != nil {
		t.Fatal(err)
	}
}

func openRepo(t testing.TB, store blob.Store) *repo.Repository {
	t.Helper()
	return openCached(t, store, "")
}

// openCached opens a repository with a cache that outlives it; "": none.
func openCached(t testing.TB, store blob.Store, cache string) *repo.Repository {
	t.Helper()
	return openWith(t, store, repo.OpenOptions{Passphrase: passphrase, Now: clock, Cache: cache})
}

// openWith opens a repository until the end of the test.
func openWith(t testing.TB, store blob.Store, o repo.OpenOptions) *repo.Repository {
	t.Helper()
	r, err := repo.Open(t.Context(), store, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

func clock() time.Time { return time.Date(2026, 11, 21, 1, 30, 0, 0, time.UTC) }

// image makes a disk of data that compresses by half: each page is random, twice.
func image(seed uint64, size int) []byte {
	b := make([]byte, size+block.PageSize)
	const half = block.PageSize / 2
	rng := rand.NewChaCha8([32]byte{byte(seed)})
	for at := 0; at < size; at += block.PageSize {
		rng.Read(b[at : at+half])
		copy(b[at+half:at+2*half], b[at:])
	}
	return b[:size:size]
}

// backup puts a whole disk through a stream, with one worker.
func backup(ctx context.Context, s *repo.Session, disk []byte, parent *repo.Root) (repo.Root, error) {
	st, err := s.Stream(ctx, int64(len(disk)), parent)
	if err != nil {
		return repo.Root{}, err
	}
	for w, at := int64(0), 0; at < len(disk); w, at = w+1, at+block.WindowSize {
		if err := st.Put(ctx, w, disk[at:min(at+block.WindowSize, len(disk))]); err != nil {
			return repo.Root{}, err
		}
	}
	return st.Finish(ctx)
}

// commit backs disks up into one point.
func commit(ctx context.Context, r *repo.Repository, vm string, disks ...[]byte) (repo.Point, error) {
	var parents []repo.Disk
	points, err := r.Points(ctx, vm)
	if err != nil {
		return repo.Point{}, err
	}
	at := clock().Add(time.Duration(len(points)) * time.Hour)
	s, err := r.Begin(ctx, vm, at)
	if err != nil {
		return repo.Point{}, err
	}
	defer s.Close()
	if n := len(points); n > 0 {
		parents = points[n-1].Disks
	}
	p := repo.Point{VM: vm, Frozen: at}
	for i, d := range disks {
		var parent *repo.Root
		if i < len(parents) {
			parent = &parents[i].Root
		}
		root, err := backup(ctx, s, d, parent)
		if err != nil {
			return repo.Point{}, err
		}
		p.Disks = append(p.Disks, repo.Disk{Root: root})
	}
	return s.Commit(ctx, p)
}

func mustCommit(t testing.TB, r *repo.Repository, vm string, disks ...[]byte) repo.Point {
	t.Helper()
	p, err := commit(t.Context(), r, vm, disks...)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// restore reads a stream back.
func restore(ctx context.Context, r *repo.Repository, root repo.Root) ([]byte, error) {
	disk := make([]byte, root.Size)
	var mu sync.Mutex
	var got int64
	err := r.ReadStream(ctx, root, 2, func(_ context.Context, off int64, data []byte) error {
		mu.Lock()
		defer mu.Unlock()
		got += int64(len(data))
		copy(disk[off:], data)
		return nil
	})
	if err == nil && got != root.Data {
		err = fmt.Errorf("%d bytes restored, the root says %d", got, root.Data)
	}
	return disk, err
}

func wantDisk(t testing.TB, r *repo.Repository, root repo.Root, want []byte) {
	t.Helper()
	got, err := restore(t.Context(), r, root)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Fatal("restored disk differs")
	}
}

func TestBackupAndRestore(t *testing.T) {
	store := mem.New()
	initRepo(t, store)
	r := openRepo(t, store)
	disk := image(1, 3*block.WindowSize+5*512)
	clear(disk[block.WindowSize/2 : 2*block.WindowSize+block.PageSize])
	file := image(2, 700)
	p := mustCommit(t, r, "lab/web", disk, file, nil, make([]byte, 9<<20))
	for i, want := range [][]byte{disk, file, nil, make([]byte, 9<<20)} {
		wantDisk(t, r, p.Disks[i].Root, want)
	}
	again := openRepo(t, store)
	points, err := again.Points(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]repo.Point{p}, points); diff != "" {
		t.Error(diff)
	}
	wantDisk(t, again, points[0].Disks[0].Root, disk)
}
