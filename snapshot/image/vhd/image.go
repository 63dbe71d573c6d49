package vhd

import "github.com/lull-backup/lull/snapshot/image/layer"

// Image is a VHD that is open for reading.
type Image struct {
	f      *layer.File
	tables layer.Tables
	foot   footer
	head   header // but of fixed images
}

var _ layer.Layer = (*Image)(nil)

// Open reads and checks the footer and the header of an image. The file stays the
// caller's.
func Open(f *layer.File, tables layer.Tables) (*Image, error) {
	foot, err := readFooter(f)
	if err != nil {
		return nil, err
	}
	v := &Image{f: f, tables: tables, foot: foot}
	if foot.kind != Fixed {
		if v.head, err = readHeader(f, foot); err != nil {
			return nil, err
		}
	}
	return v, nil
}

// Kind tells fixed, dynamic and differencing images apart.
func (v *Image) Kind() Kind { return v.foot.kind }

// BlockSize is 0 for a fixed image.
func (v *Image) BlockSize() int64 { return v.head.block }

// Parents are the paths by which a differencing image calls its parent, on the
// machine that made it.
func (v *Image) Parents() []string { return v.head.parents }

// ParentStamp is when the parent was changed last, seconds since 2000, as far as
// whoever made the image knew; 0 for unknown.
func (v *Image) ParentStamp() uint32 { return v.head.parentStamp }

// Stamp is the time in the footer, seconds since 2000.
func (v *Image) Stamp() uint32 { return v.foot.stamp }

// Size is the virtual size in bytes.
func (v *Image) Size() int64 { return v.foot.size }

// Identity is the identifier of the footer, and that of the parent's.
func (v *Image) Identity() layer.Identity {
	return layer.Identity{ID: v.foot.id, Parent: v.head.parentID}
}

func (v *Image) Read(p []byte, off int64, below layer.Below) error {
	return layer.Fill(p, off, v.find, func(p []byte, _ int64, pc layer.Piece) error {
		return v.f.Read(p, pc.Host, "data")
	}, below)
}

// Lookup finds holes of the file, too.
func (v *Image) Lookup(off, n int64) (layer.Piece, error) {
	pc, err := v.find(off, n)
	if err != nil || pc.Kind != layer.Data {
		return pc, err
	}
	return layer.Sparse(v.f, pc)
}

// find tells what the tables say of the bytes at off.
func (v *Image) find(off, n int64) (layer.Piece, error) {
	if v.foot.kind == Fixed {
		return layer.Piece{Kind: layer.Data, Length: n, Host: off}, nil
	}
	inside := off % v.head.block
	n = min(n, v.head.block-inside)
	block, err := v.block(off / v.head.block)
	switch {
	case err != nil:
		return layer.Piece{}, err
	case block == 0 && v.foot.kind == Differencing:
		return layer.Piece{Kind: layer.Absent, Length: n}, nil
	case block == 0:
		return layer.Piece{Kind: layer.Zero, Length: n}, nil
	case v.foot.kind == Differencing:
		return v.findSectors(block, inside, n)
	}
	return layer.Piece{Kind: layer.Data, Length: n, Host: block + v.head.bitmap + inside}, nil
}

// block is where a block begins in the file, with its bitmap; 0 for nowhere.
func (v *Image) block(index int64) (int64, error) {
	b, err := v.tables.Bytes(v.f, layer.Table{Name: "block table", Start: v.head.table, Length: v.head.entries * 4}, index*4, 4)
	if err != nil {
		return 0, err
	}
	entry := be.Uint32(b)
	if entry == unusedEntry {
		return 0, nil
	}
	at := int64(entry) * layer.SectorSize
	end := at + v.head.bitmap + v.head.block
	switch {
	case end > v.f.Size:
		return 0, v.f.Corrupt("block %d at %#x reaches past the end of the file at %#x", index, at, v.f.Size)
	case at < footerSize, overlaps(at, end, v.foot.header, headerSize), overlaps(at, end, v.head.table, v.head.entries*4):
		return 0, v.f.Corrupt("block %d at %#x overlaps a header or the block table", index, at)
	}
	return at, nil
}

func overlaps(at, end, other, length int64) bool { return at < other+length && end > other }

// findSectors tells which sectors of a differencing image's block are its own.
func (v *Image) findSectors(block, inside, n int64) (layer.Piece, error) {
	b, err := v.tables.Bytes(v.f, layer.Table{Name: "bitmap", Start: block, Length: v.head.bitmap}, 0, v.head.bitmap)
	if err != nil {
		return layer.Piece{}, err
	}
	first := inside / layer.SectorSize
	last := (inside + n + layer.SectorSize - 1) / layer.SectorSize
	own, sectors := layer.BitRun(b, first, last-first, true)
	pc := layer.Piece{Kind: layer.Absent, Length: min(n, (first+sectors)*layer.SectorSize-inside)}
	if own {
		pc.Kind, pc.Host = layer.Data, block+v.head.bitmap+inside
	}
	return pc, nil
}
