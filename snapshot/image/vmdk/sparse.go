package vmdk

import (
	"encoding/binary"
	"sync"

	"github.com/lull-backup/lull/snapshot/image/layer"
)

// le is how the format counts.
var le = binary.LittleEndian

const (
	magic      = "KDMV"
	headerSize = 512

	flagZeroGrain  = 1 << 2
	flagCompressed = 1 << 16
	flagMarkers    = 1 << 17

	atEnd = 1<<64 - 1 // of a directory: the footer knows

	minGrain    = 4 << 10
	maxGrain    = 4 << 20
	maxPerTable = 512

	zeroGrain = 1 // an entry, where the flag says so
)

// sparse is an extent of grains.
type sparse struct {
	f          *layer.File
	tables     layer.Tables
	flags      uint32
	size       int64 // bytes
	grain      int64 // bytes
	perTable   int64 // grains
	directory  int64 // where it is
	textAt     int64 // of the descriptor; 0: none
	textLength int64
	unclean    bool

	buffers sync.Pool // *[]byte
	zlib    sync.Pool // io.ReadCloser
}

func openSparse(f *layer.File, tables layer.Tables) (*sparse, error) {
	b := make([]byte, headerSize)
	if err := f.Read(b, 0, "header"); err != nil {
		return nil, err
	}
	s := &sparse{f: f, tables: tables}
	directory, err := s.parse(b)
	if err != nil {
		return nil, err
	}
	if err := s.placeText(b); err != nil {
		return nil, err
	}
	if directory == atEnd {
		if directory, err = s.footer(); err != nil {
			return nil, err
		}
	}
	return s, s.placeDirectory(directory)
}

// parse reads a header, or the footer that repeats it, and returns where the
// directory is, in sectors.
func (s *sparse) parse(b []byte) (directory uint64, err error) {
	if string(b[:4]) != magic {
		return 0, s.f.Corrupt("no sparse VMDK: its first bytes are %x", b[:4])
	}
	if v := le.Uint32(b[4:]); v < 1 || v > 3 {
		return 0, s.f.Unsupported("VMDK version %d", v)
	}
	s.flags = le.Uint32(b[8:])
	capacity, grain := le.Uint64(b[12:]), le.Uint64(b[20:])
	s.perTable, s.unclean = int64(le.Uint32(b[44:])), b[72] != 0
	switch {
	case s.flags&1 != 0 && string(b[73:77]) != "\n \r\n":
		return 0, s.f.Corrupt("line ends were converted, as if the image were a text")
	case capacity > maxSectors:
		return 0, s.f.Corrupt("virtual size of %d sectors", capacity)
	case grain > maxGrain/layer.SectorSize || grain < minGrain/layer.SectorSize || grain&(grain-1) != 0:
		return 0, s.f.Corrupt("grains of %d sectors", grain)
	case s.perTable < 1 || s.perTable > maxPerTable:
		return 0, s.f.Corrupt("grain tables of %d entries", s.perTable)
	case s.flags&flagCompressed != 0 && (s.flags&flagMarkers == 0 || le.Uint16(b[77:]) != 1):
		return 0, s.f.Unsupported("compression %d, flags %#x", le.Uint16(b[77:]), s.flags)
	}
	s.size, s.grain = int64(capacity)*layer.SectorSize, int64(grain)*layer.SectorSize
	return le.Uint64(b[56:]), nil
}

// placeText finds the descriptor that an extent holds.
func (s *sparse) placeText(b []byte) error {
	at, length := le.Uint64(b[28:]), le.Uint64(b[36:])
	if at == 0 || length == 0 {
		return nil
	}
	if length > maxDescriptor/layer.SectorSize || at > uint64(s.f.Size)/layer.SectorSize {
		return s.f.Corrupt("descriptor at sector %d (%d sectors)", at, length)
	}
	s.textAt, s.textLength = int64(at)*layer.SectorSize, int64(length)*layer.SectorSize
	return nil
}

