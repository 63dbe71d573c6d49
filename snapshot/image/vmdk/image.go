package vmdk

import (
	"bytes"
	"cmp"
	"slices"

	"github.com/lull-backup/lull/snapshot/image/layer"
)

// Image is a VMDK that is open for reading.
type Image struct {
	f       *layer.File
	text    descriptor
	extents []extent // in order, without gaps
	size    int64
}

var _ layer.Layer = (*Image)(nil)

// extent is a range of the disk. What has neither is zero.
type extent struct {
	start, end int64 // on the disk
	flat       *layer.Flat
	sparse     *sparse
}

// Beside opens a file in the folder of an image.
type Beside func(name string) (*layer.File, error)

// Open reads and checks the descriptor of an image, and opens its extents. All files
// stay the caller's.
func Open(f *layer.File, tables layer.Tables, beside Beside) (*Image, error) {
	v := &Image{f: f}
	first := make([]byte, min(4, f.Size))
	if err := f.Read(first, 0, "header"); err != nil {
		return nil, err
	}
	if string(first) == magic {
		return v, v.openMonolithic(tables)
	}
	if string(first) == "COWD" {
		return nil, f.Unsupported("extent of an ESX host's sparse disk; name its descriptor")
	}
	return v, v.openDescriptor(tables, beside)
}

// openMonolithic opens the one file that is both descriptor and extent.
func (v *Image) openMonolithic(tables layer.Tables) error {
	s, err := openSparse(v.f, tables)
	if err != nil {
		return err
	}
	if s.textAt == 0 {
		return v.f.Unsupported("extent of an image; name its descriptor")
	}
	text := make([]byte, s.textLength)
	if err := v.f.Read(text, s.textAt, "descriptor"); err != nil {
		return err
	}
	if v.text, err = parseDescriptor(v.f, text); err != nil {
		return err
	}
	if len(v.text.extents) != 1 {
		return v.f.Unsupported("monolithic image of %d extents", len(v.text.extents))
	}
	v.add(s.size, extent{sparse: s})
	return v.descends()
}

// openDescriptor opens an image that is text and files beside it.
func (v *Image) openDescriptor(tables layer.Tables, beside Beside) error {
	if v.f.Size > maxDescriptor {
		return v.f.Corrupt("neither a sparse VMDK nor a descriptor")
	}
	text := make([]byte, v.f.Size)
	if err := v.f.Read(text, 0, "descriptor"); err != nil {
		return err
	}
	const title = "# disk descriptorfile"
	if !bytes.HasPrefix(bytes.ToLower(bytes.TrimSpace(text)), []byte(title)) {
		return v.f.Corrupt("neither a sparse VMDK nor a descriptor")
	}
	var err error
	if v.text, err = parseDescriptor(v.f, text); err != nil {
		return err
	}
	for i, line := range v.text.extents {
		e, err := v.openExtent(line, tables.Part(i), beside)
		if err != nil {
			return err
		}
		v.add(line.sectors*layer.SectorSize, e)
	}
	return v.descends()
}

func (v *Image) openExtent(line extentLine, tables layer.Tables, beside Beside) (extent, error) {
	length := line.sectors * layer.SectorSize
	switch {
	case line.access == "NOACCESS":
		return extent{}, v.f.Unsupported("extent %q without access", line.name)
	case line.kind == "ZERO":
		return extent{}, nil
	case line.kind != "FLAT" && line.kind != "VMFS" && line.kind != "SPARSE":
		return extent{}, v.f.Unsupported("extent %q of kind %q", line.name, line.kind)
	}
	f, err := beside(line.name)
	if err != nil {
		return extent{}, err
	}
	if line.kind == "SPARSE" {
		s, err := openSparse(f, tables)
		if err == nil && s.size < length {
			err = f.Corrupt("extent of %d bytes, but %d are in the descriptor", s.size, length)
		}
		return extent{sparse: s}, err
	}
	start := line.offset * layer.SectorSize
	if start > f.Size || length > f.Size-start {
		return extent{}, f.Corrupt("extent of %d bytes at %d in a file of %d", length, start, f.Size)
	}
	return extent{flat: &layer.Flat{File: f, Start: start, Length: length}}, nil
}

// add puts an extent behind the others.
func (v *Image) add(length int64, e extent) {
	e.start, e.end = v.size, v.size+length
	v.size = e.end
	if length > 0 {
		v.extents = append(v.extents, e)
	}
}

// descends sees that an image with a parent says which.
func (v *Image) descends() error {
	switch {
	case v.size > maxSectors*layer.SectorSize:
		return v.f.Unsupported("disk of %d bytes", v.size)
	case v.text.parentCID == "" || v.text.cid == "":
		return v.f.Corrupt("descriptor without an identity")
	}
	return nil
}

func (v *Image) hasParent() bool { return v.text.parentCID != noParent }

// Kind is what the descriptor calls it, such as "monolithicSparse".
func (v *Image) Kind() string { return v.text.kind }

// BlockSize is that of the first sparse extent's grains; 0 where there is none.
func (v *Image) BlockSize() int64 {
	for _, e := range v.extents {
		if e.sparse != nil {
			return e.sparse.grain
		}
	}
	return 0
}

// Unclean tells whether an extent was not closed well, or is open.
func (v *Image) Unclean() bool {
	return slices.ContainsFunc(v.extents, func(e extent) bool { return e.sparse != nil && e.sparse.unclean })
}

// Parents is the path by which an image calls its parent, where it has one.
func (v *Image) Parents() []string {
	if !v.hasParent() {
		return nil
	}
	return []string{v.text.parent}
}

// Size is the virtual size in bytes.
func (v *Image) Size() int64 { return v.size }

// Identity is the content identifier, and that of the parent.
func (v *Image) Identity() layer.Identity {
	id := layer.Identity{ID: v.text.cid}
	if v.hasParent() {
		id.Parent = v.text.parentCID
	}
	return id
}

func (v *Image) extent(off int64) extent {
	i, _ := slices.BinarySearchFunc(v.extents, off, func(e extent, off int64) int { return cmp.Compare(e.end, off+1) })
	return v.extents[i]
}

func (v *Image) Read(p []byte, off int64, below layer.Below) error {
	return layer.Fill(p, off, v.find, func(p []byte, off int64, pc layer.Piece) error {
		e := v.extent(off)
		switch {
		case e.flat != nil:
			return e.flat.Read(p, off-e.start, nil)
		case pc.Kind == layer.Compressed:
			return e.sparse.readCompressed(p, off-e.start, pc)
		}
		return e.sparse.f.Read(p, pc.Host, "grain")
	}, below)
}

// Lookup finds holes of the files, too.
func (v *Image) Lookup(off, n int64) (layer.Piece, error) {
	pc, err := v.find(off, n)
	if err != nil || pc.Kind != layer.Data {
		return pc, err
	}
	e := v.extent(off)
	if e.flat != nil {
		return e.flat.Lookup(off-e.start, pc.Length)
	}
	return layer.Sparse(e.sparse.f, pc)
}

func (v *Image) find(off, n int64) (layer.Piece, error) {
	e := v.extent(off)
	n = min(n, e.end-off)
	switch {
	case e.flat != nil:
		return layer.Piece{Kind: layer.Data, Length: n}, nil
	case e.sparse == nil:
		return layer.Piece{Kind: layer.Zero, Length: n}, nil
	}
	pc, err := e.sparse.find(off-e.start, n)
	if pc.Kind == layer.Absent && !v.hasParent() {
		pc.Kind = layer.Zero
	}
	return pc, err
}
