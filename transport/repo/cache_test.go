package repo_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lull-backup/lull/transport/blob"
	"github.com/lull-backup/lull/transport/blob/faults"
	"github.com/lull-backup/lull/transport/blob/mem"
	"github.com/lull-backup/lull/transport/block"
	"github.com/lull-backup/lull/transport/repo"
)

// Bits that flip in the index cache cost reading index objects again. A backup and
// a restore over it are right, and next to nothing is stored twice: a bit of a
// filter, which alone is not checked, may hide a block from a session.
func TestFlippedBitsInTheCache(t *testing.T) {
	store := mem.New()
	initRepo(t, store)
	cache := t.TempDir()
	disk := image(1, 3*block.WindowSize)
	first := mustCommit(t, openCached(t, store, cache), "lab/web", disk)
	for part := range 8 {
		flipCache(t, cache, part, 8)
		r := openCached(t, store, cache)
		wantDisk(t, r, first.Disks[0].Root, disk)
		p := mustCommit(t, r, "lab/other", disk)
		if p.Stats.NewBlocks > 3 {
			t.Errorf("part %d: %d blocks are stored twice", part, p.Stats.NewBlocks)
		}
		wantDisk(t, r, p.Disks[0].Root, disk)
	}
	wantClean(t, openRepo(t, store))
}

// Two agents of one host share its cache, with a key that reads nothing, so that the maps of
// their own points are there, too: both back up at the same time, night after night, and
// each finds what the other has stored and where it was itself.
func TestTwoAgentsShareTheCache(t *testing.T) {
	store := mem.New()
	initRepo(t, store)
	h := newHost(t, store, "host1")
	agents := [2]*repo.Repository{h.open(t, "host1", repo.Domain{}), h.open(t, "host1", repo.Domain{})}
	disks := [2][]byte{image(1, block.WindowSize+9*block.PageSize), image(2, block.WindowSize+9*block.PageSize)}
	vms := [2]string{"lab/web", "lab/db"}
	var last [2]repo.Point
	for night := range 3 {
		var wg sync.WaitGroup
		for i, r := range agents {
			wg.Go(func() {
				var err error
				if last[i], err = onceMore(t.Context(), r, vms[i], disks[i], night); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		for i, p := range last {
			if want := min(int64(night), 1) * p.Stats.Read; p.Stats.Dedup < want {
				t.Errorf("night %d: %s: %+v", night, vms[i], p.Stats)
			}
		}
	}
	if t.Failed() {
		return
	}
	// A third one, later, knows all of it: the other's disk costs nothing.
	p := again(t, h.open(t, "host1", repo.Domain{}), "lab/third", append(bytes.Clone(disks[0][:block.WindowSize]), disks[1][:block.WindowSize]...), 4)
	if p.Stats.New > 0 || len(p.Heads) != 2 {
		t.Errorf("%+v, heads %v", p.Stats, p.Heads)
	}
	owner := openRepo(t, store)
	wantClean(t, owner)
	for i, p := range last {
		wantDisk(t, owner, p.Disks[0].Root, disks[i])
	}
}

// A session that cannot even be announced leaves none of the host's files open, night after
// night that the store is away.
func TestSessionThatDoesNotBeginHoldsNothing(t *testing.T) {
	store := mem.New()
	initRepo(t, store)
	h := newHost(t, store, "host1")
	r := h.open(t, "host1", repo.Domain{})
	again(t, r, "lab/web", image(1, 20*block.PageSize), 0)
	before := openBelow(t, h.disk)
	h.log.Add(faults.Fault{Op: faults.Create, Prefix: "sessions/", Before: blob.ErrUnreachable})
	if _, err := r.Begin(t.Context(), "lab/web", clock().Add(time.Hour)); !errors.Is(err, blob.ErrUnreachable) {
		t.Fatalf("%v, want %v", err, blob.ErrUnreachable)
	}
	if after := openBelow(t, h.disk); len(after) > len(before) {
		t.Errorf("open are %q, before it were %q", after, before)
	}
}

// openBelow are the files below a folder that this process has open.
func openBelow(t *testing.T, dir string) (names []string) {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range all {
		name, err := os.Readlink(filepath.Join("/proc/self/fd", fd.Name()))
		if err == nil && strings.HasPrefix(name, dir+"/") {
			names = append(names, name)
		}
	}
	return names
}

// flipCache flips a bit in every so many pages of each run.
func flipCache(t *testing.T, cache string, part, parts int) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(cache, "*", "index", "*.run3"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%d runs in the cache, %v", len(files), err)
	}
	for _, path := range files {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for page := part; page*4096 < len(b); page += parts {
			b[page*4096+17*part] ^= 4
		}
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
