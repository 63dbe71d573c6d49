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

// logged is an image whose first block's table entry, and a page of whose data, are
// in the log alone, under and above other entries.
func logged(t testing.TB) imagetest.VHDX {
	t.Helper()
	v := imagetest.VHDX{Size: 3 << 20, Block: 1 << 20, ID: baseID, Writes: []imagetest.Write{{Off: 0, Data: mixed(1 << 20)}, imagetest.Fill(2<<20, 1<<20, 9)}}
	plain := v.Bytes(t)
	table := slices.Clone(plain[imagetest.TableAt : imagetest.TableAt+4096])
	old := slices.Repeat([]byte{0xaa}, 4096)
	v.Log = []imagetest.LogEntry{
		{Sectors: map[int64][]byte{imagetest.TableAt: old, imagetest.DataAt + 8192: old, imagetest.DataAt + 4096: slices.Repeat([]byte{5}, 4096)}},
		{Zeros: [][2]int64{{imagetest.DataAt + 8192, 64 << 10}}, Sectors: map[int64][]byte{imagetest.TableAt: table}},
	}
	return v
}

// TestVHDXLog holds the replay of a log against QEMU's.
func TestVHDXLog(t *testing.T) {
	dir := t.TempDir()
	v := logged(t)
	b := v.Bytes(t)
	path := write(t, filepath.Join(dir, "dirty.vhdx"), b)
	repaired := write(t, filepath.Join(dir, "repaired.vhdx"), b)
	qemuImg(t, "check", "-q", "-r", "all", "-f", "vhdx", repaired) // replays the log

	want := imagetest.Apply(make([]byte, v.Size), append(v.Writes, imagetest.Fill(4096, 4096, 5), imagetest.Fill(8192, 64<<10, 0)))
	same(t, openLoose(t, repaired, snapshot.FormatVHDX), content(t, repaired, "vhdx"))
	same(t, openLoose(t, path, snapshot.FormatVHDX), want)
	if string(content(t, repaired, "vhdx")) != string(want) {
		t.Error("QEMU replays the log otherwise")
	}
	if info, err := image.Inspect(path, snapshot.FormatVHDX); err != nil || !info.Dirty {
		t.Errorf("%+v, %v", info, err)
	}
	if now, err := os.ReadFile(path); err != nil || string(now) != string(b) {
		t.Errorf("the file was written: %v", err)
	}

	torn := logged(t)
	torn.Log[0].Torn = true // nothing leads from the tail to the newest entry
	torn.Log[1] = imagetest.LogEntry{}
	path = write(t, filepath.Join(dir, "torn.vhdx"), torn.Bytes(t))
	same(t, openLoose(t, path, snapshot.FormatVHDX), imagetest.Apply(make([]byte, v.Size), v.Writes))
}

func TestVHDXSectorsOf4K(t *testing.T) {
	dir := t.TempDir()
	base := imagetest.VHDX{Size: 40 << 20, Block: 32 << 20, Sector: 4096, ID: baseID, Writes: []imagetest.Write{{Off: 1 << 20, Data: mixed(1 << 20)}}}
	top := imagetest.VHDX{Size: 40 << 20, Block: 8 << 20, Sector: 4096, ID: topID, Parent: &imagetest.Parent{ID: baseID, Path: "base"},
		Writes: []imagetest.Write{imagetest.Fill(0, 4096, 1), imagetest.Fill(1<<20+8192, 40960, 2), imagetest.Fill(33<<20, 1<<20, 3)},
		States: map[int64]uint8{1: 2, 2: 3, 3: 1}} // zero, unmapped and undefined: never the parent's
	write(t, filepath.Join(dir, "base"), base.Bytes(t))
	path := write(t, filepath.Join(dir, "top"), top.Bytes(t))
	want := imagetest.Apply(imagetest.Apply(make([]byte, base.Size), base.Writes), append([]imagetest.Write{imagetest.Fill(8<<20, 24<<20, 0)}, top.Writes...))
	same(t, openLoose(t, path, snapshot.FormatVHDX), want)
}

