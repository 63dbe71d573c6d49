package vhd

import (
	"github.com/lull-backup/lull/snapshot/image/layer"
)

// writer writes into the disk of an image. A block that is not there goes where the
// footer stood, and the footer behind it.
type writer struct {
	v   *Image
	dev layer.Device
	end int64 // where the next block goes
	old int64 // where the first one went

	fresh map[int64]int64 // blocks that were not there: where they are now
	layer.Patcher
}

// NewWriter writes into v, which was opened from the same file and is to be read
// no more. end is Writer.End of one that went before, 0 for none.
func NewWriter(v *Image, dev layer.Device, end int64) layer.Writer {
	if end == 0 {
		end = layer.RoundUp(v.f.Size, layer.SectorSize)
		if _, err := footerAt(v.f, end-footerSize); err == nil {
			end -= footerSize
		}
	}
	return &writer{v: v, dev: dev, end: end, old: end, fresh: map[int64]int64{}}
}

func (w *writer) End() int64 { return w.end }

func (w *writer) Write(p []byte, off int64) error {
	if w.v.foot.kind == Fixed {
		_, err := w.dev.WriteAt(p, off)
		return err
	}
	for len(p) > 0 {
		index, inside := off/w.v.head.block, off%w.v.head.block
		n := min(int64(len(p)), w.v.head.block-inside)
		at, err := w.place(index)
		if err != nil {
			return err
		}
		if _, err := w.dev.WriteAt(p[:n], at+w.v.head.bitmap+inside); err != nil {
			return err
		}
		if err := w.mark(at, inside, n); err != nil {
			return err
		}
		p, off = p[n:], off+n
	}
	return nil
}

// place is where a block is; it is made where it is not there.
func (w *writer) place(index int64) (int64, error) {
	if at, ok := w.fresh[index]; ok {
		return at, nil
	}
	at, err := w.v.block(index)
	if err != nil || at != 0 {
		return at, err
	}
	at = w.end
	if at/layer.SectorSize >= unusedEntry {
		return 0, w.v.f.Unsupported("image that grows beyond %d sectors", unusedEntry)
	}
	// The old footer lies there, and perhaps what a crash left.
	if err := w.dev.Truncate(at); err != nil {
		return 0, err
	}
	if err := w.dev.Truncate(at + w.v.head.bitmap + w.v.head.block); err != nil {
		return 0, err
	}
	w.end = at + w.v.head.bitmap + w.v.head.block
	w.fresh[index] = at
	w.Patch(w.v.head.table+index*4, be.AppendUint32(nil, uint32(at/layer.SectorSize)))
	return at, nil
}

// mark sets the bits of sectors in the bitmap of the block at a place.
func (w *writer) mark(block, inside, n int64) error {
	if bits, fresh := w.Bitmap(block, w.v.head.bitmap); fresh {
		if block < w.old {
			if err := w.v.f.Read(bits, block, "bitmap"); err != nil {
				return err
			}
		} else if w.v.foot.kind == Dynamic { // its sectors read as zeros, whatever the bits say
			layer.SetBits(bits, 0, w.v.head.block/layer.SectorSize, true)
		}
	}
	w.Mark(inside/layer.SectorSize, n/layer.SectorSize, true)
	return nil
}

func (w *writer) Patches() ([]layer.Patch, int64) {
	list := w.Take()
	if w.v.foot.kind == Fixed {
		return list, w.v.f.Size
	}
	return append(list, layer.Patch{Off: w.end, Data: w.v.foot.raw}), w.end + footerSize
}
