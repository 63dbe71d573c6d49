package image_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/image"
	"github.com/lull-backup/lull/snapshot/image/imagetest"
)

// qemuName is what QEMU calls a format.
func qemuName(f snapshot.Format) string {
	if f == snapshot.FormatVHD {
		return "vpc"
	}
	return string(f)
}

// TestForeignMatrix reads what qemu-img makes, in all its variants.
func TestForeignMatrix(t *testing.T) {
	disk := mixed(5 << 20)
	raw := write(t, filepath.Join(t.TempDir(), "disk.raw"), disk)
	for _, tc := range []struct {
		format snapshot.Format
		opts   string
	}{
		{snapshot.FormatVHD, "subformat=fixed,force_size=on"},
		{snapshot.FormatVHD, "subformat=dynamic,force_size=on"},
		{snapshot.FormatVHDX, "subformat=fixed"},
		{snapshot.FormatVHDX, "subformat=dynamic"},
		{snapshot.FormatVHDX, "subformat=dynamic,block_size=1M"},
		{snapshot.FormatVHDX, "subformat=dynamic,block_size=256M"},
		{snapshot.FormatVMDK, "subformat=monolithicSparse"},
		{snapshot.FormatVMDK, "subformat=monolithicSparse,zeroed_grain=on"},
		{snapshot.FormatVMDK, "subformat=monolithicFlat"},
		{snapshot.FormatVMDK, "subformat=twoGbMaxExtentSparse"},
		{snapshot.FormatVMDK, "subformat=twoGbMaxExtentFlat"},
		{snapshot.FormatVMDK, "subformat=streamOptimized"},
	} {
		t.Run(fmt.Sprint(tc.format, " ", tc.opts), func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "disk.vmdk")
			qemuImg(t, "convert", "-f", "raw", "-O", qemuName(tc.format), "-o", tc.opts, raw, path)
			same(t, openLoose(t, path, tc.format), disk)
		})
	}
}

