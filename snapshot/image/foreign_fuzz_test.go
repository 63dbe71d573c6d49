package image

import (
	"bytes"
	"compress/zlib"
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/image/imagetest"
)

// Who the images of the seeds are.
const (
	childGUID  = "c0c0c0c0-0001-0002-0003-000000000003"
	parentGUID = "a0a0a0a0-0001-0002-0003-000000000001"
)

// patchAt puts patches into an image: each an area (1 byte), an offset from there
// (2 bytes), and eight bytes. Images are large and mostly empty: patches reach what
// matters sooner than bytes would.
func patchAt(b []byte, areas []int, patches []byte) {
	for ; len(patches) >= 11; patches = patches[11:] {
		at := areas[int(patches[0])%len(areas)] + int(be.Uint16(patches[1:]))
		copy(b[min(at, len(b)):], patches[3:11])
	}
}

// fuzzImages damages images of a format and reads them, alone and above a parent.
// fix tells whether checksums are put right again.
func fuzzImages(f *testing.F, format snapshot.Format, images [][]byte, areas []int, resum func([]byte), parent []byte) {
	for n := range len(images) {
		f.Add(uint8(n), uint16(0), false, []byte{})
		f.Add(uint8(n), uint16(77), true, []byte("\x00\x00\x30\x00\x00\x00\x00\x00\x00\x40\x00\x01\x00\x00\xff\xff\xff\xff\x00\x00\x00\x00"))
	}
	base := memory(f)
	if _, err := base.Write(parent); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, n uint8, cut uint16, fix bool, patches []byte) {
		b := slices.Clone(images[int(n)%len(images)])
		patchAt(b, areas, patches)
		if fix {
			resum(b)
		}
		img := memory(t)
		if err := writeSparse(img, b[:max(0, len(b)-int(cut))]); err != nil {
			t.Fatal(err)
		}
		top := snapshot.Layer{Path: img.Name(), Format: format}
		read(t, []snapshot.Layer{top})
		read(t, []snapshot.Layer{top, {Path: base.Name(), Format: format}})
		ResolveChain(img.Name(), format, base.Name())
	})
}

// writeSparse leaves holes where b is empty.
func writeSparse(f *os.File, b []byte) error {
	for at := 0; at < len(b); at += pageSize {
		page := b[at:min(at+pageSize, len(b))]
		if isZero(page) {
			continue
		}
		if _, err := f.WriteAt(page, int64(at)); err != nil {
			return err
		}
	}
	return f.Truncate(int64(len(b)))
}

func FuzzVHD(f *testing.F) {
	writes := []imagetest.Write{imagetest.Fill(512, 8192, 1), imagetest.Fill(40960, 512, 2)}
	parent := &imagetest.Parent{ID: parentGUID, Path: `.\base`}
	images := [][]byte{
		imagetest.VHD{Size: 64 << 10, ID: childGUID, Writes: writes}.Bytes(f),
		imagetest.VHD{Size: 64 << 10, Block: 4096, ID: childGUID, Writes: writes}.Bytes(f),
		imagetest.VHD{Size: 64 << 10, Block: 8192, ID: childGUID, Parent: parent, Writes: writes}.Bytes(f),
	}
	areas := []int{0, 512, 1536, len(images[0]) - 512, len(images[1]) - 512, len(images[2]) - 512}
	fuzzImages(f, snapshot.FormatVHD, images, areas, imagetest.ResumVHD, imagetest.VHD{Size: 64 << 10, ID: parentGUID}.Bytes(f))
}

func FuzzVHDX(f *testing.F) {
	writes := []imagetest.Write{imagetest.Fill(512, 8192, 1), imagetest.Fill(2<<20, 512, 2)}
	parent := &imagetest.Parent{ID: parentGUID, Path: `.\base`}
	page := bytes.Repeat([]byte{7}, 4096)
	images := [][]byte{
		imagetest.VHDX{Size: 3 << 20, Block: 1 << 20, ID: childGUID, Writes: writes}.Bytes(f),
		imagetest.VHDX{Size: 3 << 20, Block: 1 << 20, ID: childGUID, Parent: parent, Writes: writes}.Bytes(f),
		imagetest.VHDX{Size: 3 << 20, Block: 1 << 20, ID: childGUID, Writes: writes, Log: []imagetest.LogEntry{
			{Sectors: map[int64][]byte{imagetest.DataAt: page}},
			{Zeros: [][2]int64{{imagetest.DataAt, 8192}}, Sectors: map[int64][]byte{imagetest.DataAt + 4096: page}},
		}}.Bytes(f),
	}
	log := imagetest.LogAt + 1<<20 - 3*4096 // where entries begin
	areas := []int{64 << 10, 128 << 10, 192 << 10, imagetest.LogAt, log, 2 << 20, 2<<20 + 64<<10, imagetest.TableAt, imagetest.DataAt, 5 << 20}
	base := imagetest.VHDX{Size: 3 << 20, Block: 1 << 20, ID: parentGUID}.Bytes(f)
	fuzzImages(f, snapshot.FormatVHDX, images, areas, imagetest.ResumVHDX, base)
}

