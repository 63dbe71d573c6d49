package repo_test

import (
	"context"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/lull-backup/lull/transport/blob"
	counting "github.com/lull-backup/lull/transport/blob/count"
	"github.com/lull-backup/lull/transport/blob/mem"
	"github.com/lull-backup/lull/transport/block"
	"github.com/lull-backup/lull/transport/repo"
)

// digits is a disk of random digits, which shrinks by half when entropy is coded, and not
// at all by matches.
func digits(seed uint64, size int) []byte {
	b := make([]byte, (size+1)/2)
	rng := rand.NewChaCha8([32]byte{byte(seed)})
	_, _ = rng.Read(b)
	return []byte(hex.EncodeToString(b))[:size]
}

// fast is a repository that is written by hosts with no time to compress, and the clock of
// its store.
type fast struct {
	store *mem.Store
	at    time.Time
	cache string
}

func newFast(t *testing.T) *fast {
	t.Helper()
	f := &fast{at: clock(), cache: t.TempDir()}
	f.store = mem.NewAt(f.now)
	initRepo(t, f.store)
	return f
}

func (f *fast) now() time.Time { return f.at }

func (f *fast) open(t *testing.T, store blob.Store, c repo.Compression) *repo.Repository {
	t.Helper()
	r, err := repo.Open(t.Context(), store, repo.Small(repo.OpenOptions{Passphrase: passphrase, Now: f.now, Cache: f.cache, Compression: c}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

func stored(t *testing.T, store *mem.Store) (n int64) {
	t.Helper()
	for _, name := range objects(store, "packs/") {
		info, err := store.Stat(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		n += info.Size
	}
	return n
}

// What was compressed in a hurry is compressed well by maintenance, within its budget; what
// would gain nothing is left alone, and not even tried a second time.
func TestRecompress(t *testing.T) {
	f := newFast(t)
	r := f.open(t, f.store, repo.CompressFast)
	disks := [][]byte{digits(1, block.WindowSize), digits(2, block.WindowSize), image(3, block.WindowSize)}
	var points []repo.Point
	for i, vm := range []string{"lab/a", "lab/b", "lab/packed"} {
		points = append(points, mustCommit(t, r, vm, disks[i]))
	}
	before := stored(t, f.store)
	foreseen := prune(t, r, repo.PruneOptions{DryRun: true, Recompress: 1 << 40})
	if foreseen.Recompressed < 4 || foreseen.Saved < before/4 || foreseen.Rewritten > 0 {
		t.Errorf("dry run: %+v", foreseen)
	}
	if report := prune(t, r, repo.PruneOptions{Recompress: 1}); report.Recompressed > 2 {
		t.Errorf("with next to no budget: %+v", report)
	}
	total := 0
	for range 3 {
		f.at = f.at.Add(30 * time.Hour)
		report := prune(t, r, repo.PruneOptions{Recompress: 1 << 40})
		if total += report.Recompressed; report.Recompressed > 0 && (report.Saved < 1<<20 || report.Marked < report.Recompressed) {
			t.Errorf("%+v", report)
		}
	}
	if after := stored(t, f.store); total == 0 || after > before*3/4 || after < before/3 {
		t.Errorf("%d packs compressed anew, from %d to %d bytes", total, before, after)
	}
	counted := counting.New(f.store)
	again := f.open(t, counted, repo.CompressFast)
	at := counted.Totals()
	if report := prune(t, again, repo.PruneOptions{Recompress: 1 << 40}); report.Recompressed+report.Marked > 0 {
		t.Errorf("once more: %+v", report)
	}
	if read := counted.Totals().Sub(at).Read; read > 1<<20 {
		t.Errorf("%d bytes are read of packs that were tried before", read)
	}
	wantClean(t, again)
	for i, p := range points {
		wantDisk(t, openRepo(t, f.store), p.Disks[0].Root, disks[i])
	}
}

// askedForLocks counts the objects whose locks a store is asked for.
type askedForLocks struct {
	*mem.Store
	locks int
}

func (s *askedForLocks) Retention(ctx context.Context, name string) (blob.Lock, error) {
	s.locks++
	return s.Store.Retention(ctx, name)
}

// The store is asked for the locks of those packs alone whose turn comes, not of millions.
func TestRecompressAsksForFewLocks(t *testing.T) {
	f := &fast{at: clock()}
	f.store = mem.NewLocking(f.now, blob.Locking{Enabled: true, Versioned: true})
	initRepo(t, f.store)
	store := &askedForLocks{Store: f.store}
	r := f.open(t, store, repo.CompressFast)
	mustCommit(t, r, "lab/a", digits(1, 8*block.WindowSize))
	store.locks = 0
	packs := len(objects(f.store, "packs/"))
	if prune(t, r, repo.PruneOptions{DryRun: true, Recompress: 1}); store.locks == 0 || store.locks > packs/2 {
		t.Errorf("asked for the locks of %d of %d packs", store.locks, packs)
	}
}

// Who cannot read disk data is told so, at once. Who can and may prune needs no other role.
func TestRecompressNeedsToRead(t *testing.T) {
	f := newFast(t)
	addKey(t, f.store, "keeper", repo.RoleMaintain)
	addKey(t, f.store, "office", repo.RoleMaintain|repo.RoleRestore)
	p := mustCommit(t, f.open(t, f.store, repo.CompressFast), "lab/a", digits(1, block.WindowSize))
	_, err := openAs(t, f.store, "keeper", repo.OpenOptions{}).Prune(t.Context(), repo.PruneOptions{Recompress: 1})
	if !errors.Is(err, repo.ErrRole) || !strings.Contains(err.Error(), "keeper may not compress anew") || strings.Contains(err.Error(), "\n") {
		t.Errorf("%v", err)
	}
	office := openAs(t, f.store, "office", repo.Small(repo.OpenOptions{}))
	for range 2 {
		prune(t, office, repo.PruneOptions{Grace: -1, Recompress: 1 << 30})
	}
	if n := stored(t, f.store); n > block.WindowSize*2/3 {
		t.Errorf("%d bytes are stored", n)
	}
	wantClean(t, openRepo(t, f.store))
	wantDisk(t, openRepo(t, f.store), p.Disks[0].Root, digits(1, block.WindowSize))
}

// What the store keeps locked is not written twice.
func TestRecompressLeavesWhatIsLocked(t *testing.T) {
	s := newLockedStore()
	initRepo(t, s.store)
	r, err := repo.Open(t.Context(), s.store, repo.Small(repo.OpenOptions{Passphrase: passphrase, Now: s.time, Compression: repo.CompressFast}))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	mustCommit(t, r, "lab/a", digits(1, block.WindowSize))
	if report := prune(t, r, repo.PruneOptions{Recompress: 1 << 40}); report.Recompressed > 0 {
		t.Errorf("under lock: %+v", report)
	}
	s.pass(lockPeriod + time.Second)
	if report := prune(t, r, repo.PruneOptions{Recompress: 1 << 40}); report.Recompressed == 0 {
		t.Errorf("after that: %+v", report)
	}
}
