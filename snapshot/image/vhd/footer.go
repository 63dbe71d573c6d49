package vhd

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"time"

	"github.com/lull-backup/lull/snapshot/image/layer"
)

// be is how the format counts.
var be = binary.BigEndian

const (
	footerSize   = 512
	footerCookie = "conectix"
	version1     = 0x00010000
	nowhere      = 1<<64 - 1 // an offset

	maxSize = 1 << 41 // 2 TiB and a little, bytes: what sectors of 32 bits can name
)

// Kind of a VHD.
type Kind string

// The kinds.
const (
	Fixed        Kind = "fixed"
	Dynamic      Kind = "dynamic"
	Differencing Kind = "differencing"
)

// kinds are the types that a footer names by number.
func kinds() map[uint32]Kind {
	return map[uint32]Kind{2: Fixed, 3: Dynamic, 4: Differencing}
}

// footer is the checked footer of an image.
type footer struct {
	raw    []byte // as it stands in the file
	kind   Kind
	header int64 // where the header of a dynamic image is
	size   int64 // virtual, bytes
	stamp  uint32
	id     string
}

// readFooter reads the footer at the end of a file; where that is damaged and the
// copy at the beginning is not, as in an image that is not fixed, that one.
func readFooter(f *layer.File) (footer, error) {
	if f.Size < footerSize {
		return footer{}, f.Corrupt("%d bytes are too short for a VHD", f.Size)
	}
	b, err := footerAt(f, (f.Size-footerSize)/layer.SectorSize*layer.SectorSize)
	if err == nil {
		return parseFooter(f, b)
	}
	if copied, copyErr := footerAt(f, 0); copyErr == nil && kinds()[be.Uint32(copied[60:])] != Fixed {
		return parseFooter(f, copied)
	}
	return footer{}, err
}

// footerAt reads a footer that is whole.
func footerAt(f *layer.File, at int64) ([]byte, error) {
	b := make([]byte, footerSize)
	if err := f.Read(b, at, "footer"); err != nil {
		return nil, err
	}
	if string(b[:8]) != footerCookie {
		return nil, f.Corrupt("no VHD: no footer at %#x", at)
	}
	if !summed(b, 64) {
		return nil, f.Corrupt("footer at %#x does not match its checksum", at)
	}
	return b, nil
}

func parseFooter(f *layer.File, b []byte) (footer, error) {
	if v := be.Uint32(b[12:]); v>>16 != version1>>16 {
		return footer{}, f.Unsupported("VHD version %#x", v)
	}
	foot := footer{raw: b, kind: kinds()[be.Uint32(b[60:])], stamp: be.Uint32(b[24:]), id: guid(b[68:84])}
	if foot.kind == "" {
		return footer{}, f.Unsupported("VHD of type %d", be.Uint32(b[60:]))
	}
	size := be.Uint64(b[48:])
	if size > maxSize || size%layer.SectorSize != 0 {
		return footer{}, f.Corrupt("virtual size of %d bytes", size)
	}
	foot.size = int64(size)
	header := be.Uint64(b[16:])
	if foot.kind == Fixed {
		if foot.size > f.Size-footerSize {
			return footer{}, f.Corrupt("disk of %d bytes in a file of %d", foot.size, f.Size)
		}
		return foot, nil
	}
	if header%layer.SectorSize != 0 || header > uint64(f.Size) {
		return footer{}, f.Corrupt("header at %#x, unaligned or past the end of the file", header)
	}
	foot.header = int64(header)
	return foot, nil
}

// summed checks the checksum at a place in b: the complement of the sum of all
// other bytes.
func summed(b []byte, at int) bool { return be.Uint32(b[at:]) == sum(b, at) }

func sum(b []byte, at int) uint32 {
	var n uint32
	for i, c := range b {
		if i < at || i >= at+4 {
			n += uint32(c)
		}
	}
	return ^n
}

// guid is an identifier as text; empty for none.
func guid(b []byte) string {
	if len(bytes.Trim(b, "\x00")) == 0 {
		return ""
	}
	h := hex.EncodeToString(b)
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// Time is when the seconds of a footer are.
func Time(stamp uint32) time.Time {
	return time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(stamp) * time.Second)
}
