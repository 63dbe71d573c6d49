package vhdx

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash/crc32"
	"slices"
	"strings"

	"github.com/lull-backup/lull/snapshot/image/layer"
)

// le is how the format counts.
var le = binary.LittleEndian

const (
	magic = "vhdxfile"

	headerAt   = 64 << 10
	headerSize = 4 << 10
	regionsAt  = 192 << 10
	regionSize = 64 << 10
	maxRegions = (regionSize - 16) / 32
	mib        = 1 << 20

	maxLog = 64 << 20 // bytes; Hyper-V makes logs of 1 MiB
)

// crc is the CRC-32C of b with zeros at 4, where it stands.
func crc(b []byte) uint32 {
	table := crc32.MakeTable(crc32.Castagnoli)
	n := crc32.Update(0, table, b[:4])
	n = crc32.Update(n, table, make([]byte, 4))
	return crc32.Update(n, table, b[8:])
}

// summed checks the checksum of a structure that begins with its signature.
func summed(b []byte) bool { return le.Uint32(b[4:]) == crc(b) }

// setSum puts the checksum into its place.
func setSum(b []byte) { le.PutUint32(b[4:], crc(b)) }

// guid is an identifier in the usual order of its digits.
type guid string

const noGUID guid = "00000000-0000-0000-0000-000000000000"

func readGUID(b []byte) guid {
	s := []byte{b[3], b[2], b[1], b[0], b[5], b[4], b[7], b[6]}
	h := hex.EncodeToString(append(s, b[8:16]...))
	return guid(h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:])
}

// bytes is the identifier as it stands in a file.
func (g guid) bytes() ([]byte, error) {
	b, err := hex.DecodeString(strings.ReplaceAll(string(g), "-", ""))
	if err != nil || len(b) != 16 {
		return nil, fmt.Errorf("%q is no identifier", string(g))
	}
	slices.Reverse(b[0:4])
	slices.Reverse(b[4:6])
	slices.Reverse(b[6:8])
	return b, nil
}

// header is the current header of an image.
type header struct {
	raw       []byte
	at        int64 // in the file
	sequence  uint64
	data      guid // DataWriteGuid
	log       guid // noGUID: the log is empty
	logAt     int64
	logLength int64
}

// readHeader finds the current one of the two headers.
func readHeader(f *layer.File) (header, error) {
	b := make([]byte, len(magic))
	if err := f.Read(b, 0, "file identifier"); err != nil {
		return header{}, err
	}
	if string(b) != magic {
		return header{}, f.Corrupt("no VHDX: its first bytes are %x", b)
	}
	var best header
	for _, at := range []int64{headerAt, 2 * headerAt} {
		b := make([]byte, headerSize)
		if err := f.Read(b, at, "header"); err != nil {
			return header{}, err
		}
		if string(b[:4]) != "head" || !summed(b) {
			continue
		}
		if sequence := le.Uint64(b[8:]); best.raw == nil || sequence > best.sequence {
			best = header{raw: b, at: at, sequence: sequence}
		}
	}
	if best.raw == nil {
		return header{}, f.Corrupt("neither header matches its checksum")
	}
	return best, best.parse(f)
}

func (h *header) parse(f *layer.File) error {
	if v := le.Uint16(h.raw[66:]); v != 1 {
		return f.Unsupported("VHDX version %d", v)
	}
	h.data, h.log = readGUID(h.raw[32:]), readGUID(h.raw[48:])
	if h.log == noGUID {
		return nil
	}
	if v := le.Uint16(h.raw[64:]); v != 0 {
		return f.Unsupported("log of version %d", v)
	}
	length, at := int64(le.Uint32(h.raw[68:])), le.Uint64(h.raw[72:])
	if length > maxLog {
		return f.Unsupported("log of %d bytes", length)
	}
	if length == 0 || length%mib != 0 || at%mib != 0 || at < mib || at > uint64(f.Size) || length > f.Size-int64(at) {
		return f.Corrupt("log at %#x (%d bytes), unaligned or outside of the file", at, length)
	}
	h.logAt, h.logLength = int64(at), length
	return nil
}

// region is a part of the file with a purpose.
type region struct{ at, length int64 }

const (
	tableRegion    guid = "2dc27766-f623-4200-9d64-115e9bfd4a08"
	metadataRegion guid = "8b7ca206-4790-4b9a-b8fe-575f050f886e"
)

// readRegions finds the block table and the metadata.
func (v *Image) readRegions() error {
	for _, at := range []int64{regionsAt, regionsAt + regionSize} {
		b := make([]byte, regionSize)
		if err := v.read(b, at, "region table"); err != nil {
			return err
		}
		if string(b[:4]) == "regi" && summed(b) {
			return v.parseRegions(b)
		}
	}
	return v.f.Corrupt("neither region table matches its checksum")
}

func (v *Image) parseRegions(b []byte) error {
	n := le.Uint32(b[8:])
	if n > maxRegions {
		return v.f.Corrupt("%d regions", n)
	}
	for i := range int(n) {
		e := b[16+32*i:]
		id, at, length := readGUID(e), le.Uint64(e[16:]), int64(le.Uint32(e[24:]))
		if at < mib || at%mib != 0 || at > uint64(v.size) || length%mib != 0 || length > v.size-int64(at) {
			return v.f.Corrupt("region %s at %#x (%d bytes), unaligned or outside of the file", id, at, length)
		}
		r := region{int64(at), length}
		switch {
		case id == tableRegion:
			v.table = r
		case id == metadataRegion:
			v.meta = r
		case le.Uint32(e[28:])&1 != 0:
			return v.f.Unsupported("image needs the unknown region %s", id)
		}
	}
	if v.table.length == 0 || v.meta.length == 0 {
		return v.f.Corrupt("no region of the block table, or none of the metadata")
	}
	return nil
}
