package nbd_test

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/nbd"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 60 * time.Second

// tool is the path of a program that the tests need.
func tool(t *testing.T, name, debianPackage string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("%s is missing: apt-get install %s", name, debianPackage)
	}
	return path
}

func run(t *testing.T, name string, args ...string) []byte {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return out
}

// serve starts a server process that listens on socket, and stops it when the
// test ends.
func serve(t *testing.T, socket, program string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(program, args...)
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { cmd.Wait(); close(ended) }()
	t.Cleanup(func() { cmd.Process.Kill(); <-ended })
	limit := time.After(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		if c, err := net.Dial("unix", socket); err == nil { // it is there before it listens
			c.Close()
			return cmd
		}
		select {
		case <-tick.C:
		case <-ended:
			t.Fatalf("%s ended: %s", program, log.Bytes())
		case <-limit:
			t.Fatalf("%s does not listen on %s", program, socket)
		}
	}
}

// dial retries while the socket file is there but nobody listens yet.
func dial(t *testing.T, socket, export string, o nbd.Options) *nbd.Client {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		c, err := nbd.Dial(ctx, "unix", socket, export, o)
		if err == nil {
			t.Cleanup(func() { c.Close() })
			return c
		}
		var op *net.OpError
		if !errors.As(err, &op) {
			t.Fatal(err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal(err)
		}
	}
}

// sparse makes disk content: random pieces between runs of zeros.
func sparse(size int) []byte {
	rng := rand.New(rand.NewPCG(1, 2))
	disk := make([]byte, size)
	for at := 0; at < size; at += 1 << 20 {
		for i := at; i < min(at+rng.IntN(600<<10), size); i++ {
			disk[i] = byte(rng.Uint32())
		}
	}
	return disk
}

func qcow2With(t *testing.T, content []byte) string {
	t.Helper()
	img := tool(t, "qemu-img", "qemu-utils")
	dir := t.TempDir()
	raw, path := filepath.Join(dir, "raw"), filepath.Join(dir, "disk.qcow2")
	if err := os.WriteFile(raw, content, 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, img, "convert", "-f", "raw", "-O", "qcow2", raw, path)
	return path
}

