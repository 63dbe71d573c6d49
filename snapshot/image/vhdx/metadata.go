package vhdx

import (
	"strings"
	"unicode/utf16"

	"github.com/lull-backup/lull/snapshot/image/layer"
)

const (
	itemParameters guid = "caa16737-fa36-4d43-b3b6-33f0aa44e76b"
	itemSize       guid = "2fa54224-cd1b-4876-b211-5dbed83bf4b8"
	itemDiskID     guid = "beca12ab-b2e6-4523-93ef-c309e000c746"
	itemSector     guid = "8141bf1d-a96f-4709-ba47-f233a8faab5f"
	itemPhysical   guid = "cda348c7-445d-4471-9cc9-e9885251c556"
	itemParent     guid = "a8d35f2d-b30b-454d-abf7-d3d84834ab0c"

	locatorVHDX guid = "b04aefb7-d19e-4a81-b789-25b8e9445913"

	maxItems   = 2047
	maxLocator = 64 << 10 // bytes of an item; only that of the parent is long

	minBlock = mib
	maxBlock = 256 << 20
	maxSize  = 64 << 40 // by the format, bytes
)

// metadata is what an image says of its disk.
type metadata struct {
	block     int64 // bytes in one
	allocated bool  // every block is to stay so: a fixed image
	hasParent bool
	size      int64 // virtual
	sector    int64 // logical, bytes
	diskID    guid

	linkage guid     // of the parent
	parents []string // its paths, the relative one first
}

// readMetadata reads the items that a reader must know.
func (v *Image) readMetadata() error {
	b := make([]byte, min(regionSize, v.meta.length))
	if err := v.read(b, v.meta.at, "metadata"); err != nil {
		return err
	}
	n := int(le.Uint16(b[10:]))
	if string(b[:8]) != "metadata" || n > maxItems {
		return v.f.Corrupt("no metadata at %#x", v.meta.at)
	}
	items := map[guid][]byte{}
	for i := range n {
		e := b[32+32*i:]
		id := readGUID(e)
		item, err := v.item(id, int64(le.Uint32(e[16:])), int64(le.Uint32(e[20:])), le.Uint32(e[24:]))
		if err != nil {
			return err
		}
		if item != nil {
			items[id] = item
		}
	}
	return v.parseMetadata(items)
}

// item reads one item of those that are known.
func (v *Image) item(id guid, at, length int64, flags uint32) ([]byte, error) {
	const user, required = 1, 4
	least := map[guid]int64{itemParameters: 8, itemSize: 8, itemDiskID: 16, itemSector: 4, itemPhysical: 4, itemParent: 20}[id]
	switch {
	case flags&user != 0:
		return nil, nil
	case least == 0 && flags&required != 0:
		return nil, v.f.Unsupported("image needs the unknown metadata item %s", id)
	case least == 0:
		return nil, nil
	case length < least || length > maxLocator || at < regionSize || at > v.meta.length-length:
		return nil, v.f.Corrupt("metadata item %s at %#x (%d bytes)", id, at, length)
	}
	b := make([]byte, length)
	return b, v.read(b, v.meta.at+at, "metadata item")
}

func (v *Image) parseMetadata(items map[guid][]byte) error {
	for _, id := range []guid{itemParameters, itemSize, itemSector} {
		if items[id] == nil {
			return v.f.Corrupt("metadata item %s is missing", id)
		}
	}
	flags := le.Uint32(items[itemParameters][4:])
	m := metadata{
		block: int64(le.Uint32(items[itemParameters])), allocated: flags&1 != 0, hasParent: flags&2 != 0,
		sector: int64(le.Uint32(items[itemSector])),
	}
	if b := items[itemDiskID]; b != nil {
		m.diskID = readGUID(b)
	}
	size := le.Uint64(items[itemSize])
	switch {
	case m.block < minBlock || m.block > maxBlock || m.block&(m.block-1) != 0:
		return v.f.Corrupt("blocks of %d bytes", m.block)
	case m.sector != 512 && m.sector != 4096:
		return v.f.Corrupt("sectors of %d bytes", m.sector)
	case size > maxSize || size%uint64(m.sector) != 0:
		return v.f.Corrupt("virtual size of %d bytes", size)
	}
	m.size = int64(size)
	if m.hasParent {
		if err := m.readParent(v.f, items[itemParent]); err != nil {
			return err
		}
	}
	v.metadata = m
	return nil
}

// readParent reads the parent's locator: pairs of a key and a value.
func (m *metadata) readParent(f *layer.File, b []byte) error {
	if b == nil {
		return f.Corrupt("differencing image without a parent")
	}
	if kind := readGUID(b); kind != locatorVHDX {
		return f.Unsupported("parent of the unknown kind %s", kind)
	}
	n := int(le.Uint16(b[18:]))
	if 20+12*n > len(b) {
		return f.Corrupt("%d keys of the parent's locator", n)
	}
	pairs := map[string]string{}
	for i := range n {
		e := b[20+12*i:]
		key, ok := text(b, le.Uint32(e), le.Uint16(e[8:]))
		value, ok2 := text(b, le.Uint32(e[4:]), le.Uint16(e[10:]))
		if !ok || !ok2 {
			return f.Corrupt("key %d of the parent's locator lies outside of it", i)
		}
		pairs[key] = value
	}
	m.linkage = guid(strings.ToLower(strings.Trim(pairs["parent_linkage"], "{}")))
	if m.linkage == "" {
		return f.Corrupt("the parent's locator does not say which it is")
	}
	for _, key := range []string{"relative_path", "absolute_win32_path", "volume_path"} {
		if path := pairs[key]; path != "" {
			m.parents = append(m.parents, path)
		}
	}
	return nil
}

// text is UTF-16 at a place in b.
func text(b []byte, at uint32, length uint16) (string, bool) {
	if int64(at)+int64(length) > int64(len(b)) {
		return "", false
	}
	b = b[at : at+uint32(length)]
	var chars []uint16
	for ; len(b) >= 2; b = b[2:] {
		chars = append(chars, le.Uint16(b))
	}
	return strings.TrimRight(string(utf16.Decode(chars)), "\x00"), true
}
