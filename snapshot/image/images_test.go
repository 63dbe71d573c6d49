package image_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/image"
)

func create(t testing.TB, path string, format snapshot.Format, size int64, overwrite bool) snapshot.Target {
	t.Helper()
	target, err := image.Images{}.Create(t.Context(), path, format, size, overwrite)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { target.Abort() })
	return target
}

// fill writes a disk from several goroutines, in pieces of a length that is a
// multiple of 4096 but not of a cluster.
func fill(t testing.TB, target snapshot.Target, disk []byte) {
	t.Helper()
	const step = 5 * 4096
	var wg sync.WaitGroup
	for worker := range 8 {
		wg.Go(func() {
			for off := worker * step; off < len(disk); off += 8 * step {
				if err := target.WriteAt(context.Background(), disk[off:min(off+step, len(disk))], int64(off)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func names(t testing.TB, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	out := []string{}
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

func TestWriteImages(t *testing.T) {
	for _, format := range []snapshot.Format{snapshot.FormatRaw, snapshot.FormatQcow2} {
		for _, size := range []int{0, 512, 4096, 65536, 9<<20 + 1536} {
			t.Run(fmt.Sprint(format, size), func(t *testing.T) {
				dir := t.TempDir()
				disk, path := mixed(size), filepath.Join(dir, "disk")
				target := create(t, path, format, int64(size), false)
				fill(t, target, disk)
				if exists(path) {
					t.Error("the image is at its path before Commit")
				}
				if err := target.Commit(); err != nil {
					t.Fatal(err)
				}
				if err := target.Abort(); err != nil {
					t.Errorf("Abort after Commit: %v", err)
				}
				if diff := cmp.Diff([]string{"disk"}, names(t, dir)); diff != "" {
					t.Error(diff)
				}
				same(t, openLoose(t, path, format), disk)
				if format == snapshot.FormatQcow2 {
					qemuImg(t, "check", "-f", "qcow2", path)
				}
				oracle := write(t, filepath.Join(dir, "oracle"), disk)
				qemuImg(t, "compare", "-f", string(format), "-F", "raw", path, oracle)
			})
		}
	}
}

// TestLargeQcow2 writes a disk whose tables span many clusters.
func TestLargeQcow2(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk.qcow2")
	const size = 6 << 40
	target := create(t, path, snapshot.FormatQcow2, size, false)
	page := bytes.Repeat([]byte{7}, 4096)
	for off := int64(0); off < size; off += 100<<30 + 4096 {
		if err := target.WriteAt(t.Context(), page, off); err != nil {
			t.Fatal(err)
		}
	}
	if err := target.Commit(); err != nil {
		t.Fatal(err)
	}
	qemuImg(t, "check", "-f", "qcow2", path)
	qemuIO(t, path, "qcow2", "read -P 7 107374186496 4k", "read -P 0 107374190592 4k")
	src := openLoose(t, path, snapshot.FormatQcow2)
	got := make([]byte, 4096)
	if err := src.ReadAt(t.Context(), got, 100<<30+4096); err != nil || !bytes.Equal(got, page) {
		t.Errorf("read back: %v", err)
	}
}

func TestSparse(t *testing.T) {
	for _, format := range []snapshot.Format{snapshot.FormatRaw, snapshot.FormatQcow2} {
		path := filepath.Join(t.TempDir(), "disk")
		target := create(t, path, format, 64<<20, false)
		disk := make([]byte, 64<<20)
		copy(disk[20<<20:], bytes.Repeat([]byte{1}, 4096))
		fill(t, target, disk)
		if err := target.Commit(); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if used := info.Sys().(*syscall.Stat_t).Blocks * 512; used > 1<<20 {
			t.Errorf("%s: %d bytes allocated for one page", format, used)
		}
	}
}

func TestExisting(t *testing.T) {
	dir := t.TempDir()
	path := write(t, filepath.Join(dir, "disk"), []byte("precious"))
	if _, err := (image.Images{}).Create(t.Context(), path, snapshot.FormatRaw, 4096, false); !errors.Is(err, snapshot.ErrExists) {
		t.Errorf("Create: %v, want ErrExists", err)
	}
	target := create(t, path, snapshot.FormatRaw, 4096, true)
	if err := target.Abort(); err != nil {
		t.Error(err)
	}
	if b, _ := os.ReadFile(path); string(b) != "precious" {
		t.Errorf("Abort left %q", b)
	}
	target = create(t, path, snapshot.FormatRaw, 4096, true)
	if err := target.Commit(); err != nil {
		t.Fatal(err)
	}
	if b, _ := os.ReadFile(path); len(b) != 4096 {
		t.Errorf("%d bytes after Commit", len(b))
	}

	late := filepath.Join(dir, "late")
	target = create(t, late, snapshot.FormatQcow2, 4096, false)
	write(t, late, []byte("faster"))
	if err := target.Commit(); !errors.Is(err, snapshot.ErrExists) {
		t.Errorf("Commit over a file that came up meanwhile: %v, want ErrExists", err)
	}
	if b, _ := os.ReadFile(late); string(b) != "faster" {
		t.Errorf("Commit left %q", b)
	}
	if _, err := (image.Images{}).Create(t.Context(), dir, snapshot.FormatRaw, 4096, true); !errors.Is(err, snapshot.ErrUnsupported) {
		t.Errorf("Create over a folder: %v", err)
	}
	if diff := cmp.Diff([]string{"disk", "late"}, names(t, dir)); diff != "" {
		t.Error(diff)
	}
}

func TestBadWrites(t *testing.T) {
	dir := t.TempDir()
	for _, format := range []snapshot.Format{snapshot.FormatRaw, snapshot.FormatQcow2} {
		target := create(t, filepath.Join(dir, string(format)), format, 65536+512, false)
		for _, w := range []struct{ off, n int64 }{{-4096, 4096}, {512, 4096}, {0, 512}, {65536, 4096}, {1 << 62, 4096}} {
			if err := target.WriteAt(t.Context(), make([]byte, w.n), w.off); !errors.Is(err, fs.ErrInvalid) {
				t.Errorf("%s: %+v: %v", format, w, err)
			}
		}
		over, cancel := context.WithCancel(t.Context())
		cancel()
		if err := target.WriteAt(over, make([]byte, 4096), 0); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: cancelled: %v", format, err)
		}
		if err := target.Abort(); err != nil {
			t.Error(err)
		}
		if err := target.Commit(); err == nil {
			t.Errorf("%s: Commit after Abort", format)
		}
	}
	if left := names(t, dir); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
	if _, err := (image.Images{}).Create(t.Context(), filepath.Join(dir, "x"), "vmdk", 4096, false); !errors.Is(err, snapshot.ErrUnsupported) {
		t.Errorf("vmdk: %v", err)
	}
	_, err := (image.Images{}).Create(t.Context(), filepath.Join(dir, "no", "x"), snapshot.FormatRaw, 4096, false)
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), dir) {
		t.Errorf("missing folder: %v", err)
	}
}
