package image

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"testing"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"github.com/lull-backup/lull/snapshot"
)

// tiny is a qcow2 image of clusters of 512 bytes with one L2 table:
// header | L1 | L2 | data | compressed data.
func tiny(entries []uint64, packed []byte, features uint64) []byte {
	const cluster = 512
	b := make([]byte, 4*cluster)
	be.PutUint32(b, qcow2Magic)
	be.PutUint32(b[4:], 3)
	be.PutUint32(b[20:], 9)
	be.PutUint64(b[24:], 40*cluster)
	be.PutUint32(b[36:], 1)
	be.PutUint64(b[40:], cluster)
	be.PutUint64(b[72:], features)
	be.PutUint32(b[96:], 4)
	be.PutUint32(b[100:], 112)
	if features&featureCompression != 0 {
		b[104] = byte(compressionZstd)
	}
	be.PutUint64(b[cluster:], 2*cluster|copied)
	for i, e := range entries {
		be.PutUint64(b[2*cluster+8*i:], e)
	}
	copy(b[3*cluster:], bytes.Repeat([]byte("data"), cluster/4))
	return append(b, packed...)
}

func deflated(t testing.TB, b []byte) []byte {
	var out bytes.Buffer
	w, err := flate.NewWriter(&out, 6)
	if err != nil {
		t.Fatal(err)
	}
	w.Write(b)
	w.Close()
	return out.Bytes()
}

func zstandard(t testing.TB, b []byte) []byte {
	w, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	return w.EncodeAll(b, nil)
}

// memory is a file without a name that can be opened by path.
func memory(t testing.TB) *os.File {
	t.Helper()
	fd, err := unix.MemfdCreate("image", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), fmt.Sprintf("/proc/self/fd/%d", fd))
	t.Cleanup(func() { f.Close() })
	return f
}

// FuzzQcow2 damages images and reads them, alone and above a good one. An input
// is the number of an image, how many bytes are cut off its end, and patches of
// ten bytes: an offset of two, and eight bytes to put there. Tables are large and
// mostly empty: patches reach what matters sooner than bytes would.
func FuzzQcow2(f *testing.F) {
	images := seeds(f)
	for n := range len(images) {
		f.Add(uint8(n), uint16(0), []byte{})
	}
	f.Add(uint8(0), uint16(0), []byte("\x04\x00\x40\x00\x00\x00\x00\x00\x06\x00"))
	f.Add(uint8(1), uint16(9), []byte("\x00\x18\x00\x00\x00\xff\x00\x00\x00\x00\x02\x00\x80\x00\x00\x00\x00\x00\x04\x00"))
	base := memory(f)
	if err := base.Truncate(8 << 10); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, n uint8, cut uint16, patches []byte) {
		b := bytes.Clone(images[int(n)%len(images)])
		b = b[:max(0, len(b)-int(cut))]
		for ; len(patches) >= 10; patches = patches[10:] {
			copy(b[min(int(be.Uint16(patches)), len(b)):], patches[2:10])
		}
		img := memory(t)
		if _, err := img.Write(b); err != nil {
			t.Fatal(err)
		}
		top := snapshot.Layer{Path: img.Name(), Format: snapshot.FormatQcow2}
		read(t, []snapshot.Layer{top})
		read(t, []snapshot.Layer{top, {Path: base.Name(), Format: snapshot.FormatRaw}})
		ResolveChain(img.Name(), snapshot.FormatQcow2)
	})
}

// FuzzHeader reads images that are all input.
func FuzzHeader(f *testing.F) {
	for _, b := range seeds(f)[:3] {
		f.Add(b[:128])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		img := memory(t)
		if _, err := img.Write(b); err != nil {
			t.Fatal(err)
		}
		if _, err := Inspect(img.Name(), snapshot.FormatQcow2); err != nil {
			known(t, err)
		}
	})
}

// seeds are good images, between them of all kinds of clusters.
func seeds(t testing.TB) [][]byte {
	text := bytes.Repeat([]byte("lull"), 128)
	const packedAt = 1<<62 | 4*512
	return [][]byte{
		tiny([]uint64{3*512 | copied, 0, 1, 3*512 | 1}, nil, featureDirty),
		tiny([]uint64{packedAt, 3 * 512}, deflated(t, text), 0),
		tiny([]uint64{packedAt, 0}, zstandard(t, text), featureCompression),
		extended(),
	}
}

