package image_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/image"
)

// TestQcow2Matrix reads what qemu-img makes, in all its variants.
func TestQcow2Matrix(t *testing.T) {
	disk := mixed(5<<20 + 1536)
	raw := write(t, filepath.Join(t.TempDir(), "disk.raw"), disk)
	for name, args := range map[string][]string{
		"v2":                    {"-o", "compat=0.10"},
		"v2 compressed":         {"-c", "-o", "compat=0.10"},
		"v3":                    nil,
		"zlib":                  {"-c"},
		"zstd":                  {"-c", "-o", "compression_type=zstd"},
		"512":                   {"-o", "cluster_size=512"},
		"512 zlib":              {"-c", "-o", "cluster_size=512"},
		"4K zstd":               {"-c", "-o", "cluster_size=4k,compression_type=zstd"},
		"2M":                    {"-o", "cluster_size=2M"},
		"2M zlib":               {"-c", "-o", "cluster_size=2M"},
		"2M zstd":               {"-c", "-o", "cluster_size=2M,compression_type=zstd"},
		"extended L2":           {"-o", "extended_l2=on,cluster_size=128k"},
		"extended L2 zlib":      {"-c", "-o", "extended_l2=on"},
		"lazy refcounts":        {"-o", "lazy_refcounts=on"},
		"1 bit refcounts":       {"-o", "refcount_bits=1"},
		"preallocated metadata": {"-o", "preallocation=metadata"},
		"preallocated falloc":   {"-o", "preallocation=falloc"},
		"fully allocated":       {"-S", "0", "-o", "preallocation=full"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "disk.qcow2")
			qemuImg(t, append(append([]string{"convert", "-f", "raw", "-O", "qcow2"}, args...), raw, path)...)
			same(t, openLoose(t, path, snapshot.FormatQcow2), disk)
		})
	}
}

// TestGuestWrites reads what qemu-io leaves in overlays of every kind: parts of
// clusters, zero clusters, discarded clusters, holes in one layer above data in another.
func TestGuestWrites(t *testing.T) {
	for _, opts := range []string{"cluster_size=64k", "compat=0.10", "cluster_size=512", "cluster_size=2M", "extended_l2=on", "extended_l2=on,cluster_size=16k", "lazy_refcounts=on"} {
		t.Run(opts, func(t *testing.T) {
			dir := t.TempDir()
			write(t, filepath.Join(dir, "base.raw"), mixed(3<<20+512))
			middle, top := filepath.Join(dir, "middle.qcow2"), filepath.Join(dir, "top.qcow2")
			qemuImg(t, "create", "-f", "qcow2", "-b", "base.raw", "-F", "raw", middle, "4M")
			qemuIO(t, middle, "qcow2", "write -P 1 1000 3000", "write -z 128k 300k", "write -P 2 3M 64k", "discard 1M 256k")
			qemuImg(t, "create", "-f", "qcow2", "-o", opts, "-b", "middle.qcow2", "-F", "qcow2", top, "6M")
			qemuIO(t, top, "qcow2", "write -P 3 2000 512", "write -P 4 200k 10k", "write -z 512k 64k",
				"write -P 5 1020k 3k", "write -z 1M 1536", "discard 2M 128k", "write -P 6 6290944 512", "write -P 7 5M 4k")
			same(t, openLoose(t, top, snapshot.FormatQcow2), content(t, top, "qcow2"))
		})
	}
}

func TestRandomWrites(t *testing.T) {
	const size = 2 << 20
	dir := t.TempDir()
	path := filepath.Join(dir, "disk.qcow2")
	qemuImg(t, "create", "-f", "qcow2", "-o", "extended_l2=on,cluster_size=32k", path, fmt.Sprint(size))
	seed := uint32(12345)
	next := func(n uint32) uint32 { seed = seed*1664525 + 1013904223; return seed >> 8 % n }
	var commands []string
	for i := range 120 {
		off, n := next(size/512-64)*512, (1+next(60))*512
		verb := []string{fmt.Sprintf("write -P %d", i%255+1), "write -z", "write -z -u", "discard"}[next(4)]
		commands = append(commands, fmt.Sprintf("%s %d %d", verb, off, n))
	}
	qemuIO(t, path, "qcow2", commands...)
	same(t, openLoose(t, path, snapshot.FormatQcow2), content(t, path, "qcow2"))
}

