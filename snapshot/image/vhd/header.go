package vhd

import (
	"unicode/utf16"

	"github.com/lull-backup/lull/snapshot/image/layer"
)

const (
	headerSize   = 1024
	headerCookie = "cxsparse"

	minBlock = 4 << 10
	maxBlock = 256 << 20
	maxTable = 64 << 20 // bytes: thirty times that of the largest disk with usual blocks

	locators      = 8
	maxLocator    = 4096       // bytes of a path
	platformW2ru  = 0x57327275 // a path relative to the image, UTF-16LE
	platformW2ku  = 0x57326b75 // an absolute one
	unusedEntry   = 1<<32 - 1
	parentNameMax = 512
)

// header is the checked header of a dynamic or differencing image.
type header struct {
	table   int64 // where it is
	entries int64
	block   int64 // bytes of data in one
	bitmap  int64 // bytes before that data

	parentID    string
	parentStamp uint32
	parents     []string // paths of the parent, the relative ones first
}

func readHeader(f *layer.File, foot footer) (header, error) {
	b := make([]byte, headerSize)
	if err := f.Read(b, foot.header, "header"); err != nil {
		return header{}, err
	}
	if string(b[:8]) != headerCookie {
		return header{}, f.Corrupt("no header of a dynamic VHD at %#x", foot.header)
	}
	if !summed(b, 36) {
		return header{}, f.Corrupt("header at %#x does not match its checksum", foot.header)
	}
	if v := be.Uint32(b[24:]); v>>16 != version1>>16 {
		return header{}, f.Unsupported("VHD header version %#x", v)
	}
	h := header{entries: int64(be.Uint32(b[28:])), block: int64(be.Uint32(b[32:]))}
	if h.block < minBlock || h.block > maxBlock || h.block&(h.block-1) != 0 {
		return header{}, f.Corrupt("blocks of %d bytes", h.block)
	}
	h.bitmap = layer.RoundUp(h.block/layer.SectorSize/8, layer.SectorSize)
	if err := h.placeTable(f, be.Uint64(b[16:]), foot); err != nil {
		return header{}, err
	}
	if foot.kind != Differencing {
		return h, nil
	}
	h.parentID, h.parentStamp = guid(b[40:56]), be.Uint32(b[56:])
	if h.parentID == "" {
		return header{}, f.Corrupt("differencing image without a parent")
	}
	return h, h.readParents(f, b)
}

// placeTable sees that the table covers the disk and lies in the file.
func (h *header) placeTable(f *layer.File, at uint64, foot footer) error {
	if need := (foot.size + h.block - 1) / h.block; h.entries < need {
		return f.Corrupt("block table of %d entries, but %d are needed", h.entries, need)
	}
	if h.entries*4 > maxTable {
		return f.Unsupported("block table of %d entries", h.entries)
	}
	if at%layer.SectorSize != 0 || at < footerSize || at > uint64(f.Size) || h.entries*4 > f.Size-int64(at) {
		return f.Corrupt("block table at %#x, unaligned or outside of the file", at)
	}
	h.table = int64(at)
	return nil
}

// readParents collects the names by which an image calls its parent.
func (h *header) readParents(f *layer.File, b []byte) error {
	var absolute []string
	for i := range locators {
		l := b[576+24*i:]
		platform, length, at := be.Uint32(l), int64(be.Uint32(l[8:])), be.Uint64(l[16:])
		if platform != platformW2ru && platform != platformW2ku {
			continue
		}
		if length > maxLocator || at > uint64(f.Size) {
			return f.Corrupt("path of the parent at %#x (%d bytes)", at, length)
		}
		text := make([]byte, length)
		if err := f.Read(text, int64(at), "path of the parent"); err != nil {
			return err
		}
		path := text16(text, func(b []byte) uint16 { return uint16(b[0]) | uint16(b[1])<<8 })
		if platform == platformW2ru {
			h.parents = append(h.parents, path)
		} else {
			absolute = append(absolute, path)
		}
	}
	h.parents = append(h.parents, absolute...)
	if name := text16(b[64:64+parentNameMax], be.Uint16); name != "" {
		h.parents = append(h.parents, name)
	}
	return nil
}

// text16 is text of two bytes a character, up to a zero.
func text16(b []byte, char func([]byte) uint16) string {
	var chars []uint16
	for ; len(b) >= 2; b = b[2:] {
		c := char(b)
		if c == 0 {
			break
		}
		chars = append(chars, c)
	}
	return string(utf16.Decode(chars))
}
