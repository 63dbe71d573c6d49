package vhdx

import "github.com/lull-backup/lull/snapshot/image/layer"

// Image is a VHDX that is open for reading.
type Image struct {
	f      *layer.File
	tables layer.Tables
	head   header
	log    replay
	size   int64 // of the file, after replay
	table  region
	meta   region
	metadata
}

var _ layer.Layer = (*Image)(nil)

// Open reads and checks all but the block table of an image, and replays its log.
// The file stays the caller's.
func Open(f *layer.File, tables layer.Tables) (*Image, error) {
	head, err := readHeader(f)
	if err != nil {
		return nil, err
	}
	v := &Image{f: f, tables: tables, head: head, size: f.Size}
	if head.log != noGUID {
		if err := v.replayLog(); err != nil {
			return nil, err
		}
	}
	if err := v.readRegions(); err != nil {
		return nil, err
	}
	if err := v.readMetadata(); err != nil {
		return nil, err
	}
	if need := v.entries() * 8; need > v.table.length {
		return nil, f.Corrupt("block table of %d bytes, but %d are needed", v.table.length, need)
	}
	return v, nil
}

// Kind is "fixed", "dynamic" or "differencing".
func (v *Image) Kind() string {
	switch {
	case v.hasParent:
		return "differencing"
	case v.allocated:
		return "fixed"
	}
	return "dynamic"
}

// BlockSize is in bytes.
func (v *Image) BlockSize() int64 { return v.block }

// Logged tells whether the image was not closed well, so that its log counts.
func (v *Image) Logged() bool { return v.head.log != noGUID }

// Parents are the paths by which a differencing image calls its parent, on the
// machine that made it.
func (v *Image) Parents() []string { return v.parents }

// Size is the virtual size in bytes.
func (v *Image) Size() int64 { return v.metadata.size }

// Identity is what changes with the first write into the disk, and what that was
// of the parent.
func (v *Image) Identity() layer.Identity {
	return layer.Identity{ID: string(v.head.data), Parent: string(v.linkage)}
}

// chunk is how many blocks share a block of sector bitmaps.
func (v *Image) chunk() int64 { return (v.sector << 23) / v.block }

// blocks is how many blocks the disk has.
func (v *Image) blocks() int64 { return (v.metadata.size + v.block - 1) / v.block }

// entries is how many entries of the block table the disk takes.
func (v *Image) entries() int64 {
	n := v.blocks()
	if v.hasParent { // the last chunk has its bitmap, too
		chunks := (n + v.chunk() - 1) / v.chunk()
		return chunks * (v.chunk() + 1)
	}
	return n + max(n-1, 0)/v.chunk()
}

func (v *Image) Read(p []byte, off int64, below layer.Below) error {
	return layer.Fill(p, off, v.find, func(p []byte, _ int64, pc layer.Piece) error {
		return v.read(p, pc.Host, "data")
	}, below)
}

// Lookup finds holes of the file, too.
func (v *Image) Lookup(off, n int64) (layer.Piece, error) {
	pc, err := v.find(off, n)
	if err != nil || pc.Kind != layer.Data || v.log.patched() {
		return pc, err
	}
	return layer.Sparse(v.f, pc)
}

// find tells what the tables say of the bytes at off.
func (v *Image) find(off, n int64) (layer.Piece, error) {
	index, inside := off/v.block, off%v.block
	n = min(n, v.block-inside)
	e, err := v.payload(index)
	if err != nil {
		return layer.Piece{}, err
	}
	switch e.state {
	case blockNotPresent:
		if v.hasParent {
			return layer.Piece{Kind: layer.Absent, Length: n}, nil
		}
		return layer.Piece{Kind: layer.Zero, Length: n}, nil
	case blockUndefined, blockZero, blockUnmapped:
		return layer.Piece{Kind: layer.Zero, Length: n}, nil
	case blockFull:
		return layer.Piece{Kind: layer.Data, Length: n, Host: e.at + inside}, nil
	}
	return v.findSectors(e.at, index, inside, n)
}

// findSectors tells which sectors of a partially present block are the image's own.
func (v *Image) findSectors(block, index, inside, n int64) (layer.Piece, error) {
	at, err := v.bitmap(index / v.chunk())
	if err != nil {
		return layer.Piece{}, err
	}
	perBlock := v.block / v.sector / 8 // bytes of bitmap
	start := index % v.chunk() * perBlock
	b, err := v.tables.Bytes(v.f, layer.Table{Name: "sector bitmap", Start: at, Length: mib, Read: v.read}, start, min(perBlock, layer.TablePiece))
	if err != nil {
		return layer.Piece{}, err
	}
	first := inside / v.sector
	last := min((inside+n+v.sector-1)/v.sector, int64(len(b))*8)
	own, sectors := layer.BitRun(b, first, last-first, false)
	pc := layer.Piece{Kind: layer.Absent, Length: min(n, (first+sectors)*v.sector-inside)}
	if own {
		pc.Kind, pc.Host = layer.Data, block+inside
	}
	return pc, nil
}

// SectorSize is the unit in which the disk is written, bytes.
func (v *Image) SectorSize() int64 { return v.sector }