func TestSnapshotsInsideAreIgnored(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk.qcow2")
	qemuImg(t, "create", "-f", "qcow2", path, "4M")
	qemuIO(t, path, "qcow2", "write -P 1 0 1M")
	qemuImg(t, "snapshot", "-c", "before", path)
	qemuIO(t, path, "qcow2", "write -P 2 64k 100k")
	same(t, openLoose(t, path, snapshot.FormatQcow2), content(t, path, "qcow2"))
	info, err := image.Inspect(path, snapshot.FormatQcow2)
	if err != nil {
		t.Fatal(err)
	}
	want := image.Info{Path: path, Format: snapshot.FormatQcow2, Size: 4 << 20, ClusterSize: 64 << 10, Version: 3, Snapshots: 1}
	if diff := cmp.Diff(want, info); diff != "" {
		t.Error(diff)
	}
}

func TestRawSizes(t *testing.T) {
	for _, size := range []int{0, 1, 511, 512, 4096, 100_001} {
		disk := mixed(size)
		path := write(t, filepath.Join(t.TempDir(), "disk.raw"), disk)
		same(t, openLoose(t, path, snapshot.FormatRaw), disk)
	}
}

func TestRawHoles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk.raw")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("here"), 8<<20); err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(64 << 20); err != nil {
		t.Fatal(err)
	}
	f.Close()
	src := openLoose(t, path, snapshot.FormatRaw)
	extents, err := src.Extents(t.Context(), 0, src.Size())
	if err != nil {
		t.Fatal(err)
	}
	var zeros int64
	for _, e := range extents {
		if e.Zero {
			zeros += e.Length
		}
	}
	if zeros < 60<<20 {
		t.Errorf("%d bytes known to be zero in %+v", zeros, extents)
	}
}

func TestChains(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	write(t, at("base.raw"), mixed(1<<20))
	qemuImg(t, "create", "-f", "qcow2", "-b", "base.raw", "-F", "raw", at("over.qcow2"))

	layers, err := image.ResolveChain(at("over.qcow2"), snapshot.FormatQcow2)
	if err != nil {
		t.Fatal(err)
	}
	want := []snapshot.Layer{{Path: at("over.qcow2"), Format: snapshot.FormatQcow2}, {Path: at("base.raw"), Format: snapshot.FormatRaw}}
	if diff := cmp.Diff(want, layers); diff != "" {
		t.Error(diff)
	}
	if _, err := image.OpenChain(t.Context(), layers[:1]); !errors.Is(err, snapshot.ErrCorrupt) {
		t.Errorf("chain without its base: %v", err)
	}

	qemuImg(t, "create", "-f", "qcow2", "-b", "base.raw", "-F", "raw", at("undeclared.qcow2"))
	forgetFormat(t, at("undeclared.qcow2")) // older versions of qemu-img made such images
	_, err = image.ResolveChain(at("undeclared.qcow2"), snapshot.FormatQcow2)
	var hinted *snapshot.Hinted
	if !errors.Is(err, snapshot.ErrUnsupported) || !errors.As(err, &hinted) || !strings.Contains(hinted.Hint(), "qemu-img rebase") {
		t.Errorf("backing file without a format: %v", err)
	}

	qemuImg(t, "create", "-f", "qcow2", "-u", "-b", "loop2.qcow2", "-F", "qcow2", at("loop1.qcow2"), "1M")
	qemuImg(t, "create", "-f", "qcow2", "-u", "-b", "loop1.qcow2", "-F", "qcow2", at("loop2.qcow2"), "1M")
	if _, err := image.ResolveChain(at("loop1.qcow2"), snapshot.FormatQcow2); !errors.Is(err, snapshot.ErrCorrupt) {
		t.Errorf("loop: %v", err)
	}

	qemuImg(t, "create", "-f", "qcow2", "-u", "-b", "nbd://localhost/x", "-F", "raw", at("net.qcow2"), "1M")
	if _, err := image.ResolveChain(at("net.qcow2"), snapshot.FormatQcow2); !errors.Is(err, snapshot.ErrUnsupported) {
		t.Errorf("backing file on a network: %v", err)
	}

	qemuImg(t, "create", "-f", "qcow2", "-u", "-b", "/dev/zero", "-F", "raw", at("device.qcow2"), "1M")
	if _, err := image.ResolveChain(at("device.qcow2"), snapshot.FormatQcow2); !errors.Is(err, snapshot.ErrUnsupported) {
		t.Errorf("backing file that is a character device: %v", err)
	}

	qemuImg(t, "create", "-f", "qcow2", "-u", "-b", "missing", "-F", "raw", at("orphan.qcow2"), "1M")
	if _, err := image.ResolveChain(at("orphan.qcow2"), snapshot.FormatQcow2); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "missing") {
		t.Errorf("missing backing file: %v", err)
	}
}

