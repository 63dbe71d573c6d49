package index

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/zeebo/blake3"
)

// A run file, all numbers little-endian:
//
//	header   magic "lull-run", version u32, bits u32, count u64, packs u32,
//	         sources u32, BLAKE3 of the body, BLAKE3 of the header before this
//	entries  count × (name 32, pack u32, segment offset, segment length,
//	         block offset, block length u32), ascending by name, each name and
//	         pack once
//	starts   (2^bits + 1) × u32: number of the first entry whose name's first
//	         bits are this one's or greater; the last one is count
//	packs    packs × 32
//	sources  sources × 32
const (
	magic      = "lull-run"
	version    = 1
	headerLen  = 96
	entryLen   = 52
	idLen      = 32
	maxBits    = 27
	maxEntries = math.MaxUint32 - 1
	bucketLen  = 32 // entries a bucket at most, on average
)

type header struct {
	bits    uint32
	count   uint64
	packs   uint32
	sources uint32
	body    [32]byte
}

// bitsFor is how many bits of the name choose a bucket in a run of count entries.
func bitsFor(count uint64) uint32 {
	var bits uint32
	for bits < maxBits && count>>bits > bucketLen {
		bits++
	}
	return bits
}

// bucket is the number of the bucket that name belongs to.
func bucket(name []byte, bits uint32) uint32 {
	return uint32(uint64(binary.BigEndian.Uint32(name)) >> (32 - bits))
}

func (h *header) startsAt() int64  { return headerLen + int64(h.count)*entryLen }
func (h *header) packsAt() int64   { return h.startsAt() + 4*(1<<h.bits+1) }
func (h *header) sourcesAt() int64 { return h.packsAt() + int64(h.packs)*idLen }
func (h *header) size() int64      { return h.sourcesAt() + int64(h.sources)*idLen }

func (h *header) encode() []byte {
	b := make([]byte, 0, headerLen)
	b = append(b, magic...)
	b = binary.LittleEndian.AppendUint32(b, version)
	b = binary.LittleEndian.AppendUint32(b, h.bits)
	b = binary.LittleEndian.AppendUint64(b, h.count)
	b = binary.LittleEndian.AppendUint32(b, h.packs)
	b = binary.LittleEndian.AppendUint32(b, h.sources)
	b = append(b, h.body[:]...)
	sum := blake3.Sum256(b)
	return append(b, sum[:]...)
}

// parseHeader checks everything that can be checked against the file's size, so
// that no count is believed before it is known to fit.
func parseHeader(b []byte, size int64) (header, error) {
	if len(b) < headerLen || string(b[:8]) != magic {
		return header{}, fmt.Errorf("%w: no header", ErrDamaged)
	}
	if sum := blake3.Sum256(b[:64]); sum != [32]byte(b[64:96]) {
		return header{}, fmt.Errorf("%w: header checksum", ErrDamaged)
	}
	if v := binary.LittleEndian.Uint32(b[8:]); v != version {
		return header{}, fmt.Errorf("%w: version %d", ErrDamaged, v)
	}
	h := header{
		bits:    binary.LittleEndian.Uint32(b[12:]),
		count:   binary.LittleEndian.Uint64(b[16:]),
		packs:   binary.LittleEndian.Uint32(b[24:]),
		sources: binary.LittleEndian.Uint32(b[28:]),
		body:    [32]byte(b[32:64]),
	}
	if h.bits > maxBits || h.count > maxEntries || h.size() != size {
		return header{}, fmt.Errorf("%w: counts do not fit %d bytes", ErrDamaged, size)
	}
	return h, nil
}

func encodeRecord(b []byte, r *record) {
	copy(b[:32], r.name[:])
	binary.LittleEndian.PutUint32(b[32:], r.pack)
	binary.LittleEndian.PutUint32(b[36:], r.segOff)
	binary.LittleEndian.PutUint32(b[40:], r.segLen)
	binary.LittleEndian.PutUint32(b[44:], r.blkOff)
	binary.LittleEndian.PutUint32(b[48:], r.blkLen)
}

func decodeRecord(b []byte) (r record) {
	_ = b[entryLen-1]
	copy(r.name[:], b[:32])
	r.pack = binary.LittleEndian.Uint32(b[32:])
	r.segOff = binary.LittleEndian.Uint32(b[36:])
	r.segLen = binary.LittleEndian.Uint32(b[40:])
	r.blkOff = binary.LittleEndian.Uint32(b[44:])
	r.blkLen = binary.LittleEndian.Uint32(b[48:])
	return r
}
