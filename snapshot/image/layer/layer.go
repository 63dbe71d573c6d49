package layer

// Kind is what a layer knows about a range of the disk.
type Kind uint8

// The kinds.
const (
	Absent     Kind = iota // the layer below knows
	Zero                   // reads as zeros
	Data                   // bytes in a file
	Compressed             // inside one compressed cluster
)

// Piece is a range of one kind.
type Piece struct {
	Kind   Kind
	Length int64
	Host   int64  // Data: offset in the file
	Entry  uint64 // the format's own
}

// Below fills p from off with what the layers below say.
type Below func(p []byte, off int64) error

// Layer is one image of a chain. Ranges lie within its size. All methods are safe
// for concurrent use.
type Layer interface {
	// Size is the virtual size in bytes.
	Size() int64

	// Lookup tells what lies at off: a piece of 1 to n bytes.
	Lookup(off, n int64) (Piece, error)

	// Read fills p from off, with below filling what the layer does not have.
	Read(p []byte, off int64, below Below) error

	// Identity says who the layer is, where its format keeps that.
	Identity() Identity
}

// Identity tells images of one format apart. The zero value is that of a format
// that keeps none.
type Identity struct {
	ID     string // changes with what the image holds, or at least with the image
	Parent string // the ID that the layer below had when this one was made on it
}

// Fill is the usual Layer.Read: it goes from piece to piece, as find tells them,
// and has data fill those that have bytes.
func Fill(p []byte, off int64, find func(off, n int64) (Piece, error), data func(p []byte, off int64, pc Piece) error, below Below) error {
	for len(p) > 0 {
		pc, err := find(off, int64(len(p)))
		if err != nil {
			return err
		}
		part := p[:pc.Length]
		switch pc.Kind {
		case Zero:
			clear(part)
		case Absent:
			err = below(part, off)
		default:
			err = data(part, off, pc)
		}
		if err != nil {
			return err
		}
		p, off = p[pc.Length:], off+pc.Length
	}
	return nil
}

// Flat is a part of a file that is nothing but the disk's bytes.
type Flat struct {
	File   *File
	Start  int64 // in the file
	Length int64
}

func (r Flat) Size() int64 { return r.Length }

func (r Flat) Identity() Identity { return Identity{} }

func (r Flat) Read(p []byte, off int64, _ Below) error { return r.File.Read(p, r.Start+off, "data") }

func (r Flat) Lookup(off, n int64) (Piece, error) {
	return Sparse(r.File, Piece{Kind: Data, Length: n, Host: r.Start + off})
}

// Sparse cuts a piece of data where a hole of the file begins or ends.
func Sparse(f *File, pc Piece) (Piece, error) {
	data, n, err := f.Stretch(pc.Host, pc.Length)
	if err != nil {
		return Piece{}, err
	}
	pc.Length = n
	if !data {
		return Piece{Kind: Zero, Length: n}, nil
	}
	return pc, nil
}
