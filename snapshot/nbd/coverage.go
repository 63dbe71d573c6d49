package nbd

import "slices"

// span is a range of a read that was answered.
type span struct{ start, end int64 }

// coverage collects the answered ranges of one read: sorted, disjoint, never
// touching. Chunks in order, the usual case, keep it at one element.
type coverage struct{ spans []span }

// add marks n > 0 bytes at start. An overlap is a violation.
func (c *coverage) add(start, n int64) error {
	end := start + n
	i, _ := slices.BinarySearchFunc(c.spans, start, func(s span, at int64) int {
		if s.end <= at {
			return -1
		}
		return 1
	}) // the first span that ends after start
	if i < len(c.spans) && c.spans[i].start < end {
		return violation("two chunks answer the same bytes")
	}
	joinLeft := i > 0 && c.spans[i-1].end == start
	joinRight := i < len(c.spans) && c.spans[i].start == end
	switch {
	case joinLeft && joinRight:
		c.spans[i-1].end = c.spans[i].end
		c.spans = slices.Delete(c.spans, i, i+1)
	case joinLeft:
		c.spans[i-1].end = end
	case joinRight:
		c.spans[i].start = start
	case len(c.spans) == maxSpans:
		return violation("a read answered in more than %d scattered pieces", maxSpans)
	default:
		c.spans = slices.Insert(c.spans, i, span{start, end})
	}
	return nil
}

func (c *coverage) all(length int64) bool {
	return len(c.spans) == 1 && c.spans[0] == span{0, length}
}
