package vhdx

import "github.com/lull-backup/lull/snapshot/image/layer"

// States of a block of data.
const (
	blockNotPresent = 0
	blockUndefined  = 1
	blockZero       = 2
	blockUnmapped   = 3
	blockFull       = 6
	blockPartial    = 7

	bitmapNotPresent = 0
	bitmapPresent    = 6
)

// entry is an entry of the block table.
type entry struct {
	state int
	at    int64 // of the block in the file
}

// payload is the entry of a block of data.
func (v *Image) payload(index int64) (entry, error) {
	e, err := v.entry(index + index/v.chunk())
	if err != nil {
		return entry{}, err
	}
	switch e.state {
	case blockNotPresent, blockUndefined, blockZero, blockUnmapped:
		return e, nil
	case blockPartial:
		if !v.hasParent {
			return entry{}, v.f.Corrupt("block %d is partially present in an image without a parent", index)
		}
	case blockFull:
	default:
		return entry{}, v.f.Corrupt("block %d is in the unknown state %d", index, e.state)
	}
	return e, v.within(e.at, v.block, "block", index)
}

// bitmap is where the sector bitmap of a chunk is.
func (v *Image) bitmap(chunk int64) (int64, error) {
	e, err := v.entry((chunk+1)*v.chunk() + chunk)
	if err != nil {
		return 0, err
	}
	if e.state != bitmapPresent {
		return 0, v.f.Corrupt("sector bitmap %d is not there, but blocks need it", chunk)
	}
	return e.at, v.within(e.at, mib, "sector bitmap", chunk)
}

func (v *Image) entry(index int64) (entry, error) {
	b, err := v.tables.Bytes(v.f, layer.Table{Name: "block table", Start: v.table.at, Length: v.entries() * 8, Read: v.read}, index*8, 8)
	if err != nil {
		return entry{}, err
	}
	word := le.Uint64(b)
	return entry{state: int(word & 7), at: int64(min(word>>20, 1<<43-1) * mib)}, nil
}

// within sees that a block lies in the file, and not where something else is.
func (v *Image) within(at, length int64, what string, index int64) error {
	if at > v.size-length {
		return v.f.Corrupt("%s %d at %#x reaches past the end of the file at %#x", what, index, at, v.size)
	}
	if at < mib {
		return v.f.Corrupt("%s %d at %#x overlaps the headers", what, index, at)
	}
	for _, r := range []region{v.table, v.meta, {v.head.logAt, v.head.logLength}} {
		if at < r.at+r.length && at+length > r.at {
			return v.f.Corrupt("%s %d at %#x overlaps the log, the metadata or the block table", what, index, at)
		}
	}
	return nil
}
