package image_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/image"
)

// What QEMU records is what is read, over many clusters of bitmap.
func TestReadBitmap(t *testing.T) {
	for _, c := range []struct {
		size, grain, cluster int64
		writes               [][2]int64
	}{
		{1 << 20, 65536, 65536, nil},
		{1<<20 + 512, 65536, 65536, [][2]int64{{1 << 20, 512}}},
		{1 << 40, 65536, 65536, [][2]int64{{0, 1 << 20}, {700 << 30, 3 << 20}, {1<<40 - 4096, 4096}}},
		{64 << 20, 512, 512, [][2]int64{{0, 9000}, {32 << 20, 4 << 20}}},
	} {
		t.Run(fmt.Sprint(c.size, c.grain), func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "disk.qcow2")
			qemuImg(t, "create", "-q", "-f", "qcow2", "-o", fmt.Sprintf("cluster_size=%d", c.cluster), path, fmt.Sprint(c.size))
			qemuImg(t, "bitmap", "--add", path, "other")
			qemuImg(t, "bitmap", "--add", "-g", fmt.Sprint(c.grain), path, "mine")
			want, err := snapshot.NewChangeSet(c.size, c.grain)
			if err != nil {
				t.Fatal(err)
			}
			for _, w := range c.writes {
				qemuIO(t, path, "qcow2", fmt.Sprintf("write -z %d %d", w[0], w[1]))
				want.Add(w[0], w[1])
			}
			got, err := image.ReadBitmap(t.Context(), path, "mine", c.size)
			if err != nil {
				t.Fatal(err)
			}
			if got.Bytes() != want.Bytes() {
				t.Errorf("%d bytes, want %d", got.Bytes(), want.Bytes())
			}
			for _, w := range c.writes {
				for off := w[0] - 2*c.grain; off < w[0]+w[1]+2*c.grain; off += c.grain {
					if got.Any(off, 1) != want.Any(off, 1) {
						t.Errorf("at %d: changed is %v", off, got.Any(off, 1))
					}
				}
			}
		})
	}
}

// A bitmap that says nothing is none.
func TestReadBitmapRefuses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk.qcow2")
	qemuImg(t, "create", "-q", "-f", "qcow2", path, "1M")
	if _, err := image.ReadBitmap(t.Context(), path, "mine", 1<<20); !errors.Is(err, image.ErrNoBitmap) {
		t.Errorf("without any: %v", err)
	}
	qemuImg(t, "bitmap", "--add", path, "mine")
	if _, err := image.ReadBitmap(t.Context(), path, "min", 1<<20); !errors.Is(err, image.ErrNoBitmap) {
		t.Errorf("another name: %v", err)
	}
	if _, err := image.ReadBitmap(t.Context(), path, "mine", 2<<20); !errors.Is(err, snapshot.ErrCorrupt) {
		t.Errorf("another size: %v", err)
	}
	socket := filepath.Join(t.TempDir(), "s")
	stop := start(t, tool(t, "qemu-nbd", "qemu-utils"), "--persistent", "-f", "qcow2", "-k", socket, path)
	greeted(t, socket) // it has the image open then
	if _, err := image.ReadBitmap(t.Context(), path, "mine", 1<<20); !errors.Is(err, snapshot.ErrBusy) {
		t.Errorf("in use: %v", err)
	}
	stop() // as by kill -9
	if _, err := image.ReadBitmap(t.Context(), path, "mine", 1<<20); !errors.Is(err, image.ErrNoBitmap) {
		t.Errorf("after a crash: %v", err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(make([]byte, 8), 88); err != nil { // as a program does that knows no bitmaps
		t.Fatal(err)
	}
	if _, err := image.ReadBitmap(t.Context(), path, "mine", 1<<20); !errors.Is(err, image.ErrNoBitmap) {
		t.Errorf("after another program wrote: %v", err)
	}
}

// greeted waits for the first words of an NBD server, whose socket is there before it
// listens.
func greeted(t *testing.T, socket string) {
	t.Helper()
	var c net.Conn
	await(t, "an NBD server listens", func() (ok bool) {
		var err error
		c, err = net.Dial("unix", socket)
		return err == nil
	})
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	var hello [8]byte
	if _, err := io.ReadFull(c, hello[:]); err != nil || string(hello[:]) != "NBDMAGIC" {
		t.Fatalf("greeted with %q, %v", hello, err)
	}
}
