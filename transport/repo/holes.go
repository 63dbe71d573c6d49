package repo

import (
	"cmp"
	"errors"
	"slices"
	"sync"
)

// Hole is a range of a stream that cannot be read.
type Hole struct {
	Offset int64 `json:"offset"` // in the stream, bytes
	Length int64 `json:"length"` // bytes
	// Object is what is damaged; "index/" when nothing is known of where the bytes
	// were. Err says how, of the first of them.
	Object string `json:"object"`
	Err    string `json:"error"`
}

// newHole is a hole because of an error that names an object.
func newHole(off, length int64, err error) Hole {
	h := Hole{Offset: off, Length: length, Err: err.Error()}
	var known *objectError
	if errors.As(err, &known) {
		h.Object, h.Err = known.object, known.err.Error()
	}
	return h
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
	h.all = appendHole(h.all, newHole(off, length, err))
	return nil
}

// appendHole adds a hole at the end, to the last one where it goes on from there for
// because of the same object.
func appendHole(all []Hole, next Hole) []Hole {
	if n := len(all); n > 0 && all[n-1].Offset+all[n-1].Length == next.Offset && all[n-1].Object == next.Object {
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
