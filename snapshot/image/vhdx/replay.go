package vhdx

import (
	"cmp"
	"slices"
)

// patch is a range of the file that its log says anew: zeros, or one sector of
// data that lies in the log without its first and last bytes, which are here.
type patch struct {
	start, end int64
	data       bool
	from       int64 // in the file: the sector of the log
	first      [8]byte
	last       [4]byte
}

// replay is a log upon a file: patches in order of their place, none of which
// overlap.
type replay []patch

func (r replay) patched() bool { return len(r) > 0 }

// paint lays patches upon each other, the later ones on top. Ranges are cut at
// every border of any patch, and each cut range gets the last patch that covers it:
// patches are taken last first, and what is painted is skipped from then on.
func paint(patches []patch) replay {
	var cuts []int64
	for _, p := range patches {
		cuts = append(cuts, p.start, p.end)
	}
	slices.Sort(cuts)
	cuts = slices.Compact(cuts)
	free := make([]int, len(cuts)+1) // from a cut, the next one that is not painted
	for i := range free {
		free[i] = i
	}
	find := func(i int) int {
		for free[i] != i {
			free[i] = free[free[i]]
			i = free[i]
		}
		return i
	}
	var out replay
	for _, p := range slices.Backward(patches) {
		first, _ := slices.BinarySearch(cuts, p.start)
		for i := find(first); i < len(cuts) && cuts[i] < p.end; i = find(i) {
			part := p
			part.start, part.end = cuts[i], cuts[i+1]
			out = append(out, part)
			free[i] = i + 1
		}
	}
	slices.SortFunc(out, func(a, b patch) int { return cmp.Compare(a.start, b.start) })
	return out
}

// read fills p from a place in the file, as its log says.
func (v *Image) read(p []byte, off int64, what string) error {
	if off < 0 || off > v.size || int64(len(p)) > v.size-off {
		return v.f.Corrupt("%s at %#x (%d bytes) reaches past the end of the file at %#x", what, off, len(p), v.size)
	}
	have := max(0, min(int64(len(p)), v.f.Size-off))
	clear(p[have:])
	if err := v.f.Read(p[:have], min(off, v.f.Size), what); err != nil {
		return err
	}
	first, _ := slices.BinarySearchFunc(v.log, off, func(x patch, off int64) int { return cmp.Compare(x.end, off+1) })
	for _, x := range v.log[first:] {
		if x.start >= off+int64(len(p)) {
			break
		}
		if err := v.apply(x, p, off); err != nil {
			return err
		}
	}
	return nil
}

// apply puts one patch upon p, which was read from off.
func (v *Image) apply(x patch, p []byte, off int64) error {
	from, to := max(x.start, off), min(x.end, off+int64(len(p)))
	if !x.data {
		clear(p[from-off : to-off])
		return nil
	}
	b, err := v.logged(x)
	if err != nil {
		return err
	}
	copy(p[from-off:to-off], b[from-x.start:])
	return nil
}

// logged is what a patch of data says.
func (v *Image) logged(x patch) ([]byte, error) {
	b := make([]byte, logSector)
	if err := v.f.Read(b, x.from, "log"); err != nil {
		return nil, err
	}
	if string(b[:4]) != "data" {
		return nil, v.f.Corrupt("no data in the log at %#x", x.from)
	}
	copy(b, x.first[:])
	copy(b[logSector-len(x.last):], x.last[:])
	return b, nil
}
