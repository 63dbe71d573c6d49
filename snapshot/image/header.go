package image

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"strings"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/image/layer"
)

var be = binary.BigEndian

// Compression of clusters in a qcow2 image.
type compression uint8

const (
	compressionZlib compression = 0
	compressionZstd compression = 1
)

const (
	qcow2Magic     = 0x514649fb // "QFI\xfb"
	headerSizeV2   = 72
	headerSizeV3   = 104
	minClusterBits = 9
	maxClusterBits = 21
	maxL1Bytes     = 32 << 20 // QEMU's own limit
	maxNameLength  = 1023     // of a backing file, by the format
	maxExtensions  = 64

	extensionEnd           = 0
	extensionBackingFormat = 0xe2792aca
	extensionFeatureNames  = 0x6803f857

	featureDirty       = 1 << 0
	featureCorrupt     = 1 << 1
	featureDataFile    = 1 << 2
	featureCompression = 1 << 3
	featureExtendedL2  = 1 << 4
	featuresKnown      = featureDirty | featureCorrupt | featureDataFile | featureCompression | featureExtendedL2
)

// header is the checked header of a qcow2 image.
type header struct {
	version     int
	clusterBits uint
	size        int64 // virtual
	l1Offset    int64
	l1Entries   int64
	snapshots   int
	features    uint64
	autoclear   uint64
	bitmaps     bitmapDirectory
	compression compression
	extendedL2  bool

	backing       string
	backingFormat string // as declared; empty when it is not

	featureNames map[int]string // of incompatible features, for refusals
}

// readHeader reads and checks the header of a qcow2 image.
func readHeader(f *layer.File) (header, error) {
	b := make([]byte, min(f.Size, 64<<10))
	if len(b) < headerSizeV2 {
		return header{}, f.Corrupt("%d bytes are too short for a qcow2 header", f.Size)
	}
	if err := f.Read(b, 0, "header"); err != nil {
		return header{}, err
	}
	if be.Uint32(b) != qcow2Magic {
		return header{}, f.Corrupt("no qcow2 image: its first bytes are %x", b[:4])
	}
	length, err := headerLength(f, b)
	if err != nil {
		return header{}, err
	}
	h := header{version: int(be.Uint32(b[4:]))}
	if err := h.readFixed(f, b[:length]); err != nil {
		return h, err
	}
	if err := h.readExtensions(f, b[length:min(len(b), 1<<h.clusterBits)]); err != nil {
		return h, err
	}
	if err := h.readBacking(f, b); err != nil {
		return h, err
	}
	if err := h.checkFeatures(f); err != nil {
		return h, err
	}
	return h, h.checkTables(f)
}

// headerLength is the length of the header without its extensions.
func headerLength(f *layer.File, b []byte) (int, error) {
	switch version := be.Uint32(b[4:]); {
	case version == 2:
		return headerSizeV2, nil
	case version != 3:
		return 0, f.Unsupported("qcow2 version %d", version)
	case len(b) < headerSizeV3:
		return 0, f.Corrupt("%d bytes are too short for a qcow2 header", f.Size)
	}
	length := int64(be.Uint32(b[100:]))
	if length < headerSizeV3 || length > int64(len(b)) {
		return 0, f.Corrupt("header of %d bytes", length)
	}
	return int(length), nil
}

func (h *header) readFixed(f *layer.File, b []byte) error {
	bits := be.Uint32(b[20:])
	if bits < minClusterBits || bits > maxClusterBits {
		return f.Corrupt("clusters of 2^%d bytes", bits)
	}
	h.clusterBits = uint(bits)
	if len(b) > 1<<bits {
		return f.Corrupt("header of %d bytes is larger than a cluster", len(b))
	}
	size := be.Uint64(b[24:])
	if size > math.MaxInt64-layer.SectorSize {
		return f.Corrupt("virtual size of %d bytes", size)
	}
	h.size = int64(size)
	if method := be.Uint32(b[32:]); method != 0 {
		return snapshot.WithHint(f.Unsupported("encrypted image (%s)", map[uint32]string{1: "AES", 2: "LUKS"}[method]),
			"back it up through its VM while that runs: QEMU has the key, and lull takes none")
	}
	h.l1Entries = int64(be.Uint32(b[36:]))
	h.l1Offset = int64(min(be.Uint64(b[40:]), math.MaxInt64))
	h.snapshots = int(be.Uint32(b[60:]))
	if h.version < 3 {
		return nil
	}
	h.features, h.autoclear = be.Uint64(b[72:]), be.Uint64(b[88:])
	if order := be.Uint32(b[96:]); order > 6 {
		return f.Corrupt("reference counts of 2^%d bits", order)
	}
	h.extendedL2 = h.features&featureExtendedL2 != 0
	if len(b) > headerSizeV3 {
		h.compression = compression(b[headerSizeV3])
	}
	return nil
}