// footer reads where the directory is at the end of the file: a marker, the header
// again, and a marker of the end, a sector each.
func (s *sparse) footer() (uint64, error) {
	const kindFooter = 3
	b := make([]byte, 3*layer.SectorSize)
	if err := s.f.Read(b, max(0, s.f.Size-int64(len(b))), "footer"); err != nil {
		return 0, err
	}
	if le.Uint32(b[8:]) != 0 || le.Uint32(b[12:]) != kindFooter {
		return 0, s.f.Corrupt("no footer, but the header refers to it: the image was not written to its end")
	}
	directory, err := s.parse(b[layer.SectorSize : 2*layer.SectorSize])
	if err == nil && directory == atEnd {
		err = s.f.Corrupt("the footer does not say where the directory is")
	}
	return directory, err
}

// placeDirectory sees that the directory lies in the file.
func (s *sparse) placeDirectory(sector uint64) error {
	length := s.directoryLength()
	if sector > uint64(s.f.Size)/layer.SectorSize || length > s.f.Size-int64(sector)*layer.SectorSize || sector == 0 {
		return s.f.Corrupt("directory at sector %d (%d bytes) lies outside of the file", sector, length)
	}
	s.directory = int64(sector) * layer.SectorSize
	return nil
}

// directoryLength is in bytes, four a grain table.
func (s *sparse) directoryLength() int64 {
	span := s.grain * s.perTable
	return (s.size + span - 1) / span * 4
}

// find tells what lies at off: grains of one kind in a row, no further than one
// grain table tells.
func (s *sparse) find(off, n int64) (layer.Piece, error) {
	span := s.grain * s.perTable
	n = min(n, span-off%span)
	b, err := s.tables.Bytes(s.f, layer.Table{Name: "grain directory", Start: s.directory, Length: s.directoryLength()}, off/span*4, 4)
	if err != nil {
		return layer.Piece{}, err
	}
	table := int64(le.Uint32(b)) * layer.SectorSize
	if table == 0 {
		return layer.Piece{Kind: layer.Absent, Length: n}, nil
	}
	if table == s.directory {
		return layer.Piece{}, s.f.Corrupt("grain table at %#x is the directory", table)
	}
	index := off % span / s.grain
	b, err = s.tables.Bytes(s.f, layer.Table{Name: "grain table", Start: table, Length: s.perTable * 4}, index*4, 4)
	if err != nil {
		return layer.Piece{}, err
	}
	pc, err := s.piece(le.Uint32(b), off, n)
	for b = b[4:]; err == nil && pc.Kind != layer.Compressed && pc.Length < n && len(b) >= 4; b = b[4:] {
		next, nextErr := s.piece(le.Uint32(b), off+pc.Length, n-pc.Length)
		if nextErr != nil || next.Kind != pc.Kind || pc.Kind == layer.Data && next.Host != pc.Host+pc.Length {
			break // who reads on will hear of the error
		}
		pc.Length += next.Length
	}
	return pc, err
}

// piece is what one entry says of the rest of its grain from off on.
func (s *sparse) piece(entry uint32, off, n int64) (layer.Piece, error) {
	inside := off % s.grain
	pc := layer.Piece{Kind: layer.Absent, Length: min(n, s.grain-inside)}
	at := int64(entry) * layer.SectorSize
	switch {
	case entry == 0:
		return pc, nil
	case entry == zeroGrain && s.flags&flagZeroGrain != 0:
		pc.Kind = layer.Zero
		return pc, nil
	case at > s.f.Size:
		return pc, s.f.Corrupt("grain at %#x lies past the end of the file at %#x", at, s.f.Size)
	case s.flags&flagCompressed != 0:
		pc.Kind, pc.Host = layer.Compressed, at
		return pc, nil
	}
	pc.Kind, pc.Host = layer.Data, at+inside
	if pc.Length > s.f.Size-pc.Host {
		return pc, s.f.Corrupt("grain at %#x reaches past the end of the file at %#x", at, s.f.Size)
	}
	return pc, nil
}

// buffer is a buffer of n bytes; the caller gives it back.
func (s *sparse) buffer(n int64) *[]byte {
	b, _ := s.buffers.Get().(*[]byte)
	if b == nil || int64(cap(*b)) < n {
		fresh := make([]byte, n)
		return &fresh
	}
	*b = (*b)[:n]
	return b
}
