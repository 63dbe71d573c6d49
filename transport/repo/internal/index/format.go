package index

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"
)

// A run file is pages of 4 KiB, all numbers little-endian. A page is 4092 bytes
// and their CRC-32C, which starts from the run's nonce and the page's number: a
// page that has rotted, or that belongs elsewhere, is found when it is read. The
// tables hold whole rows in each page:
//
//	header    magic "lull-run", version u32, 0 u32, nonce u64, and u64 numbers of
//	          entries, filter blocks, entry pages and of the rows of each table
//	sources   id of an index object 32; ascending
//	signers   public key 32; ascending
//	packs     BLAKE3 of the pack 32, number of its signer u32; ascending
//	segments  pack u32, offset u32, length u32; ascending
//	listings  pack u32, source u32; ascending
//	filter    blocks of 64 bytes without a CRC, see filter.go
//	entries   count u16, n u8, the n bytes with which all names in the page begin,
//	          count × (the rest of the name, place u64); ascending
//	fences    the first four bytes of each entry page's first name, as u32
const (
	magic     = "lull-run"
	version   = 3
	pageLen   = 4096
	payload   = pageLen - 4
	nameLen   = 32
	placeLen  = 8
	entryHead = 3

	maxEntries = maxSegments // so that there are never too many segments
)

// sections of a run, in the order of the file.
const (
	secSources = iota
	secSigners
	secPacks
	secSegments
	secListings
	secFilter
	secEntries
	secFences
	sections
)

// rowLen is the length of a section's row in bytes; 0: a row is a page.
func rowLen(section int) int {
	return [sections]int{secPacks: 36, secSegments: 12, secSigners: 32, secSources: 32, secListings: 8, secFences: 4}[section]
}

// header says how many rows a run's sections have, and where they begin.
type header struct {
	nonce uint64
	count uint64           // entries
	rows  [sections]uint64 // of the filter: blocks
}

// pages of a section.
func (h *header) pages(section int) int64 {
	n := int64(h.rows[section])
	per := int64(1)
	switch {
	case section == secFilter:
		per = pageLen / filterBlock
	case rowLen(section) > 0:
		per = int64(payload / rowLen(section))
	}
	return (n + per - 1) / per
}

// first page of a section; of all sections together: the number of pages.
func (h *header) first(section int) int64 {
	page := int64(1)
	for s := range section {
		page += h.pages(s)
	}
	return page
}

func (h *header) size() int64 { return h.first(sections) * pageLen }

func (h *header) encode() []byte {
	b := make([]byte, 0, pageLen)
	b = append(b, magic...)
	b = binary.LittleEndian.AppendUint32(b, version)
	b = binary.LittleEndian.AppendUint32(b, 0)
	b = binary.LittleEndian.AppendUint64(b, h.nonce)
	b = binary.LittleEndian.AppendUint64(b, h.count)
	for _, n := range h.rows {
		b = binary.LittleEndian.AppendUint64(b, n)
	}
	return seal(b[:pageLen], h.nonce, 0)
}

// parseHeader checks everything that can be checked against the file's size, so
// that no count is believed before it is known to fit.
func parseHeader(b []byte, size int64) (header, error) {
	if len(b) < pageLen || string(b[:8]) != magic {
		return header{}, fmt.Errorf("%w: no header", ErrDamaged)
	}
	if v := binary.LittleEndian.Uint32(b[8:]); v != version {
		return header{}, fmt.Errorf("%w: version %d", ErrDamaged, v)
	}
	h := header{nonce: binary.LittleEndian.Uint64(b[16:]), count: binary.LittleEndian.Uint64(b[24:])}
	if !sealed(b[:pageLen], h.nonce, 0) {
		return header{}, fmt.Errorf("%w: checksum of the header", ErrDamaged)
	}
	for s := range h.rows {
		h.rows[s] = binary.LittleEndian.Uint64(b[32+8*s:])
		if h.rows[s] > math.MaxUint32 {
			return header{}, fmt.Errorf("%w: section %d of %d rows", ErrDamaged, s, h.rows[s])
		}
	}
	if h.count > maxEntries || h.rows[secFences] != h.rows[secEntries] || h.size() != size {
		return header{}, fmt.Errorf("%w: counts do not fit %d bytes", ErrDamaged, size)
	}
	return h, nil
}

// checksum of a page's payload.
func checksum(page []byte, nonce uint64, number int64) uint32 {
	start := uint32(nonce) ^ uint32(nonce>>32) ^ uint32(number)*0x9e3779b1
	return crc32.Update(start, crc32.MakeTable(crc32.Castagnoli), page[:payload])
}

// seal completes a page.
func seal(page []byte, nonce uint64, number int64) []byte {
	binary.LittleEndian.PutUint32(page[payload:], checksum(page, nonce, number))
	return page
}

func sealed(page []byte, nonce uint64, number int64) bool {
	return binary.LittleEndian.Uint32(page[payload:]) == checksum(page, nonce, number)
}
