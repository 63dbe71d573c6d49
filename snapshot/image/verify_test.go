package image_test

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/image"
	"github.com/lull-backup/lull/snapshot/image/imagetest"
)

func verify(t *testing.T, path string, format snapshot.Format) error {
	t.Helper()
	layers, err := image.ResolveChain(path, format)
	if err != nil {
		return err
	}
	return image.Verify(t.Context(), layers)
}

func TestVerify(t *testing.T) {
	for _, format := range []snapshot.Format{snapshot.FormatVHD, snapshot.FormatVHDX} {
		paths, _ := lineage(t, t.TempDir(), format)
		if err := verify(t, paths[0], format); err != nil {
			t.Error(err)
		}
		damaged, err := os.ReadFile(paths[2])
		if err != nil {
			t.Fatal(err)
		}
		if format == snapshot.FormatVHD { // two entries of the table name one block
			copy(damaged[1536+4:], damaged[1536:1540])
		} else {
			copy(damaged[imagetest.TableAt+8:], damaged[imagetest.TableAt:imagetest.TableAt+8])
		}
		write(t, paths[2], damaged)
		if err := verify(t, paths[0], format); !errors.Is(err, snapshot.ErrCorrupt) || !strings.Contains(err.Error(), "share a place") || !strings.Contains(err.Error(), paths[2]) {
			t.Errorf("two blocks at one place: %v", err)
		}
	}
	path := filepath.Join(t.TempDir(), "disk.qcow2")
	qemuImg(t, "create", "-q", "-f", "qcow2", path, "64M")
	qemuIO(t, path, "qcow2", "write -P 1 60M 64k")
	if err := verify(t, path, snapshot.FormatQcow2); err != nil {
		t.Error(err)
	}
	patch(t, path, 4<<16+(60<<20>>16)*8%65536, binary.BigEndian.AppendUint64(nil, 1<<50))
	if err := verify(t, path, snapshot.FormatQcow2); !errors.Is(err, snapshot.ErrCorrupt) {
		t.Errorf("cluster outside of the file: %v", err)
	}
}

// TestChainShowsWhatItCan follows a chain until it breaks.
func TestChainShowsWhatItCan(t *testing.T) {
	paths, _ := lineage(t, t.TempDir(), snapshot.FormatVHDX)
	if err := os.Remove(paths[2]); err != nil {
		t.Fatal(err)
	}
	infos, err := image.Chain(paths[0], snapshot.FormatVHDX)
	if !errors.Is(err, os.ErrNotExist) || len(infos) != 2 || infos[1].Path != paths[1] || !slices.Contains(infos[1].ParentPaths, `.\base`) {
		t.Errorf("%+v, %v", infos, err)
	}
}

// TestDoubts: a VHD tells only by a time whether its parent was written to since.
func TestDoubts(t *testing.T) {
	dir := t.TempDir()
	base := imagetest.VHD{Size: 1 << 20, ID: baseID, Stamp: 1000}
	top := imagetest.VHD{Size: 1 << 20, Block: 1 << 19, ID: topID, Parent: &imagetest.Parent{ID: baseID, Path: "base", Stamp: 1000}}
	write(t, filepath.Join(dir, "base"), base.Bytes(t))
	path := write(t, filepath.Join(dir, "top"), top.Bytes(t))
	host := image.NewHost([]image.VM{{Name: "vm", Disks: []image.DiskSpec{{Path: path, Format: snapshot.FormatVHD}}}})
	if p, err := host.Plan(t.Context(), "vm", "run"); err != nil || len(p.Warnings) != 0 {
		t.Errorf("%v, %v", p.Warnings, err)
	}
	base.Stamp = 2000
	write(t, filepath.Join(dir, "base"), base.Bytes(t))
	if p, err := host.Plan(t.Context(), "vm", "run"); err != nil || len(p.Warnings) != 1 || !strings.Contains(p.Warnings[0], "written to since") {
		t.Errorf("%v, %v", p.Warnings, err)
	}
}
