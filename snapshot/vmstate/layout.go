package vmstate

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/lull-backup/lull/snapshot"
)

const (
	pageSize = 4 << 10
	// align is where RAM blocks and the rest begin, and what the length of a layout is a
	// multiple of. It is that of the windows in which the repository looks for what has
	// changed, and it looks only where two layouts have one length.
	align = 4 << 20

	magic      = "lull vm state 1\n"
	headerSize = pageSize
)

func alignUp(n int64) int64 { return (n + align - 1) / align * align }

// header is the beginning of a layout.
type header struct {
	rest, restLength int64 // where the records are
	length           int64 // of the stream
	sum              [sha256.Size]byte
}

func (h header) encode() []byte {
	b := make([]byte, 0, headerSize)
	b = append(b, magic...)
	for _, n := range []int64{h.rest, h.restLength, h.length} {
		b = binary.LittleEndian.AppendUint64(b, uint64(n))
	}
	b = append(b, h.sum[:]...)
	return b[:headerSize]
}

func decodeHeader(b []byte, size int64) (h header, err error) {
	if !bytes.HasPrefix(b, []byte(magic)) {
		return h, fmt.Errorf("%w: it does not begin like one", errCorrupt)
	}
	for i, n := range []*int64{&h.rest, &h.restLength, &h.length} {
		*n = int64(binary.LittleEndian.Uint64(b[len(magic)+8*i:]))
	}
	copy(h.sum[:], b[len(magic)+24:])
	if h.rest < headerSize || h.restLength < 0 || h.length < 0 || h.rest > size || h.restLength > size-h.rest {
		return h, fmt.Errorf("%w: its parts are not within it", errCorrupt)
	}
	return h, nil
}

// IsLayout tells what Pack wrote from a plain stream, by its first bytes.
func IsLayout(src io.ReaderAt) (bool, error) {
	b := make([]byte, len(magic))
	if _, err := src.ReadAt(b, 0); err != nil && !errors.Is(err, io.EOF) {
		return false, err
	}
	return string(b) == magic, nil
}

// The kinds of records. Numbers are uvarints; pages are counted in pageSize.
const (
	recordBytes = 1 // count, then so many bytes of the stream
	recordPages = 2 // place in the guest, place here, count: pages, each after its head
	recordPage  = 3 // place here: one page whose head was among the bytes before
	recordZeros = 4 // place in the guest, count: heads of pages that hold zeros
)

// The heads of pages in the stream: a big-endian word, the page's place in its block
// and these flags. A head without flagSame goes on with the name of the block.
const (
	flagZero    = 0x02 // a byte follows, which is what the page is filled with: 0
	flagSizes   = 0x04
	flagPage    = 0x08
	flagEnd     = 0x10
	flagSame    = 0x20 // same block as the page before
	flagsMask   = pageSize - 1
	headPages   = flagPage | flagSame
	headZeros   = flagZero | flagSame
	wordSize    = 8
	maxHead     = wordSize + 1 + 255 + 1 // with a name and a fill byte
	streamMagic = "QEVM\x00\x00\x00\x03"
)

var errCorrupt = fmt.Errorf("layout of a saved state: %w", snapshot.ErrCorrupt)
