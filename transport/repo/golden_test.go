package repo_test

import (
	"context"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/cryptotest"

	"github.com/google/go-cmp/cmp"

	"github.com/lull-backup/lull/quiesce"
	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/transport/blob"
	"github.com/lull-backup/lull/transport/blob/mem"
	"github.com/lull-backup/lull/transport/block"
	"github.com/lull-backup/lull/transport/repo"
)

// goldenDir holds a repository of version 1, an object a file. It is never
// rewritten: it must be readable forever.
const goldenDir = "testdata/v1"

// goldenDisk has blocks in its first and third window, zeros, and an odd tail.
func goldenDisk() []byte {
	disk := make([]byte, 2*block.WindowSize+9*block.PageSize+512)
	for i := range 5 * block.PageSize {
		disk[3*block.PageSize+i] = byte(i * i >> 7)
	}
	copy(disk[2*block.WindowSize:], disk[3*block.PageSize:8*block.PageSize])
	copy(disk[2*block.WindowSize+9*block.PageSize:], "the tail of the disk")
	return disk
}

// writeGolden makes the golden repository.
func writeGolden(t *testing.T, store blob.Store) {
	t.Helper()
	cryptotest.SetGlobalRandom(t, 1)
	initRepo(t, store)
	r := openSmall(t, store) // one upload at a time: packs are listed in order
	ctx := blob.WithNonce(t.Context())
	s, err := r.Begin(ctx, "lab/web", clock())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	root, err := backup(ctx, s, goldenDisk(), nil)
	if err != nil {
		t.Fatal(err)
	}
	nvram, err := backup(ctx, s, []byte("variables"), nil)
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.Commit(ctx, repo.Point{
		VM: "lab/web", Frozen: clock(), Agent: "1.0.0",
		Hardware: snapshot.Hardware{Machine: "pc-q35-7.2", Memory: 1 << 30},
		Disks:    []repo.Disk{{Disk: snapshot.Disk{Name: "root", Format: snapshot.FormatQcow2, Size: root.Size}, Root: root}},
		Files:    []repo.File{{File: snapshot.File{Role: snapshot.RoleNVRAM, Path: "/run/vm/nvram"}, Root: nvram}},
		Quiesce:  quiesce.Report{Asked: quiesce.LevelApplication, Level: quiesce.LevelFilesystem},
	})
	if err != nil {
		t.Fatal(err)
	}
}

// loadGolden reads the files into a store.
func loadGolden(t *testing.T) *mem.Store {
	t.Helper()
	store := mem.New()
	err := filepath.WalkDir(goldenDir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		name, err := filepath.Rel(goldenDir, path)
		if err != nil {
			return err
		}
		return store.Create(context.Background(), filepath.ToSlash(name), b)
	})
	if err != nil {
		t.Fatal(err)
	}
	return store
}

func TestGoldenRepositoryIsReadable(t *testing.T) {
	r := openRepo(t, loadGolden(t))
	wantClean(t, r)
	points, err := r.Points(t.Context(), "lab/web")
	if err != nil || len(points) != 1 {
		t.Fatalf("%d points, %v", len(points), err)
	}
	wantDisk(t, r, points[0].Disks[0].Root, goldenDisk())
	wantDisk(t, r, points[0].Files[0].Root, []byte("variables"))
	doc, err := json.MarshalIndent(points[0], "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	wantGolden(t, "v1-point.json", string(doc)+"\n")
}

// The same objects are written as ever. Their bytes depend on the order in which
// randomness is drawn, and that is no part of the format.
func TestGoldenRepositoryIsWrittenAlike(t *testing.T) {
	store := mem.New()
	writeGolden(t, store)
	if os.Getenv("LULL_GOLDEN") == "new" {
		saveGolden(t, store)
	}
	if diff := cmp.Diff(kinds(loadGolden(t)), kinds(store)); diff != "" {
		t.Error(diff)
	}
}

// kinds is how many objects there are of each kind.
func kinds(store *mem.Store) map[string]int {
	n := map[string]int{}
	for _, name := range store.Names() {
		kind, _, _ := strings.Cut(name, "/")
		n[kind]++
	}
	return n
}

// saveGolden is for a new version of the format. It writes no file twice.
func saveGolden(t *testing.T, store *mem.Store) {
	t.Helper()
	for _, name := range store.Names() {
		path := filepath.Join(goldenDir, name)
		b, err := store.Read(t.Context(), name, 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write(b); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