// extended is an image with extended L2 entries: 16 KiB clusters, one of which
// has subclusters of every kind.
func extended() []byte {
	b := make([]byte, 4<<14)
	copy(b, tiny(nil, nil, featureExtendedL2)[:512])
	be.PutUint32(b[20:], 14)
	be.PutUint64(b[24:], 1<<20)
	be.PutUint64(b[40:], 1<<14)
	be.PutUint64(b[1<<14:], 2<<14|copied)
	be.PutUint64(b[2<<14:], 3<<14|copied)
	be.PutUint64(b[2<<14+8:], 0xff<<40|0xf)
	return b
}

// read reads the beginning and the end of a disk, and sees that extents and
// bytes agree and that errors say what is wrong.
func read(t *testing.T, layers []snapshot.Layer) {
	src, err := OpenChain(t.Context(), layers)
	if err != nil {
		known(t, err)
		return
	}
	defer src.Close()
	n := min(src.Size(), 64<<10)
	for _, off := range []int64{0, src.Size() - n} {
		data := bytes.Repeat([]byte{0xee}, int(n))
		readErr := src.ReadAt(t.Context(), data, off)
		extents, mapErr := src.Extents(t.Context(), off, n)
		known(t, readErr)
		known(t, mapErr)
		if readErr != nil || mapErr != nil {
			continue
		}
		at := off
		for _, e := range extents {
			if e.Offset != at || e.Length <= 0 {
				t.Fatalf("extent %+v where %d was due", e, at)
			}
			at += e.Length
			if e.Zero && !isZero(data[e.Offset-off:at-off]) {
				t.Fatalf("extent %+v is not zero", e)
			}
		}
		if at != off+n {
			t.Fatalf("extents end at %d, not %d", at, off+n)
		}
	}
}

func known(t *testing.T, err error) {
	t.Helper()
	if err != nil && !errors.Is(err, snapshot.ErrCorrupt) && !errors.Is(err, snapshot.ErrUnsupported) {
		t.Fatalf("unexpected error: %v", err)
	}
}

// TestSeeds sees that the seeds of the fuzz target are good images, so that it
// starts from all parts of the reader.
func TestSeeds(t *testing.T) {
	text := bytes.Repeat([]byte("lull"), 128)
	data := bytes.Repeat([]byte("data"), 128)
	for n, want := range [][]byte{data, text, text, make([]byte, 512)} {
		img := memory(t)
		if _, err := img.Write(seeds(t)[n]); err != nil {
			t.Fatal(err)
		}
		src, err := OpenChain(t.Context(), []snapshot.Layer{{Path: img.Name(), Format: snapshot.FormatQcow2}})
		if err != nil {
			t.Fatalf("seed %d: %v", n, err)
		}
		got := make([]byte, 512)
		if err := src.ReadAt(t.Context(), got, 0); err != nil {
			t.Errorf("seed %d: %v", n, err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("seed %d: read %q", n, got[:8])
		}
		src.Close()
	}
}

// FuzzNextData splits pieces into holes and data that make them up again.
func FuzzNextData(f *testing.F) {
	f.Add([]byte{0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0}, 100)
	f.Add([]byte{1}, 0)
	f.Fuzz(func(t *testing.T, pages []byte, cut int) {
		if len(pages) > 256 || cut < 0 || cut >= pageSize {
			return
		}
		p := make([]byte, max(0, len(pages)*pageSize-cut))
		for i, b := range pages {
			if i*pageSize < len(p) {
				p[i*pageSize] = b
			}
		}
		got, rest := make([]byte, len(p)), p
		for len(rest) > 0 {
			skip, data := nextData(rest)
			if skip+data == 0 || skip+data > len(rest) {
				t.Fatalf("nextData of %d bytes: %d, %d", len(rest), skip, data)
			}
			at := len(p) - len(rest) + skip
			copy(got[at:at+data], rest[skip:skip+data])
			rest = rest[skip+data:]
		}
		if !bytes.Equal(got, p) {
			t.Fatal("data was left out")
		}
	})
}

func TestNoSpaceIsNamed(t *testing.T) {
	for _, err := range []error{&os.PathError{Op: "write", Path: "x", Err: unix.ENOSPC}, unix.EDQUOT} {
		if !errors.Is(noSpace(err), snapshot.ErrNoSpace) || !errors.Is(noSpace(err), err) {
			t.Errorf("%v becomes %v", err, noSpace(err))
		}
	}
	if errors.Is(noSpace(unix.EIO), snapshot.ErrNoSpace) {
		t.Error("EIO becomes ErrNoSpace")
	}
}
