package image_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/image"
)

// TestVMDKChain reads what QEMU makes on a parent.
func TestVMDKChain(t *testing.T) {
	dir := t.TempDir()
	base, top := filepath.Join(dir, "base.vmdk"), filepath.Join(dir, "top.vmdk")
	qemuImg(t, "create", "-q", "-f", "vmdk", base, "40M")
	qemuIO(t, base, "vmdk", "write -P 1 0 1M", "write -P 2 35M 100k")
	qemuImg(t, "create", "-q", "-f", "vmdk", "-b", base, "-F", "vmdk", top)
	qemuIO(t, top, "vmdk", "write -P 3 64k 4k", "write -P 4 39M 64k")
	want := content(t, top, "vmdk")
	src := openLoose(t, top, snapshot.FormatVMDK)
	same(t, src, want)
	src.Close()

	qemuIO(t, base, "vmdk", "write -P 9 0 4k")
	if _, err := image.ResolveChain(top, snapshot.FormatVMDK); !errors.Is(err, snapshot.ErrCorrupt) {
		t.Errorf("parent that was written to since: %v", err)
	}
}

// TestVMDKFooter reads an image whose directory only its footer knows, as those
// are that were written as a stream.
func TestVMDKFooter(t *testing.T) {
	dir := t.TempDir()
	disk := mixed(5 << 20)
	raw, path := write(t, filepath.Join(dir, "disk.raw"), disk), filepath.Join(dir, "disk.vmdk")
	qemuImg(t, "convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized", raw, path)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b = b[:len(b)/512*512]
	footer := make([]byte, 3*512)
	binary.LittleEndian.PutUint64(footer, 1)
	binary.LittleEndian.PutUint32(footer[12:], 3)
	copy(footer[512:], b[:512])
	binary.LittleEndian.PutUint64(b[56:], 1<<64-1)
	write(t, path, append(b, footer...))
	if !bytes.Equal(content(t, path, "vmdk")[:len(disk)], disk) {
		t.Error("QEMU reads something else")
	}
	same(t, openLoose(t, path, snapshot.FormatVMDK), disk)
	write(t, path, b)
	if _, err := image.Inspect(path, snapshot.FormatVMDK); !errors.Is(err, snapshot.ErrCorrupt) {
		t.Errorf("stream that was cut off: %v", err)
	}
}

// TestVMDKLockedByVMware: VMware's locks are files.
func TestVMDKLockedByVMware(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk.vmdk")
	qemuImg(t, "create", "-q", "-f", "vmdk", path, "1M")
	if err := os.Mkdir(path+".lck", 0o700); err != nil {
		t.Fatal(err)
	}
	openLoose(t, path, snapshot.FormatVMDK)
	write(t, filepath.Join(path+".lck", "M12345.lck"), nil)
	if _, err := image.ResolveChain(path, snapshot.FormatVMDK); !errors.Is(err, snapshot.ErrBusy) {
		t.Errorf("disk that VMware holds: %v", err)
	}
}

func TestVMDKDescriptors(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "flat"), mixed(1<<20))
	const head = "# Disk DescriptorFile\nversion=1\nCID=01234567\nparentCID=ffffffff\ncreateType=\"custom\"\n"
	for text, want := range map[string]error{
		head + "RW 2048 FLAT \"flat\" 0\nRW 16 ZERO\nRW 8 VMFS \"flat\" 16\n": nil,
		head:                                  nil,
		head + "RW 2048 FLAT \"../flat\" 0\n": snapshot.ErrUnsupported,
		head + "RW 2048 FLAT \"" + filepath.Join(dir, "flat") + "\"\n": snapshot.ErrUnsupported,
		head + "RW 2048 FLAT \"..\"\n":                                 snapshot.ErrUnsupported,
		head + "RW 2048 VMFSSPARSE \"flat\"\n":                         snapshot.ErrUnsupported,
		head + "NOACCESS 2048 FLAT \"flat\"\n":                         snapshot.ErrUnsupported,
		head + "RW 2049 FLAT \"flat\" 0\n":                             snapshot.ErrCorrupt,
		head + "RW 2048 FLAT \"flat\" 1\n":                             snapshot.ErrCorrupt,
		head + "RW 1 FLAT \"flat\" -1\n":                               snapshot.ErrCorrupt,
		head + "RW -1 FLAT \"flat\"\n":                                 snapshot.ErrCorrupt,
		head + "RW 99999999999999 ZERO\n":                              snapshot.ErrCorrupt,
		head + "RW FLAT\n":                                             snapshot.ErrCorrupt,
		head + "RW 8 SPARSE \"flat\"\n":                                snapshot.ErrCorrupt,
		head + strings.Repeat("RW 8 ZERO\n", 1025):                     snapshot.ErrUnsupported,
		strings.Replace(head, "CID=01234567\n", "", 1):                 snapshot.ErrCorrupt,
		"version=1\n": snapshot.ErrCorrupt,
		"":            snapshot.ErrCorrupt,
		"COWD":        snapshot.ErrUnsupported,
	} {
		path := write(t, filepath.Join(dir, "disk.vmdk"), []byte(text))
		info, err := image.Inspect(path, snapshot.FormatVMDK)
		if !errors.Is(err, want) || (err == nil) != (want == nil) {
			t.Errorf("%q: %+v, %v, want %v", text, info, err, want)
		}
	}
	flat := mixed(1 << 20)
	path := write(t, filepath.Join(dir, "disk.vmdk"), []byte(head+"RW 2048 FLAT \"flat\" 0\nRW 16 ZERO\nRW 8 VMFS \"flat\" 16\n"))
	same(t, openLoose(t, path, snapshot.FormatVMDK), slices.Concat(flat, make([]byte, 8192), flat[8192:12288]))
}