// libvhdi is what libvhdi reads from an image, with its parents below it.
func libvhdi(t testing.TB, paths ...string) []byte {
	t.Helper()
	const script = `
import sys, pyvhdi
files = []
for path in sys.argv[2:]:
    f = pyvhdi.file()
    f.open(path)
    if files:
        files[-1].set_parent(f)
    files.append(f)
top = files[0]
with open(sys.argv[1], "wb") as out:
    left = top.get_media_size()
    while left > 0:
        b = top.read_buffer(min(left, 1 << 20))
        out.write(b)
        left -= len(b)
`
	if _, err := os.Stat("/usr/lib/python3/dist-packages/"); err != nil {
		t.Fatal("Debian's Python is missing: apt-get install python3-libvhdi")
	}
	out := filepath.Join(t.TempDir(), "libvhdi.raw")
	run(t, "/usr/bin/python3", append([]string{"-c", script, out}, paths...)...)
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

const (
	baseID   = "a0a0a0a0-0001-0002-0003-000000000001"
	middleID = "b0b0b0b0-0001-0002-0003-000000000002"
	topID    = "c0c0c0c0-0001-0002-0003-000000000003"
)

// lineage is a chain of three images that imagetest makes, top first, and the
// bytes of its disk.
func lineage(t testing.TB, dir string, format snapshot.Format) (paths []string, disk []byte) {
	t.Helper()
	const size = 9<<20 + 1024
	writes := [][]imagetest.Write{
		{{Off: 0, Data: mixed(3 << 20)}, imagetest.Fill(8<<20, 4096, 1)},
		{imagetest.Fill(512, 1024, 2), imagetest.Fill(1<<20, 2<<20, 3), imagetest.Fill(5<<20+1536, 512, 4)},
		{imagetest.Fill(1024, 512, 5), imagetest.Fill(size-512, 512, 6), imagetest.Fill(2<<20-512, 5<<20/512*512, 7)},
	}
	ids := []string{baseID, middleID, topID}
	names := []string{"base", "middle", "top"}
	disk = make([]byte, size)
	for i := range ids {
		disk = imagetest.Apply(disk, writes[i])
		var parent *imagetest.Parent
		if i > 0 {
			parent = &imagetest.Parent{ID: ids[i-1], Path: `.\` + names[i-1]}
		}
		path := filepath.Join(dir, names[i])
		if format == snapshot.FormatVHD {
			write(t, path, imagetest.VHD{Size: size, Block: 2 << 20, ID: ids[i], Parent: parent, Writes: writes[i]}.Bytes(t))
		} else {
			write(t, path, imagetest.VHDX{Size: size, Block: 1 << 20, ID: ids[i], Parent: parent, Writes: writes[i]}.Bytes(t))
		}
		paths = append([]string{path}, paths...)
	}
	return paths, disk
}

func TestDifferencing(t *testing.T) {
	for _, format := range []snapshot.Format{snapshot.FormatVHD, snapshot.FormatVHDX} {
		t.Run(string(format), func(t *testing.T) {
			paths, disk := lineage(t, t.TempDir(), format)
			same(t, openLoose(t, paths[0], format), disk)
			if string(libvhdi(t, paths...)) != string(disk) {
				t.Error("libvhdi reads something else: the images are not what they should be")
			}
		})
	}
}

// TestParentIsFound in the image's folder, or where the administrator says, and
// nowhere else.
func TestParentIsFound(t *testing.T) {
	dir, other := t.TempDir(), t.TempDir()
	v := imagetest.VHDX{Size: 1 << 20, Block: 1 << 20, ID: topID, Writes: []imagetest.Write{imagetest.Fill(0, 512, 1)},
		Parent: &imagetest.Parent{ID: baseID, Path: `..\` + filepath.Base(other) + `\Base.vhdx`}}
	top := write(t, filepath.Join(dir, "top.avhdx"), v.Bytes(t))
	base := write(t, filepath.Join(other, "Base.vhdx"), imagetest.VHDX{Size: 1 << 20, Block: 1 << 20, ID: baseID}.Bytes(t))

	_, err := image.ResolveChain(top, snapshot.FormatVHDX)
	var hinted *snapshot.Hinted
	if !errors.Is(err, fs.ErrNotExist) || !errors.As(err, &hinted) || !strings.Contains(hinted.Hint(), `\Base.vhdx`) {
		t.Errorf("parent in another folder: %v", err)
	}
	layers, err := image.ResolveChain(top, snapshot.FormatVHDX, base)
	if err != nil || len(layers) != 2 || layers[1].Path != base {
		t.Errorf("parent that is named: %v, %v", layers, err)
	}
	renamed := write(t, filepath.Join(other, "copy"), imagetest.VHDX{Size: 1 << 20, Block: 1 << 20, ID: baseID}.Bytes(t))
	if byID, err := image.ResolveChain(top, snapshot.FormatVHDX, top, renamed); err != nil || byID[1].Path != renamed {
		t.Errorf("parent that is named, under another name: %v, %v", byID, err)
	}
	write(t, filepath.Join(dir, "Base.vhdx"), imagetest.VHDX{Size: 1 << 20, Block: 1 << 20, ID: middleID}.Bytes(t))
	if _, err := image.ResolveChain(top, snapshot.FormatVHDX); !errors.Is(err, snapshot.ErrCorrupt) || !strings.Contains(err.Error(), middleID) {
		t.Errorf("another image under the parent's name: %v", err)
	}
	if _, err := image.OpenChain(t.Context(), []snapshot.Layer{layers[0], {Path: filepath.Join(dir, "Base.vhdx"), Format: snapshot.FormatVHDX}}); !errors.Is(err, snapshot.ErrCorrupt) {
		t.Errorf("chain of strangers: %v", err)
	}
	if _, err := image.OpenChain(t.Context(), layers[:1]); !errors.Is(err, snapshot.ErrCorrupt) {
		t.Errorf("chain without its base: %v", err)
	}
}
