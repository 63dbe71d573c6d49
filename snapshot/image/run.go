package image

import "github.com/lull-backup/lull/snapshot/image/layer"

// l2Entry is one entry of an L2 table.
type l2Entry struct {
	at     int64 // in the file
	word   uint64
	bitmap uint64 // extended entries: 32 bits "allocated", 32 bits "zero"
}

// run gathers neighbouring clusters of one kind.
type run struct {
	q *qcow2
	layer.Piece
	seen tableView
}

// extend takes in the rest of the cluster at offset at on the disk. It reports
// whether the run may go on after it.
func (r *run) extend(at int64, e l2Entry) (more bool, err error) {
	inside := at & (r.q.clusterSize() - 1)
	left := r.q.clusterSize() - inside
	if e.word&entryCompressed != 0 {
		if r.Length > 0 {
			return false, nil
		}
		r.Piece = layer.Piece{Kind: layer.Compressed, Length: left, Entry: e.word}
		return false, nil
	}
	if err := r.q.checkEntry(e); err != nil {
		return false, err
	}
	if !r.q.h.extendedL2 {
		return r.join(e.kind(), e.host()+inside, left), nil
	}
	size := r.q.clusterSize() / subclusters
	for left > 0 {
		part := size - inside&(size-1)
		k := e.subKind(uint(inside / size))
		if !r.join(k, e.host()+inside, part) {
			return false, nil
		}
		inside, left = inside+part, left-part
	}
	return true, nil
}

// join adds n bytes to the run when they continue it.
func (r *run) join(k layer.Kind, host, n int64) bool {
	if r.Length == 0 {
		r.Piece = layer.Piece{Kind: k, Length: n}
		if k == layer.Data {
			r.Host = host
		}
		return true
	}
	if k != r.Kind || (k == layer.Data && host != r.Host+r.Length) {
		return false
	}
	r.Length += n
	return true
}

func (q *qcow2) checkEntry(e l2Entry) error {
	switch {
	case e.word&l2Reserved != 0, q.h.extendedL2 && e.word&entryZero != 0:
		return q.f.Corrupt("L2 entry at %#x has reserved bits set: %#x", e.at, e.word)
	case q.h.version < 3 && e.word&entryZero != 0:
		return q.f.Corrupt("L2 entry at %#x is a zero cluster, which version 2 does not have", e.at)
	case e.host()&(q.clusterSize()-1) != 0:
		return q.f.Corrupt("L2 entry at %#x points to an unaligned cluster at %#x", e.at, e.host())
	case q.h.extendedL2 && uint32(e.bitmap)&uint32(e.bitmap>>32) != 0:
		return q.f.Corrupt("L2 entry at %#x has subclusters that are both zero and allocated", e.at)
	case q.h.extendedL2 && e.host() == 0 && uint32(e.bitmap) != 0:
		return q.f.Corrupt("L2 entry at %#x has allocated subclusters in no cluster", e.at)
	}
	return nil
}

func (e l2Entry) host() int64 { return int64(e.word & entryOffset) }

func (e l2Entry) kind() layer.Kind {
	switch {
	case e.word&entryZero != 0:
		return layer.Zero
	case e.host() == 0:
		return layer.Absent
	}
	return layer.Data
}

func (e l2Entry) subKind(n uint) layer.Kind {
	switch {
	case e.bitmap>>(32+n)&1 != 0:
		return layer.Zero
	case e.bitmap>>n&1 != 0:
		return layer.Data
	}
	return layer.Absent
}