// forgetFormat takes the format of the backing file out of a header.
func forgetFormat(t testing.TB, path string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	patch(t, path, int64(bytes.Index(b, []byte{0xe2, 0x79, 0x2a, 0xca})), []byte{1, 2, 3, 4})
}

func TestUnsupported(t *testing.T) {
	dir := t.TempDir()
	luks, data := filepath.Join(dir, "luks.qcow2"), filepath.Join(dir, "data.qcow2")
	qemuImg(t, "create", "-f", "qcow2", luks, "1M")
	patch(t, luks, 32, []byte{0, 0, 0, 2}) // qemu-img needs an idle machine to make a true one
	qemuImg(t, "create", "-f", "qcow2", "-o", "data_file="+filepath.Join(dir, "data.raw"), data, "1M")
	future := filepath.Join(dir, "future.qcow2")
	qemuImg(t, "create", "-f", "qcow2", future, "1M")
	patch(t, future, 72, []byte{0, 0, 0, 0, 0, 0, 0x80, 0})
	for path, want := range map[string]string{luks: "LUKS", data: "external", future: "unknown feature 15"} {
		_, err := image.Inspect(path, snapshot.FormatQcow2)
		if !errors.Is(err, snapshot.ErrUnsupported) || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v, want one that names %q", path, err, want)
		}
	}
}

func patch(t testing.TB, path string, off int64, b []byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(b, off); err != nil {
		t.Fatal(err)
	}
}

