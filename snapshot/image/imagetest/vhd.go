package imagetest

import (
	"encoding/binary"
	"encoding/hex"
	"slices"
	"strings"
	"testing"
	"unicode/utf16"
)

// Write is what a guest writes, whole sectors.
type Write struct {
	Off  int64
	Data []byte
}

// Fill is a write of n bytes.
func Fill(off int64, n int, b byte) Write { return Write{off, slices.Repeat([]byte{b}, n)} }

// Apply does writes to the disk's bytes.
func Apply(disk []byte, writes []Write) []byte {
	disk = slices.Clone(disk)
	for _, w := range writes {
		copy(disk[w.Off:], w.Data)
	}
	return disk
}

// Parent names the image that a differencing one is made on.
type Parent struct {
	ID    string // GUID; of a VHD's footer, of a VHDX's data
	Path  string // relative, with backslashes
	Stamp uint32 // of a VHD
}

// VHD is an image to make.
type VHD struct {
	Size   int64
	Block  int64 // 0: fixed
	ID     string
	Parent *Parent
	Stamp  uint32
	Writes []Write
}

const (
	vhdSector = 512
	vhdHeader = vhdSector
	vhdTable  = vhdHeader + 1024
)

// Bytes is the whole image.
func (v VHD) Bytes(t testing.TB) []byte {
	t.Helper()
	if v.Block == 0 {
		return append(Apply(make([]byte, v.Size), v.Writes), v.footer(t)...)
	}
	n := (v.Size + v.Block - 1) / v.Block
	locator := utf16Bytes(v.parentPath(), binary.LittleEndian)
	locatorAt := roundUp(vhdTable+4*n, vhdSector)
	b := make([]byte, roundUp(locatorAt+int64(len(locator)), vhdSector))
	copy(b, v.footer(t))
	copy(b[vhdHeader:], v.header(t, n, locatorAt, len(locator)))
	copy(b[locatorAt:], locator)
	for i := range n {
		binary.BigEndian.PutUint32(b[vhdTable+4*i:], 1<<32-1)
	}
	for i := range n {
		block := v.block(i)
		if block == nil {
			continue
		}
		binary.BigEndian.PutUint32(b[vhdTable+4*i:], uint32(len(b)/vhdSector))
		b = append(b, block...)
	}
	return append(b, v.footer(t)...)
}

// block is a block with its bitmap; nil where nothing was written.
func (v VHD) block(index int64) []byte {
	bitmap := roundUp(v.Block/vhdSector/8, vhdSector)
	var b []byte
	eachSector(v.Writes, vhdSector, func(at int64, data []byte) {
		if at/v.Block != index {
			return
		}
		if b == nil {
			b = make([]byte, bitmap+v.Block)
		}
		inside := at % v.Block
		b[inside/vhdSector/8] |= 0x80 >> (inside / vhdSector % 8)
		copy(b[bitmap+inside:], data)
	})
	return b
}

func (v VHD) parentPath() string {
	if v.Parent == nil {
		return ""
	}
	return v.Parent.Path
}

func (v VHD) footer(t testing.TB) []byte {
	be, b := binary.BigEndian, make([]byte, vhdSector)
	copy(b, "conectix")
	be.PutUint32(b[8:], 2)
	be.PutUint32(b[12:], 0x10000)
	be.PutUint64(b[16:], vhdHeader)
	be.PutUint32(b[24:], v.Stamp)
	copy(b[28:], "win \x00\x0a\x00\x00Wi2k")
	be.PutUint64(b[40:], uint64(v.Size))
	be.PutUint64(b[48:], uint64(v.Size))
	copy(b[56:], []byte{0, 1, 4, 17})
	be.PutUint32(b[60:], 3)
	if v.Block == 0 {
		be.PutUint64(b[16:], 1<<64-1)
		be.PutUint32(b[60:], 2)
	}
	if v.Parent != nil {
		be.PutUint32(b[60:], 4)
	}
	copy(b[68:], guidBytes(t, v.ID, false))
	vhdSum(b, 64)
	return b
}

func (v VHD) header(t testing.TB, blocks, locatorAt int64, locator int) []byte {
	be, b := binary.BigEndian, make([]byte, 1024)
	copy(b, "cxsparse")
	be.PutUint64(b[8:], 1<<64-1)
	be.PutUint64(b[16:], vhdTable)
	be.PutUint32(b[24:], 0x10000)
	be.PutUint32(b[28:], uint32(blocks))
	be.PutUint32(b[32:], uint32(v.Block))
	if v.Parent != nil {
		copy(b[40:], guidBytes(t, v.Parent.ID, false))
		be.PutUint32(b[56:], v.Parent.Stamp)
		name := v.Parent.Path[strings.LastIndexByte(v.Parent.Path, '\\')+1:]
		copy(b[64:576], utf16Bytes(name, be))
		copy(b[576:], "W2ru")
		be.PutUint32(b[580:], vhdSector)
		be.PutUint32(b[584:], uint32(locator))
		be.PutUint64(b[592:], uint64(locatorAt))
	}
	vhdSum(b, 36)
	return b
}

// vhdSum puts a checksum into its place.
func vhdSum(b []byte, at int) {
	binary.BigEndian.PutUint32(b[at:], 0)
	sum := uint32(0)
	for _, c := range b {
		sum += uint32(c)
	}
	binary.BigEndian.PutUint32(b[at:], ^sum)
}

// ResumVHD puts the checksums right of an image that was tampered with.
func ResumVHD(b []byte) {
	if len(b) < vhdTable+vhdSector {
		return
	}
	vhdSum(b[:vhdSector], 64)
	vhdSum(b[vhdHeader:vhdTable], 36)
	vhdSum(b[(len(b)-vhdSector)/vhdSector*vhdSector:][:vhdSector], 64)
}

func eachSector(writes []Write, sector int64, each func(at int64, data []byte)) {
	for _, w := range writes {
		for i := int64(0); i < int64(len(w.Data)); i += sector {
			each(w.Off+i, w.Data[i:i+sector])
		}
	}
}

func roundUp(n, unit int64) int64 { return (n + unit - 1) / unit * unit }

func utf16Bytes(s string, order binary.AppendByteOrder) []byte {
	var b []byte
	for _, c := range utf16.Encode([]rune(s)) {
		b = order.AppendUint16(b, c)
	}
	return b
}

// guidBytes are the bytes of an identifier; mixed: its first three parts are
// numbers in little-endian order.
func guidBytes(t testing.TB, s string, mixed bool) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, "-", ""))
	if err != nil || len(b) != 16 {
		t.Fatalf("%q is no GUID", s)
	}
	if mixed {
		slices.Reverse(b[0:4])
		slices.Reverse(b[4:6])
		slices.Reverse(b[6:8])
	}
	return b
}