// tinyVMDK is a monolithic sparse image of 16 grains of 4 KiB: header | descriptor |
// directory | table | grains.
func tinyVMDK(flags uint32, parentCID string, grain []byte) []byte {
	le := binary.LittleEndian
	b := make([]byte, 4*512)
	copy(b, "KDMV")
	le.PutUint32(b[4:], 1)
	le.PutUint32(b[8:], flags)
	le.PutUint64(b[12:], 16*8)
	le.PutUint64(b[20:], 8)
	le.PutUint64(b[28:], 1)
	le.PutUint64(b[36:], 1)
	le.PutUint32(b[44:], 8)
	le.PutUint64(b[56:], 2)
	copy(b[73:], "\n \r\n")
	le.PutUint16(b[77:], 1)
	copy(b[512:], "# Disk DescriptorFile\nCID=c0c0c0c0\nparentCID="+parentCID+"\nparentFileNameHint=\"base\"\ncreateType=\"monolithicSparse\"\nRW 128 SPARSE \"x\"\n")
	le.PutUint32(b[1024:], 3)
	for i, entry := range []uint32{4, 0, 1, 4} {
		le.PutUint32(b[1536+4*i:], entry)
	}
	return append(b, grain...)
}

func FuzzVMDK(f *testing.F) {
	const zeroGrains, compressed = 4, 3 << 16
	images := [][]byte{
		tinyVMDK(zeroGrains, "ffffffff", bytes.Repeat([]byte("data"), 1024)),
		tinyVMDK(0, "a0a0a0a0", bytes.Repeat([]byte("data"), 1024)),
		tinyVMDK(compressed, "ffffffff", packedGrain(f)),
	}
	parent := bytes.Replace(images[0], []byte("CID=c0c0c0c0"), []byte("CID=a0a0a0a0"), 1)
	fuzzImages(f, snapshot.FormatVMDK, images, []int{0, 512, 1024, 1536, 2048}, func([]byte) {}, parent)
}

// FuzzVMDKDescriptor reads descriptors that are all input, with a file beside them.
func FuzzVMDKDescriptor(f *testing.F) {
	dir := f.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "flat"), make([]byte, 8192), 0o600); err != nil {
		f.Fatal(err)
	}
	path := filepath.Join(dir, "disk.vmdk")
	const head = "# Disk DescriptorFile\nCID=c0c0c0c0\nparentCID=ffffffff\n"
	f.Add(head + "RW 16 FLAT \"flat\" 0\nRW 8 ZERO\n")
	f.Add(head + "RDONLY 4 VMFS \"flat\" 12\n")
	f.Add(head + "RW 4 SPARSE \"../flat\"\nddb.x = \"y\"\n")
	f.Fuzz(func(t *testing.T, text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		info, err := Inspect(path, snapshot.FormatVMDK)
		if err != nil {
			if !errors.Is(err, fs.ErrNotExist) {
				known(t, err)
			}
			return
		}
		if info.Size <= 1<<20 {
			read(t, []snapshot.Layer{{Path: path, Format: snapshot.FormatVMDK}})
		}
	})
}

// packedGrain is the first grain of a stream-optimized image, with its marker.
func packedGrain(t testing.TB) []byte {
	var out bytes.Buffer
	w := zlib.NewWriter(&out)
	w.Write(bytes.Repeat([]byte("lull"), 1024))
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return append(binary.LittleEndian.AppendUint32(make([]byte, 8), uint32(out.Len())), out.Bytes()...)
}

// TestForeignSeeds sees that the seeds of the fuzz targets are good images.
func TestForeignSeeds(t *testing.T) {
	img := memory(t)
	if _, err := img.Write(tinyVMDK(3<<16, "ffffffff", packedGrain(t))); err != nil {
		t.Fatal(err)
	}
	src, err := OpenChain(t.Context(), []snapshot.Layer{{Path: img.Name(), Format: snapshot.FormatVMDK}})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	got := make([]byte, 4096)
	if err := src.ReadAt(t.Context(), got, 0); err != nil || string(got[:8]) != "lulllull" {
		t.Errorf("%q, %v", got[:8], err)
	}
}
