package repo_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"github.com/lull-backup/lull/transport/blob/mem"
	"github.com/lull-backup/lull/transport/block"
	"github.com/lull-backup/lull/transport/repo"
)

// salvage reads what is left of a stream. What was not written is zeros.
func salvage(t *testing.T, r *repo.Repository, root repo.Root) ([]byte, []repo.Hole) {
	t.Helper()
	disk := make([]byte, root.Size)
	var mu sync.Mutex
	holes, err := r.SalvageStream(t.Context(), root, 2, func(_ context.Context, off int64, data []byte) error {
		mu.Lock()
		defer mu.Unlock()
		copy(disk[off:], data)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return disk, holes
}

// Whatever is damaged, what a salvage hands out is right, and what it does not is in
// its list of holes.
func TestSalvageIsRightOutsideItsHoles(t *testing.T) {
	base := mem.New()
	initRepo(t, base)
	disk := image(1, 40*block.WindowSize/10)
	clear(disk[2*block.WindowSize : 3*block.WindowSize])
	p := mustCommit(t, openRepo(t, base), "lab/web", disk)
	rng := rand.New(rand.NewPCG(1, 2))
	for _, name := range base.Names() {
		if !strings.HasPrefix(name, "packs/") && !strings.HasPrefix(name, "index/") {
			continue
		}
		for i := range 12 {
			store := base.Clone()
			store.Damage(name, func(b []byte) []byte {
				if i == 0 {
					return b[:len(b)/2]
				}
				b[rng.IntN(len(b))] ^= 1 << rng.IntN(8)
				return b
			})
			got, holes := salvage(t, openRepo(t, store), p.Disks[0].Root)
			wantOutside(t, name, got, disk, holes)
		}
		store := base.Clone()
		if err := store.Delete(t.Context(), name); err != nil {
			t.Fatal(err)
		}
		got, holes := salvage(t, openRepo(t, store), p.Disks[0].Root)
		wantOutside(t, name, got, disk, holes)
	}
}

func wantOutside(t *testing.T, name string, got, want []byte, holes []repo.Hole) {
	t.Helper()
	left, next := bytes.Clone(want), int64(0)
	for _, h := range holes {
		if h.Offset < next || h.Length <= 0 || h.Offset+h.Length > int64(len(want)) || h.Err == "" {
			t.Fatalf("%s: holes %+v", name, holes)
		}
		clear(left[h.Offset:][:h.Length])
		next = h.Offset + h.Length
	}
	if !bytes.Equal(got, left) {
		t.Errorf("%s: wrong outside of its holes %+v", name, holes)
	}
}

// Of several segments that share a pack the damaged one is lost, and no more.
func TestSalvageLosesOneSegment(t *testing.T) {
	store := mem.New()
	initRepo(t, store)
	disk := image(1, 3*block.WindowSize)
	p := mustCommit(t, openRepo(t, store), "lab/web", disk)
	spoil(t, store, "packs/", func(name string) {
		if head, err := store.Read(t.Context(), name, 4, 1); err == nil && head[0] == 'D' {
			damage(t, store, false)(name)
		}
	})
	got, holes := salvage(t, openRepo(t, store), p.Disks[0].Root)
	wantOutside(t, "one segment", got, disk, holes)
	if len(holes) != 1 || holes[0].Length > repo.MaxSegment {
		t.Errorf("holes %+v", holes)
	}
}

// Windows come once each, whole, and beside a base only those that differ.
func TestReadWindows(t *testing.T) {
	store := mem.New()
	initRepo(t, store)
	r := openRepo(t, store)
	old := image(1, 6*block.WindowSize+5*512)
	clear(old[block.WindowSize : 2*block.WindowSize])
	now := bytes.Clone(old)
	copy(now[3*block.WindowSize+8192:], image(2, 4096))
	clear(now[3*block.WindowSize+100*4096 : 3*block.WindowSize+110*4096])
	p := mustCommit(t, r, "lab/web", old)
	q := mustCommit(t, r, "lab/web", now)
	got, told := windows(t, r, q.Disks[0].Root, nil)
	if !bytes.Equal(got, now) {
		t.Error("differs")
	}
	if want := "zero 1+1"; !strings.Contains(told, want) || strings.Contains(told, "same") {
		t.Errorf("told %q", told)
	}
	got, told = windows(t, r, q.Disks[0].Root, &p.Disks[0].Root)
	if want := now[3*block.WindowSize : 4*block.WindowSize]; !bytes.Equal(got[3*block.WindowSize:4*block.WindowSize], want) {
		t.Error("the window that differs is wrong")
	}
	clear(got[3*block.WindowSize : 4*block.WindowSize])
	if !bytes.Equal(got, make([]byte, len(got))) {
		t.Errorf("read more than what differs")
	}
	if want := "same 0+1, zero 1+1, same 2+1, same 4+1, same 5+1, same 6+1"; told != want {
		t.Errorf("told %q, want %q", told, want)
	}
}

func windows(t *testing.T, r *repo.Repository, root repo.Root, base *repo.Root) ([]byte, string) {
	t.Helper()
	disk := make([]byte, root.Size)
	var told []string
	var mu sync.Mutex
	err := r.ReadWindows(t.Context(), root, base, 2, repo.Windows{
		Zero: func(first, count int64) error {
			told = append(told, fmt.Sprintf("zero %d+%d", first, count))
			return nil
		},
		Same: func(first, count int64) error {
			told = append(told, fmt.Sprintf("same %d+%d", first, count))
			return nil
		},
		Data: func(_ context.Context, window int64, data []byte) error {
			mu.Lock()
			defer mu.Unlock()
			copy(disk[window*block.WindowSize:], data)
			return nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return disk, strings.Join(told, ", ")
}
