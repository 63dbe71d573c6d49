package repo

import (
	"cmp"
	"slices"
	"sync"
)

// Hole is a range of a stream that cannot be read.
type Hole struct {
	Offset int64 `json:"offset"` // in the stream, bytes
	Length int64 `json:"length"` // bytes
	// Err says why: the object that is damaged, and how.
	Err string `json:"error"`
}

// holes gathers what a stream lost. A nil *holes takes none: every loss is an error.
type holes struct {
	mu  sync.Mutex
	all []Hole
}

// add takes down a loss, or returns err when that is none: the store may only be away.
func (h *holes) add(off, length int64, err error) error {
	if h == nil || !passable(err) {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.all = appendHole(h.all, Hole{Offset: off, Length: length, Err: err.Error()})
	return nil
}

// appendHole adds a hole at the end, to the last one where it goes on from there for
// the same reason.
func appendHole(all []Hole, next Hole) []Hole {
	if n := len(all); n > 0 && all[n-1].Offset+all[n-1].Length == next.Offset && all[n-1].Err == next.Err {
		all[n-1].Length += next.Length
		return all
	}
	return append(all, next)
}

// sorted is all holes in order of the stream.
func (h *holes) sorted() []Hole {
	slices.SortFunc(h.all, func(a, b Hole) int { return cmp.Compare(a.Offset, b.Offset) })
	var joined []Hole
	for _, next := range h.all {
		joined = appendHole(joined, next)
	}
	return joined
}
