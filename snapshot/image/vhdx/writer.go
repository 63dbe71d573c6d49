package vhdx

import (
	"crypto/rand"
	"slices"

	"github.com/lull-backup/lull/snapshot/image/layer"
)

// writer writes into the disk of an image. New blocks go to the end of the file.
type writer struct {
	v   *Image
	dev layer.Device
	end int64 // where the next block goes

	fresh map[int64]entry // entries of the table that changed
	layer.Patcher
}

// NewWriter writes into v, which was opened from the same file, has no log, and is to
// be read no more. end is Writer.End of one that went before, 0 for none.
func NewWriter(v *Image, dev layer.Device, end int64) layer.Writer {
	if end == 0 {
		end = layer.RoundUp(v.f.Size, mib)
	}
	return &writer{v: v, dev: dev, end: end, fresh: map[int64]entry{}}
}

func (w *writer) End() int64 { return w.end }

func (w *writer) Write(p []byte, off int64) error {
	for len(p) > 0 {
		index, inside := off/w.v.block, off%w.v.block
		n := min(int64(len(p)), w.v.block-inside)
		e, err := w.place(index)
		if err != nil {
			return err
		}
		if _, err := w.dev.WriteAt(p[:n], e.at+inside); err != nil {
			return err
		}
		if e.state == blockPartial {
			if err := w.mark(index, inside, n); err != nil {
				return err
			}
		}
		p, off = p[n:], off+n
	}
	return nil
}

// place is the entry of a block, which is made where it is not there.
func (w *writer) place(index int64) (entry, error) {
	slot := index + index/w.v.chunk()
	if e, ok := w.fresh[slot]; ok {
		return e, nil
	}
	e, err := w.v.payload(index)
	if err != nil || e.state == blockFull || e.state == blockPartial {
		return e, err
	}
	state := blockFull
	if e.state == blockNotPresent && w.v.hasParent {
		state = blockPartial
	}
	return w.grow(slot, state, w.v.block)
}

// grow makes a block at the end of the file, all zeros.
func (w *writer) grow(slot int64, state int, length int64) (entry, error) {
	e := entry{state: state, at: w.end}
	if err := w.dev.Truncate(e.at); err != nil { // what a crash left beyond
		return entry{}, err
	}
	if err := w.dev.Truncate(e.at + length); err != nil {
		return entry{}, err
	}
	w.end = e.at + length
	w.fresh[slot] = e
	word := uint64(e.at)/mib<<20 | uint64(state)
	w.Patch(w.v.table.at+slot*8, le.AppendUint64(nil, word))
	return e, nil
}

// mark sets the bits of a partially present block's sectors.
func (w *writer) mark(index, inside, n int64) error {
	chunk := index / w.v.chunk()
	slot := (chunk+1)*w.v.chunk() + chunk
	e, fresh := w.fresh[slot]
	if !fresh {
		old, err := w.v.entry(slot)
		if err != nil {
			return err
		}
		if e = old; old.state == bitmapNotPresent {
			if e, err = w.grow(slot, bitmapPresent, mib); err != nil {
				return err
			}
			fresh = true
		} else if e.at, err = w.v.bitmap(chunk); err != nil {
			return err
		}
	}
	perBlock := w.v.block / w.v.sector / 8
	at := e.at + index%w.v.chunk()*perBlock
	if bits, begun := w.Bitmap(at, perBlock); begun && !fresh {
		if err := w.v.f.Read(bits, at, "sector bitmap"); err != nil {
			return err
		}
	}
	w.Mark(inside/w.v.sector, n/w.v.sector, false)
	return nil
}

func (w *writer) Patches() ([]layer.Patch, int64) {
	return w.Take(), max(w.end, w.v.f.Size)
}

// NewID makes an identity for an image that is about to be written to.
func NewID() string {
	b := make([]byte, 16)
	rand.Read(b) // never fails
	b[7], b[8] = b[7]&0x0f|0x40, b[8]&0x3f|0x80
	return string(readGUID(b))
}

// Rename gives an image another identity, durably: the format asks for that before
// the first write into its disk. Both headers change, one after the other, so that
// one is whole at any time.
func Rename(v *Image, dev layer.Device, id string) error {
	data, err := guid(id).bytes()
	if err != nil {
		return v.f.Corrupt("%q is no identity", id)
	}
	b, at := slices.Clone(v.head.raw), v.head.at
	for range 2 {
		at = 3*headerAt - at // the other one
		le.PutUint64(b[8:], le.Uint64(b[8:])+1)
		copy(b[16:], data) // of the file
		copy(b[32:], data) // of the disk
		setSum(b)
		if _, err := dev.WriteAt(b, at); err != nil {
			return err
		}
		if err := dev.Sync(); err != nil {
			return err
		}
	}
	return nil
}