func readAll(t *testing.T, c *nbd.Client, step int) []byte {
	t.Helper()
	got := make([]byte, c.Size())
	var wg sync.WaitGroup
	for off := 0; off < len(got); off += step {
		wg.Go(func() {
			if err := c.ReadAt(t.Context(), got[off:min(off+step, len(got))], int64(off)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	return got
}

// checkExtents sees that extents tile the range and that zeros are zeros.
func checkExtents(t *testing.T, extents []snapshot.Extent, disk []byte) (zeros int64) {
	t.Helper()
	at := int64(0)
	for _, e := range extents {
		if e.Offset != at || e.Length <= 0 {
			t.Fatalf("extent %+v where %d was due", e, at)
		}
		at += e.Length
		if e.Zero {
			zeros += e.Length
			if len(bytes.TrimLeft(disk[e.Offset:at], "\x00")) != 0 {
				t.Fatalf("extent %+v is not zero", e)
			}
		}
	}
	if at != int64(len(disk)) {
		t.Fatalf("extents end at %d, not %d", at, len(disk))
	}
	return zeros
}

func TestQemuNBD(t *testing.T) {
	disk := sparse(64 << 20)
	socket := filepath.Join(t.TempDir(), "s")
	serve(t, socket, tool(t, "qemu-nbd", "qemu-utils"), "--read-only", "--persistent", "--shared=8",
		"--format=qcow2", "--export-name=disk0", "--socket="+socket, qcow2With(t, disk))

	if err := nbd.Settle(t.Context(), "unix", socket); err != nil {
		t.Error(err)
	}
	if _, err := nbd.Dial(t.Context(), "unix", socket, "other", nbd.Options{}); err == nil {
		t.Fatal("an export that is not there was opened")
	}
	c := dial(t, socket, "disk0", nbd.Options{Contexts: []string{"qemu:dirty-bitmap:none"}, Connections: 3})
	if c.Size() != int64(len(disk)) {
		t.Errorf("size %d, want %d", c.Size(), len(disk))
	}
	if c.Flags()&nbd.FlagCanMultiConn == 0 {
		t.Errorf("flags %#x without multi-conn", c.Flags())
	}
	if !bytes.Equal(readAll(t, c, 777<<10), disk) {
		t.Error("content differs")
	}
	extents, err := c.Extents(t.Context(), 0, c.Size())
	if err != nil {
		t.Fatal(err)
	}
	if zeros := checkExtents(t, extents, disk); zeros < 10<<20 {
		t.Errorf("only %d bytes known to be zero", zeros)
	}
	if _, err := c.Status(t.Context(), "qemu:dirty-bitmap:none", 0, 512); !errors.Is(err, nbd.ErrNoContext) {
		t.Errorf("status of a context that is not there: %v", err)
	}
	if err := c.ReadAt(t.Context(), make([]byte, 4096), c.Size()-512); err == nil {
		t.Error("read past the end")
	}
}

func TestDirtyBitmap(t *testing.T) {
	path := qcow2With(t, make([]byte, 8<<20))
	img, io := tool(t, "qemu-img", "qemu-utils"), tool(t, "qemu-io", "qemu-utils")
	run(t, img, "bitmap", "--add", "-g", "65536", path, "cbt1")
	run(t, io, "-f", "qcow2", "-c", "write -P 7 1M 64k", "-c", "write -P 7 3M 128k", path)
	socket := filepath.Join(t.TempDir(), "s")
	serve(t, socket, tool(t, "qemu-nbd", "qemu-utils"), "--read-only", "--persistent", "--format=qcow2",
		"--bitmap=cbt1", "--socket="+socket, path)
	const name = "qemu:dirty-bitmap:cbt1"
	c := dial(t, socket, "", nbd.Options{Contexts: []string{name}})
	got, err := c.Status(t.Context(), name, 0, c.Size())
	if err != nil {
		t.Fatal(err)
	}
	want := []nbd.Range{
		{Offset: 0, Length: 1 << 20},
		{Offset: 1 << 20, Length: 64 << 10, Flags: nbd.StateDirty},
		{Offset: 1<<20 + 64<<10, Length: 2<<20 - 64<<10},
		{Offset: 3 << 20, Length: 128 << 10, Flags: nbd.StateDirty},
		{Offset: 3<<20 + 128<<10, Length: 5<<20 - 128<<10},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestNbdkit(t *testing.T) {
	kit := tool(t, "nbdkit", "nbdkit")
	disk := sparse(8<<20 + 100) // no multiple of 512
	path := filepath.Join(t.TempDir(), "disk.raw")
	if err := os.WriteFile(path, disk, 0o600); err != nil {
		t.Fatal(err)
	}
	whole := append(bytes.Clone(disk), make([]byte, 512-100)...)
	for name, args := range map[string][]string{
		"plain":           nil,
		"old":             {"--no-sr"},
		"slow and random": {"--filter=delay", "delay-read=3ms"},
		"small blocks":    {"--filter=blocksize-policy", "blocksize-maximum=65536", "blocksize-error-policy=error"},
	} {
		t.Run(name, func(t *testing.T) {
			socket := filepath.Join(t.TempDir(), "s")
			common := []string{"--foreground", "--readonly", "--exportname=e", "--unix=" + socket}
			var filters, settings []string
			for _, a := range args {
				if strings.HasPrefix(a, "--") {
					filters = append(filters, a)
				} else {
					settings = append(settings, a)
				}
			}
			serve(t, socket, kit, slices.Concat(common, filters, []string{"file", path}, settings)...)
			c := dial(t, socket, "e", nbd.Options{})
			if !bytes.Equal(readAll(t, c, 300_000), whole) {
				t.Error("content differs")
			}
			extents, err := c.Extents(t.Context(), 0, c.Size())
			if err != nil {
				t.Fatal(err)
			}
			checkExtents(t, extents, whole)
		})
	}
}

// TestWholeBlocks reads odd ranges from a server that only takes whole blocks.
func TestWholeBlocks(t *testing.T) {
	disk := sparse(8 << 20)
	path := filepath.Join(t.TempDir(), "disk.raw")
	if err := os.WriteFile(path, disk, 0o600); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(t.TempDir(), "s")
	serve(t, socket, tool(t, "nbdkit", "nbdkit"), "--foreground", "--readonly", "--unix="+socket, "--filter=blocksize-policy",
		"file", path, "blocksize-minimum=4096", "blocksize-preferred=4096", "blocksize-maximum=131072", "blocksize-error-policy=error")
	c := dial(t, socket, "", nbd.Options{})
	if !bytes.Equal(readAll(t, c, 300_001), disk) {
		t.Error("content differs")
	}
	extents, err := c.Extents(t.Context(), 777, 1<<20)
	if err != nil || extents[0].Offset != 777 {
		t.Errorf("extents of an odd range: %+v, %v", extents, err)
	}
}

func TestServerError(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	serve(t, socket, tool(t, "nbdkit", "nbdkit"), "--foreground", "--unix="+socket,
		"--filter=error", "pattern", "8M", "error-pread=ENOSPC", "error-pread-rate=1")
	c := dial(t, socket, "", nbd.Options{})
	err := c.ReadAt(t.Context(), make([]byte, 4096), 0)
	var server *nbd.ServerError
	if !errors.As(err, &server) || server.Errno != 28 {
		t.Errorf("error %v, want ENOSPC", err)
	}
	if err := c.ReadAt(t.Context(), make([]byte, 4096), 0); !errors.As(err, &server) {
		t.Errorf("the connection did not survive an error: %v", err)
	}
}

func TestServerKilled(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	cmd := serve(t, socket, tool(t, "nbdkit", "nbdkit"), "--foreground", "--unix="+socket,
		"--filter=delay", "pattern", "8M", "delay-read=100")
	c := dial(t, socket, "", nbd.Options{})
	results := make(chan error, 8)
	for i := range 8 {
		go func() { results <- c.ReadAt(t.Context(), make([]byte, 4096), int64(i)<<12) }()
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	for range 8 {
		if err := <-results; !errors.Is(err, snapshot.ErrGone) {
			t.Errorf("error %v, want ErrGone", err)
		}
	}
	if err := c.ReadAt(t.Context(), make([]byte, 1), 0); !errors.Is(err, snapshot.ErrGone) {
		t.Errorf("later error %v, want ErrGone", err)
	}
}
