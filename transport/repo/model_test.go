package repo_test

import (
	"bytes"
	"context"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/lull-backup/lull/transport/blob/mem"
	"github.com/lull-backup/lull/transport/block"
	"github.com/lull-backup/lull/transport/repo"
)

// Random disks, changed at random, backed up by any mix of Put, Zero and Keep:
// every point that was ever committed restores byte for byte.
func TestModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		ctx := context.Background()
		store := mem.New()
		if _, err := repo.Init(ctx, store, repo.InitOptions{Passphrase: passphrase, Cost: cheap}); err != nil {
			rt.Fatal(err)
		}
		cache, err := os.MkdirTemp(t.TempDir(), "cache")
		if err != nil {
			rt.Fatal(err)
		}
		r := modelOpen(rt, store, cache)
		defer func() { r.Close() }()
		var disks [][]byte
		var roots []repo.Root
		disk := modelFill(rt, make([]byte, rapid.IntRange(0, 3*block.WindowSize).Draw(rt, "size")))
		for range rapid.IntRange(1, 4).Draw(rt, "points") {
			if rapid.Bool().Draw(rt, "reopen") {
				if err := r.Close(); err != nil {
					rt.Fatal(err)
				}
				r = modelOpen(rt, store, cache)
			}
			var parent *repo.Root
			var before []byte
			if n := len(roots); n > 0 {
				parent, before = &roots[n-1], disks[n-1]
			}
			roots = append(roots, modelBackup(rt, r, disk, before, parent))
			disks = append(disks, disk)
			disk = modelChange(rt, bytes.Clone(disk))
		}
		for i := range disks {
			got, err := restore(ctx, r, roots[i])
			if err != nil || !bytes.Equal(got, disks[i]) {
				rt.Fatalf("point %d of %d differs: %v", i, len(disks), err)
			}
		}
		report, err := r.Check(ctx, repo.CheckOptions{ReadAll: true})
		if err != nil || len(report.Problems) > 0 {
			rt.Fatalf("check: %+v, %v", report.Problems, err)
		}
	})
}

func modelOpen(rt *rapid.T, store *mem.Store, cache string) *repo.Repository {
	r, err := repo.Open(context.Background(), store, repo.Small(repo.OpenOptions{Passphrase: passphrase, Cache: cache, Now: clock}))
	if err != nil {
		rt.Fatal(err)
	}
	return r
}

// modelFill writes runs of zeros, of random and of repeating bytes.
func modelFill(rt *rapid.T, disk []byte) []byte {
	for at := 0; at < len(disk); {
		n := min(rapid.IntRange(1, 2<<20).Draw(rt, "run"), len(disk)-at)
		modelRun(rt, disk[at:at+n])
		at += n
	}
	return disk
}

func modelRun(rt *rapid.T, b []byte) {
	switch rapid.IntRange(0, 2).Draw(rt, "kind") {
	case 0:
		clear(b)
	case 1:
		rand.NewChaCha8([32]byte{rapid.Byte().Draw(rt, "seed")}).Read(b)
	case 2:
		for i := range b {
			b[i] = byte(i/4096) + 1
		}
	}
}

func modelChange(rt *rapid.T, disk []byte) []byte {
	if rapid.IntRange(0, 4).Draw(rt, "resize") == 0 {
		n := rapid.IntRange(0, 3*block.WindowSize).Draw(rt, "size")
		return append(disk[:min(n, len(disk))], make([]byte, max(0, n-len(disk)))...)
	}
	for range rapid.IntRange(0, 5).Draw(rt, "writes") {
		if len(disk) == 0 {
			break
		}
		at := rapid.IntRange(0, len(disk)-1).Draw(rt, "at")
		modelRun(rt, disk[at:min(at+rapid.IntRange(1, 300<<10).Draw(rt, "length"), len(disk))])
	}
	return disk
}

func modelBackup(rt *rapid.T, r *repo.Repository, disk, before []byte, parent *repo.Root) repo.Root {
	ctx := context.Background()
	points, err := r.Points(ctx, "lab/model")
	if err != nil {
		rt.Fatal(err)
	}
	s, err := r.Begin(ctx, "lab/model", clock().Add(time.Duration(len(points))*time.Hour))
	if err != nil {
		rt.Fatal(err)
	}
	defer s.Close()
	st, err := s.Stream(ctx, int64(len(disk)), parent)
	if err != nil {
		rt.Fatal(err)
	}
	order := rapid.Permutation(numbers((len(disk)+block.WindowSize-1)/block.WindowSize)).Draw(rt, "order")
	for _, w := range order {
		if err := modelWindow(rt, st, w, disk, before); err != nil {
			rt.Fatal(err)
		}
	}
	root, err := st.Finish(ctx)
	if err != nil {
		rt.Fatal(err)
	}
	if _, err := s.Commit(ctx, repo.Point{VM: "lab/model", Frozen: clock(), Disks: []repo.Disk{{Root: root}}}); err != nil {
		rt.Fatal(err)
	}
	return root
}

func numbers(n int) []int {
	ns := make([]int, n)
	for i := range ns {
		ns[i] = i
	}
	return ns
}

// modelWindow reports a window in any way that is true of it.
func modelWindow(rt *rapid.T, st *repo.Stream, w int, disk, before []byte) error {
	from, to := w*block.WindowSize, min((w+1)*block.WindowSize, len(disk))
	window := disk[from:to]
	same := len(before) >= to && min(from+block.WindowSize, len(before)) == to && bytes.Equal(before[from:to], window)
	clever := rapid.Bool().Draw(rt, "clever")
	switch {
	case clever && same:
		return st.Keep(int64(w), 1)
	case clever && block.IsZero(window):
		return st.Zero(int64(w), 1)
	}
	return st.Put(context.Background(), int64(w), window)
}