func TestForeignExtents(t *testing.T) {
	for _, format := range []snapshot.Format{snapshot.FormatVHD, snapshot.FormatVHDX, snapshot.FormatVMDK} {
		for _, kind := range map[snapshot.Format][]string{
			snapshot.FormatVHD: {"fixed", "dynamic"}, snapshot.FormatVHDX: {"fixed", "dynamic"}, snapshot.FormatVMDK: {"monolithicSparse", "monolithicFlat", "twoGbMaxExtentSparse"},
		}[format] {
			path := filepath.Join(t.TempDir(), "disk.vmdk")
			qemuImg(t, "create", "-q", "-f", qemuName(format), "-o", "subformat="+kind, path, "64M")
			qemuIO(t, path, qemuName(format), "write -P 1 20M 64k")
			src := openLoose(t, path, format)
			extents, err := src.Extents(t.Context(), 0, 64<<20)
			if err != nil {
				t.Fatal(err)
			}
			var data int64
			for _, e := range extents {
				if !e.Zero {
					data += e.Length
				}
			}
			if data < 64<<10 || data > 2<<20 {
				t.Errorf("%s, %s: %d bytes of data in %+v", format, kind, data, extents)
			}
		}
	}
}

// TestForeignLies damages good images, one place at a time. fix puts the checksums
// right again, so that what stands behind them is looked at.
func TestForeignLies(t *testing.T) {
	vhd := imagetest.VHD{Size: 8 << 20, Block: 2 << 20, ID: topID, Parent: &imagetest.Parent{ID: baseID, Path: `.\base`},
		Writes: []imagetest.Write{imagetest.Fill(0, 1<<20, 1)}}.Bytes(t)
	vhdBase := imagetest.VHD{Size: 8 << 20, ID: baseID}.Bytes(t)
	vhdx := imagetest.VHDX{Size: 8 << 20, Block: 2 << 20, ID: topID, Parent: &imagetest.Parent{ID: baseID, Path: `.\base`},
		Writes: []imagetest.Write{imagetest.Fill(0, 1<<20, 1)}}.Bytes(t)
	vhdxBase := imagetest.VHDX{Size: 8 << 20, Block: 1 << 20, ID: baseID}.Bytes(t)
	be, le := binary.BigEndian, binary.LittleEndian
	const head, table = 512, 1536
	last := func(b []byte) []byte { return b[len(b)-512:] }
	both := func(b []byte, at int64, patch ...byte) { // of headers and region tables
		copy(b[at:], patch)
		copy(b[at+64<<10:], patch)
	}
	for name, c := range map[string]struct {
		format snapshot.Format
		fix    bool
		damage func(b []byte) []byte
	}{
		"vhd: empty":             {snapshot.FormatVHD, false, func(b []byte) []byte { return nil }},
		"vhd: no footer":         {snapshot.FormatVHD, false, func(b []byte) []byte { copy(b, "x"); copy(last(b), "x"); return b }},
		"vhd: footers":           {snapshot.FormatVHD, false, func(b []byte) []byte { b[40], last(b)[40] = 1, 1; return b }},
		"vhd: header":            {snapshot.FormatVHD, false, func(b []byte) []byte { b[head+40] ^= 1; return b }},
		"vhd: size":              {snapshot.FormatVHD, true, func(b []byte) []byte { last(b)[48] = 0x7f; return b }},
		"vhd: odd size":          {snapshot.FormatVHD, true, func(b []byte) []byte { last(b)[55] = 1; return b }},
		"vhd: header away":       {snapshot.FormatVHD, true, func(b []byte) []byte { last(b)[17] = 1; return b }},
		"vhd: larger than table": {snapshot.FormatVHD, true, func(b []byte) []byte { last(b)[51] = 1; return b }},
		"vhd: block size":        {snapshot.FormatVHD, true, func(b []byte) []byte { b[head+35] = 1; return b }},
		"vhd: huge blocks":       {snapshot.FormatVHD, true, func(b []byte) []byte { be.PutUint32(b[head+32:], 1<<31); return b }},
		"vhd: huge table":        {snapshot.FormatVHD, true, func(b []byte) []byte { be.PutUint32(b[head+28:], 1<<20); return b }},
		"vhd: table away":        {snapshot.FormatVHD, true, func(b []byte) []byte { b[head+16] = 1; return b }},
		"vhd: no parent":         {snapshot.FormatVHD, true, func(b []byte) []byte { clear(b[head+40 : head+56]); return b }},
		"vhd: parent's path":     {snapshot.FormatVHD, true, func(b []byte) []byte { be.PutUint32(b[head+576+8:], 1<<30); return b }},
		"vhd: block away":        {snapshot.FormatVHD, true, func(b []byte) []byte { be.PutUint32(b[table:], 1<<30); return b }},
		"vhd: block is table":    {snapshot.FormatVHD, true, func(b []byte) []byte { be.PutUint32(b[table:], 3); return b }},
		"vhd: cut off":           {snapshot.FormatVHD, false, func(b []byte) []byte { return b[:1<<20] }},

		"vhdx: empty":          {snapshot.FormatVHDX, false, func(b []byte) []byte { return nil }},
		"vhdx: no magic":       {snapshot.FormatVHDX, false, func(b []byte) []byte { b[0] = 'x'; return b }},
		"vhdx: headers":        {snapshot.FormatVHDX, false, func(b []byte) []byte { b[64<<10+20]++; b[128<<10+20]++; return b }},
		"vhdx: regions":        {snapshot.FormatVHDX, false, func(b []byte) []byte { b[192<<10+20]++; b[256<<10+20]++; return b }},
		"vhdx: many regions":   {snapshot.FormatVHDX, true, func(b []byte) []byte { both(b, 192<<10+8, 0xff, 0xff); return b }},
		"vhdx: region away":    {snapshot.FormatVHDX, true, func(b []byte) []byte { both(b, 192<<10+16+20, 1); return b }},
		"vhdx: no table":       {snapshot.FormatVHDX, true, func(b []byte) []byte { both(b, 192<<10+8, 0); return b }},
		"vhdx: log away":       {snapshot.FormatVHDX, true, func(b []byte) []byte { both(b, 64<<10+48, 1); both(b, 64<<10+76, 1); return b }},
		"vhdx: many items":     {snapshot.FormatVHDX, true, func(b []byte) []byte { b[2<<20+11] = 0xff; return b }},
		"vhdx: no items":       {snapshot.FormatVHDX, true, func(b []byte) []byte { b[2<<20+10] = 0; return b }},
		"vhdx: item away":      {snapshot.FormatVHDX, true, func(b []byte) []byte { b[2<<20+32+19] = 0xff; return b }},
		"vhdx: block size":     {snapshot.FormatVHDX, true, func(b []byte) []byte { b[2<<20+64<<10] = 1; return b }},
		"vhdx: size":           {snapshot.FormatVHDX, true, func(b []byte) []byte { b[2<<20+64<<10+15] = 0x7f; return b }},
		"vhdx: larger":         {snapshot.FormatVHDX, true, func(b []byte) []byte { b[2<<20+64<<10+8+5] = 0x3f; return b }},
		"vhdx: locator":        {snapshot.FormatVHDX, true, func(b []byte) []byte { b[2<<20+64<<10+40+18] = 0xff; return b }},
		"vhdx: block away":     {snapshot.FormatVHDX, true, func(b []byte) []byte { b[3<<20+6] = 1; return b }},
		"vhdx: block is table": {snapshot.FormatVHDX, true, func(b []byte) []byte { le.PutUint64(b[3<<20:], 3<<20|7); return b }},
		"vhdx: block state":    {snapshot.FormatVHDX, true, func(b []byte) []byte { b[3<<20] = 5; return b }},
		"vhdx: no bitmap":      {snapshot.FormatVHDX, true, func(b []byte) []byte { clear(b[3<<20+2048*8 : 3<<20+2049*8]); return b }},
		"vhdx: cut off":        {snapshot.FormatVHDX, false, func(b []byte) []byte { return b[:4<<20] }},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			template, base, resum := vhd, vhdBase, imagetest.ResumVHD
			if c.format == snapshot.FormatVHDX {
				template, base, resum = vhdx, vhdxBase, imagetest.ResumVHDX
			}
			b := c.damage(slices.Clone(template))
			if c.fix {
				resum(b)
			}
			path := write(t, filepath.Join(dir, "bad"), b)
			layers := []snapshot.Layer{{Path: path, Format: c.format}, {Path: write(t, filepath.Join(dir, "base"), base), Format: c.format}}
			src, err := image.OpenChain(t.Context(), layers)
			if err == nil {
				defer src.Close()
				err = src.ReadAt(t.Context(), make([]byte, 1<<20), 0)
			}
			if !errors.Is(err, snapshot.ErrCorrupt) && !strings.Contains(name, "huge") || err == nil || !strings.Contains(err.Error(), path) {
				t.Errorf("error %v, want ErrCorrupt that names the file", err)
			}
		})
	}
}

// TestOneFooterServes: the copy at the beginning is for that.
func TestOneFooterServes(t *testing.T) {
	v := imagetest.VHD{Size: 8 << 20, Block: 2 << 20, ID: topID, Writes: []imagetest.Write{imagetest.Fill(0, 1<<20, 1)}}
	b := v.Bytes(t)
	b[len(b)-300] ^= 1
	path := write(t, filepath.Join(t.TempDir(), "disk.vhd"), b)
	same(t, openLoose(t, path, snapshot.FormatVHD), imagetest.Apply(make([]byte, v.Size), v.Writes))
}