// TestLies damages a good image, one place at a time.
func TestLies(t *testing.T) {
	good := filepath.Join(t.TempDir(), "good.qcow2")
	qemuImg(t, "create", "-f", "qcow2", good, "8M")
	qemuIO(t, good, "qcow2", "write -P 1 0 1M")
	template, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	// qemu-img puts L1 at cluster 3 and qemu-io the first L2 at cluster 4.
	const l1, l2 = 3 << 16, 4 << 16
	for name, damage := range map[string]func(t *testing.T, path string){
		"truncated data":   func(t *testing.T, path string) { truncate(t, path, int64(len(template))-65536) },
		"truncated tables": func(t *testing.T, path string) { truncate(t, path, l1+8) },
		"truncated header": func(t *testing.T, path string) { truncate(t, path, 50) },
		"empty":            func(t *testing.T, path string) { truncate(t, path, 0) },
		"no magic":         func(t *testing.T, path string) { patch(t, path, 0, []byte("KDMV")) },
		"marked corrupt":   func(t *testing.T, path string) { patch(t, path, 79, []byte{2}) },
		"cluster bits":     func(t *testing.T, path string) { patch(t, path, 20, []byte{0, 0, 0, 63}) },
		"huge disk":        func(t *testing.T, path string) { patch(t, path, 24, []byte{0x7f, 0xff, 0, 0, 0, 0, 0, 0}) },
		"negative disk":    func(t *testing.T, path string) { patch(t, path, 24, []byte{0xff, 0xff}) },
		"short L1":         func(t *testing.T, path string) { patch(t, path, 36, []byte{0, 0, 0, 0}) },
		"huge L1":          func(t *testing.T, path string) { patch(t, path, 36, []byte{0xff, 0xff, 0xff, 0xff}) },
		"L1 far away":      func(t *testing.T, path string) { patch(t, path, 40, []byte{0x7f}) },
		"L1 unaligned":     func(t *testing.T, path string) { patch(t, path, 47, []byte{8}) },
		"refcount bits":    func(t *testing.T, path string) { patch(t, path, 96, []byte{0, 0, 0, 7}) },
		"header length":    func(t *testing.T, path string) { patch(t, path, 100, []byte{0xff, 0, 0, 0}) },
		"extension length": func(t *testing.T, path string) { patch(t, path, 112, []byte{1, 2, 3, 4, 0xff, 0, 0, 0}) },
		"backing name":     func(t *testing.T, path string) { patch(t, path, 8, []byte{0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 9}) },
		"L2 far away":      func(t *testing.T, path string) { patch(t, path, l1, []byte{0x80, 1}) },
		"L2 unaligned":     func(t *testing.T, path string) { patch(t, path, l1+6, []byte{2}) },
		"L2 is the L1":     func(t *testing.T, path string) { patch(t, path, l1, []byte{0x80, 0, 0, 0, 0, 3, 0, 0}) },
		"L1 reserved":      func(t *testing.T, path string) { patch(t, path, l1+7, []byte{1}) },
		"data far away":    func(t *testing.T, path string) { patch(t, path, l2, []byte{0x80, 0, 0x70}) },
		"data unaligned":   func(t *testing.T, path string) { patch(t, path, l2+6, []byte{2}) },
		"data is header":   func(t *testing.T, path string) { patch(t, path, l2, []byte{0x80, 0, 0, 0, 0, 3, 0, 0}) },
		"L2 reserved":      func(t *testing.T, path string) { patch(t, path, l2+7, []byte{2}) },
		"bad compressed":   func(t *testing.T, path string) { patch(t, path, l2, []byte{0x40, 0, 0, 0, 0, 5, 0, 0}) },
		"compressed away":  func(t *testing.T, path string) { patch(t, path, l2, []byte{0x40, 0, 0xff, 0, 0, 5, 0, 0}) },
	} {
		t.Run(name, func(t *testing.T) {
			path := write(t, filepath.Join(t.TempDir(), "bad.qcow2"), template)
			damage(t, path)
			src, err := image.OpenChain(t.Context(), []snapshot.Layer{{Path: path, Format: snapshot.FormatQcow2}})
			if err == nil {
				defer src.Close()
				err = src.ReadAt(t.Context(), make([]byte, 1<<20), 0)
			}
			if !errors.Is(err, snapshot.ErrCorrupt) || !strings.Contains(err.Error(), path) {
				t.Errorf("error %v, want ErrCorrupt that names the file", err)
			}
		})
	}
}

func truncate(t testing.TB, path string, size int64) {
	t.Helper()
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
}

func TestDirtyIsRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk.qcow2")
	qemuImg(t, "create", "-f", "qcow2", path, "1M")
	qemuIO(t, path, "qcow2", "write -P 9 0 64k")
	want := content(t, path, "qcow2")
	patch(t, path, 79, []byte{1})
	same(t, openLoose(t, path, snapshot.FormatQcow2), want)
}
