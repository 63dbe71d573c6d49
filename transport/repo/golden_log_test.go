package repo_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"testing/cryptotest"

	"github.com/lull-backup/lull/transport/blob"
	"github.com/lull-backup/lull/transport/blob/faults"
	"github.com/lull-backup/lull/transport/blob/mem"
	"github.com/lull-backup/lull/transport/block"
	"github.com/lull-backup/lull/transport/repo"
)

// existing is a store with one point of two disks.
func existing(t *testing.T) (*mem.Store, repo.Point, [2][]byte) {
	t.Helper()
	store := mem.New()
	initRepo(t, store)
	disks := [2][]byte{image(1, 2*block.WindowSize), image(2, block.WindowSize+block.PageSize)}
	p := mustCommit(t, openRepo(t, store), "lab/web", disks[0], disks[1])
	return store, p, disks
}

// changed is what the disks of existing look like a day later.
func changed(disks [2][]byte) [2][]byte {
	a, b := bytes.Clone(disks[0]), bytes.Clone(disks[1])
	copy(a[block.WindowSize:], image(3, block.WindowSize))
	return [2][]byte{a, append(b, image(4, 3*block.WindowSize)...)}
}

// Whatever change of the store is the last one before a crash, what was there is
// whole, and the new point is there whole or not at all.
func TestCrashAfterEveryOperation(t *testing.T) {
	base, old, disks := existing(t)
	now := changed(disks)
	for n := 0; ; n++ {
		store := base.Clone()
		f := faults.New(store)
		r := openSmall(t, f)
		f.CrashAfter(n)
		_, err := commit(t.Context(), r, "lab/web", now[0], now[1])
		// What follows the commit is the session's end, which may be lost.
		if !f.Crashed() && err != nil {
			t.Fatalf("after %d operations: commit says %v", n, err)
		}
		wantAfterCrash(t, store, old, [2][2][]byte{disks, now}, err == nil)
		if !f.Crashed() {
			break
		}
		if n > 100 {
			t.Fatal("no end of operations")
		}
	}
}

func wantAfterCrash(t *testing.T, store blob.Store, old repo.Point, disks [2][2][]byte, committed bool) {
	t.Helper()
	r := openRepo(t, store)
	wantClean(t, r)
	points, err := r.Points(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	want := 1
	if committed {
		want = 2
	}
	if len(points) != want || points[0].ID != old.ID {
		t.Fatalf("%d points, want %d", len(points), want)
	}
	for i, p := range points {
		for j, d := range p.Disks {
			wantDisk(t, r, d.Root, disks[i][j])
		}
	}
}

// A lost reply is a failure to the caller of Create, or a success, but never a
// damaged repository.
func TestLostReplies(t *testing.T) {
	base, old, disks := existing(t)
	now := changed(disks)
	lost := errors.New("connection reset")
	for _, prefix := range []string{"packs/", "index/", "points/"} {
		store := base.Clone()
		f := faults.New(store)
		f.Add(faults.Fault{Op: faults.Create, Prefix: prefix, Nth: 1, After: lost})
		if _, err := commit(t.Context(), openSmall(t, f), "lab/web", now[0], now[1]); !errors.Is(err, lost) {
			t.Errorf("%s: %v, want %v", prefix, err, lost)
		}
		wantAfterCrash(t, store, old, [2][2][]byte{disks, now}, prefix == "points/")
	}
}

// The order of writes, as a reviewer can read it: packs, then the index objects
// that list them, then the manifest.
func TestOperationLogIsGolden(t *testing.T) {
	cryptotest.SetGlobalRandom(t, 1)
	base, _, disks := existing(t)
	now := changed(disks)
	f := faults.New(base)
	r := openSmall(t, f)
	f.ClearLog()
	// One nonce for all, or the uploader would draw them from the same source.
	if _, err := commit(blob.WithNonce(t.Context()), r, "lab/web", now[0], now[1]); err != nil {
		t.Fatal(err)
	}
	hex := regexp.MustCompile(`[0-9a-f]{32,64}|[0-9]{8}t[0-9]{6}z-[0-9a-f]{8}`)
	names := map[string]string{}
	var log strings.Builder
	for line := range strings.Lines(f.Log()) {
		log.WriteString(hex.ReplaceAllStringFunc(line, func(s string) string {
			if names[s] == "" {
				names[s] = fmt.Sprintf("<%d>", len(names)+1)
			}
			return names[s]
		}))
	}
	got := regexp.MustCompile(`packs/../`).ReplaceAllString(log.String(), "packs/")
	wantGolden(t, "backup.log", got)
}

// wantGolden compares text with a file under testdata. After a change that is
// meant, LULL_GOLDEN=write writes it anew.
func wantGolden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if os.Getenv("LULL_GOLDEN") == "write" {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s has changed:\n%s", path, got)
	}
}
