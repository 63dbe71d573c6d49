package image_test

import (
	"bytes"
	"context"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/image"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 60 * time.Second

func tool(t testing.TB, name, debianPackage string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("%s is missing: apt-get install %s", name, debianPackage)
	}
	return path
}

func run(t testing.TB, name string, args ...string) []byte {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return out
}

func qemuImg(t testing.TB, args ...string) { run(t, tool(t, "qemu-img", "qemu-utils"), args...) }

// qemuIO runs commands on an image, the way a guest would write.
func qemuIO(t testing.TB, path, format string, commands ...string) {
	t.Helper()
	args := []string{"-f", format}
	for _, c := range commands {
		args = append(args, "-c", c)
	}
	run(t, tool(t, "qemu-io", "qemu-utils"), append(args, path)...)
}

// content is what QEMU reads from an image.
func content(t testing.TB, path, format string) []byte {
	t.Helper()
	raw := filepath.Join(t.TempDir(), "oracle.raw")
	qemuImg(t, "convert", "-f", format, "-O", "raw", path, raw)
	b, err := os.ReadFile(raw)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// mixed is disk content with random, repetitive and empty parts.
func mixed(size int) []byte {
	rng := rand.New(rand.NewPCG(3, 4))
	disk := make([]byte, size)
	for at := 0; at < size; {
		n := min(4096*(1+rng.IntN(80)), size-at)
		part := disk[at : at+n]
		switch rng.IntN(3) {
		case 0:
			for i := range part {
				part[i] = byte(rng.Uint32())
			}
		case 1:
			for i := range part {
				part[i] = byte(i>>6) + byte(n)
			}
		}
		at += n
	}
	return disk
}

func write(t testing.TB, path string, b []byte) string {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// openLoose opens an image with the chain that its headers say.
func openLoose(t testing.TB, path string, format snapshot.Format) snapshot.Source {
	t.Helper()
	layers, err := image.ResolveChain(path, format)
	if err != nil {
		t.Fatal(err)
	}
	src, err := image.OpenChain(t.Context(), layers)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { src.Close() })
	return src
}

// same compares a source with the disk's bytes: whole, in parallel odd pieces,
// and by its extents.
func same(t testing.TB, src snapshot.Source, want []byte) {
	t.Helper()
	if src.Size() != int64(len(want)) {
		t.Fatalf("size %d, want %d", src.Size(), len(want))
	}
	if !bytes.Equal(readAll(t, src, 1<<20), want) {
		t.Error("content differs")
	}
	if !bytes.Equal(readAll(t, src, 123_457), want) {
		t.Error("content differs when it is read in odd pieces")
	}
	extents, err := src.Extents(t.Context(), 0, src.Size())
	if err != nil {
		t.Fatal(err)
	}
	at := int64(0)
	for _, e := range extents {
		if e.Offset != at || e.Length <= 0 {
			t.Fatalf("extent %+v where %d was due", e, at)
		}
		at += e.Length
		if e.Zero && len(bytes.TrimLeft(want[e.Offset:at], "\x00")) != 0 {
			t.Fatalf("extent %+v is not zero", e)
		}
	}
	if at != src.Size() {
		t.Fatalf("extents end at %d of %d", at, src.Size())
	}
}

func readAll(t testing.TB, src snapshot.Source, step int) []byte {
	t.Helper()
	got := bytes.Repeat([]byte{0xee}, int(src.Size()))
	var wg sync.WaitGroup
	for worker := range 16 {
		wg.Go(func() {
			for off := worker * step; off < len(got); off += 16 * step {
				if err := src.ReadAt(context.Background(), got[off:min(off+step, len(got))], int64(off)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	return got
}
