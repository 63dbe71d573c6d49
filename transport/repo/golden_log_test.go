package repo_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
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

// existing is a store with one point of two disks.
func existing(t *testing.T) (*mem.Store, [2][]byte) {
	t.Helper()
	store := mem.New()
	initRepo(t, store)
	disks := [2][]byte{image(1, 2*block.WindowSize), image(2, block.WindowSize+block.PageSize)}
	mustCommit(t, openRepo(t, store), "lab/web", disks[0], disks[1])
	return store, disks
}

// changed is what the disks of existing look like a day later.
func changed(disks [2][]byte) [2][]byte {
	a, b := bytes.Clone(disks[0]), bytes.Clone(disks[1])
	copy(a[block.WindowSize:], image(3, block.WindowSize))
	return [2][]byte{a, append(b, image(4, 3*block.WindowSize)...)}
}

// commitOnParent backs disks up as the agent does: on top of the point that the session has
// found.
func commitOnParent(ctx context.Context, r *repo.Repository, vm string, disks ...[]byte) error {
	at := clock().Add(time.Hour)
	s, err := r.Begin(ctx, vm, at)
	if err != nil {
		return err
	}
	defer s.Close()
	parent, err := s.Parent()
	if err != nil {
		return err
	}
	p := repo.Point{VM: vm, Frozen: at}
	for i, d := range disks {
		root, err := backup(ctx, s, d, &parent.Disks[i].Root)
		if err != nil {
			return err
		}
		p.Disks = append(p.Disks, repo.Disk{Root: root})
	}
	_, err = s.Commit(ctx, p)
	return err
}

// The order of writes, as a reviewer can read it: packs, then the index objects
// that list them, then the manifest.
func TestOperationLogIsGolden(t *testing.T) {
	cryptotest.SetGlobalRandom(t, 1)
	base, disks := existing(t)
	now := changed(disks)
	f := faults.New(base)
	r := openSmall(t, f)
	f.ClearLog()
	// One nonce for all, or the uploader would draw them from the same source.
	if err := commitOnParent(blob.WithNonce(t.Context()), r, "lab/web", now[0], now[1]); err != nil {
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
