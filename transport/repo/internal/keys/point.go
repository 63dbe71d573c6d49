package keys

import (
	"encoding/binary"
	"fmt"

	"github.com/lull-backup/lull/transport/repo/internal/wire"
)

const epochSize = 2

// SealedPoint is the object of a restore point, its signature verified.
type SealedPoint struct {
	// Signer is who made it; nil in format 1.
	Signer *Certificate

	epoch        uint16
	bound        []byte
	outline, doc []byte // sealed
}

// SealPoint makes the object of a restore point, under its name: the whole of it for
// who may read, and the outline, which is what maintenance needs to know of it.
func (r *Ring) SealPoint(object string, outline, doc []byte) ([]byte, error) {
	p := r.Prefix(wire.Point)
	n, e := r.newest()
	head := append(p[:], epochNumber(n)...)
	aad := append(head[:len(head):len(head)], object...)
	sealed, err := r.sealTo(nil, e.meta.public, "outline", aad, outline)
	if err != nil {
		return nil, err
	}
	b := binary.LittleEndian.AppendUint32(head, uint32(len(sealed)))
	if b, err = r.sealTo(append(b, sealed...), e.data.public, "point", aad, doc); err != nil {
		return nil, err
	}
	return r.appendTrailer(b, signPoint, object)
}

// ParsePoint takes the object of a restore point apart and verifies who made it.
func (r *Ring) ParsePoint(object string, b []byte) (*SealedPoint, error) {
	if err := r.WantPrefix(b, wire.Point); err != nil {
		return nil, err
	}
	if !r.format.Signed() {
		return &SealedPoint{epoch: 1, bound: append(b[:wire.PrefixSize:wire.PrefixSize], object...), doc: b[wire.PrefixSize:]}, nil
	}
	rest, c, err := r.openTrailer(b, signPoint, object)
	if err != nil {
		return nil, err
	}
	w := wire.NewReader(rest)
	head := w.Bytes(wire.PrefixSize + epochSize)
	p := &SealedPoint{Signer: c, bound: append(head[:len(head):len(head)], object...)}
	p.outline = w.Bytes(w.Count(w.Uint32(), 1))
	p.doc = w.Bytes(w.Len())
	if err := w.Err(); err != nil {
		return nil, err
	}
	p.epoch = binary.LittleEndian.Uint16(head[wire.PrefixSize:])
	return p, nil
}

// OpenPoint opens the whole document of a restore point: ErrRole for who may not read.
func (r *Ring) OpenPoint(p *SealedPoint) ([]byte, error) {
	e, err := r.epochOf(p.epoch)
	if err != nil {
		return nil, err
	}
	return r.openFrom(e.data.private, "point", p.bound, p.doc)
}

// OpenOutline opens what maintenance needs of a restore point: ErrRole for who may not.
func (r *Ring) OpenOutline(p *SealedPoint) ([]byte, error) {
	e, err := r.epochOf(p.epoch)
	if err != nil {
		return nil, err
	}
	if !r.format.Signed() {
		return nil, fmt.Errorf("%w: no outline in format %d", wire.ErrDamaged, r.format)
	}
	return r.openFrom(e.meta.private, "outline", p.bound, p.outline)
}