// readExtensions reads the list of header extensions, which ends with the
// header's cluster at the latest.
func (h *header) readExtensions(f *layer.File, b []byte) error {
	for range maxExtensions {
		if len(b) < 8 || be.Uint32(b) == extensionEnd {
			return nil
		}
		kind, length := be.Uint32(b), int64(be.Uint32(b[4:]))
		b = b[8:]
		if length > int64(len(b)) {
			return f.Corrupt("header extension %#x of %d bytes is larger than the header", kind, length)
		}
		switch kind {
		case extensionBackingFormat:
			h.backingFormat = string(b[:length])
		case extensionFeatureNames:
			h.readFeatureNames(b[:length])
		case extensionBitmaps:
			h.readBitmaps(b[:length])
		}
		b = b[min(layer.RoundUp(length, 8), int64(len(b))):]
	}
	return f.Corrupt("more than %d header extensions", maxExtensions)
}

func (h *header) readFeatureNames(b []byte) {
	h.featureNames = map[int]string{}
	for ; len(b) >= 48; b = b[48:] {
		if incompatible := b[0] == 0; incompatible {
			name, _, _ := bytes.Cut(b[2:48], []byte{0})
			h.featureNames[int(b[1])] = string(name)
		}
	}
}

func (h *header) readBacking(f *layer.File, b []byte) error {
	off, length := be.Uint64(b[8:]), uint64(be.Uint32(b[16:]))
	if off == 0 {
		return nil
	}
	if length > maxNameLength || off > uint64(len(b)) || length > uint64(len(b))-off || off+length > 1<<h.clusterBits {
		return f.Corrupt("name of the backing file at %#x (%d bytes) lies outside of the header", off, length)
	}
	h.backing = string(b[off : off+length])
	if strings.ContainsRune(h.backing, 0) {
		return f.Corrupt("name of the backing file holds a zero byte")
	}
	return nil
}

func (h *header) checkFeatures(f *layer.File) error {
	if unknown := h.features &^ featuresKnown; unknown != 0 {
		return f.Unsupported("image needs %s", strings.Join(h.names(unknown), ", "))
	}
	switch {
	case h.features&featureCorrupt != 0:
		return snapshot.WithHint(f.Corrupt("QEMU marked the image as corrupt"), "repair it with qemu-img check -r all")
	case h.features&featureDataFile != 0:
		return f.Unsupported("image keeps its data in an external file")
	case h.compression > compressionZstd:
		return f.Unsupported("compression type %d", h.compression)
	case (h.features&featureCompression != 0) != (h.compression != compressionZlib):
		return f.Corrupt("compression type %d contradicts the feature bits", h.compression)
	case h.extendedL2 && h.clusterBits < 14:
		return f.Corrupt("extended L2 entries with clusters of %d bytes", 1<<h.clusterBits)
	}
	return nil
}

func (h *header) names(features uint64) []string {
	var out []string
	for bit := range 64 {
		if features&(1<<bit) == 0 {
			continue
		}
		if name := h.featureNames[bit]; name != "" {
			out = append(out, fmt.Sprintf("feature %q", name))
		} else {
			out = append(out, fmt.Sprintf("the unknown feature %d", bit))
		}
	}
	return out
}

// checkTables sees that the L1 table is there and covers the disk.
func (h *header) checkTables(f *layer.File) error {
	need := h.l1Needed()
	if h.l1Entries*8 > maxL1Bytes || need*8 > maxL1Bytes {
		return f.Corrupt("L1 table of %d entries, %d needed, is too large", h.l1Entries, need)
	}
	if h.l1Entries < need {
		return f.Corrupt("L1 table of %d entries, but %d are needed for %d bytes", h.l1Entries, need, h.size)
	}
	if need > 0 && h.l1Offset&(1<<h.clusterBits-1) != 0 {
		return f.Corrupt("L1 table at %#x is not aligned", h.l1Offset)
	}
	if need > 0 && (h.l1Offset < 1<<h.clusterBits || h.l1Offset > f.Size || need*8 > f.Size-h.l1Offset) {
		return f.Corrupt("L1 table at %#x (%d entries) lies outside of the file of %#x bytes", h.l1Offset, need, f.Size)
	}
	return nil
}

// l2Bits is the binary logarithm of the entries in an L2 table.
func (h *header) l2Bits() uint {
	if h.extendedL2 {
		return h.clusterBits - 4
	}
	return h.clusterBits - 3
}

func (h *header) l1Needed() int64 {
	span := uint64(1) << (h.clusterBits + h.l2Bits())
	return int64((uint64(h.size) + span - 1) / span)
}
