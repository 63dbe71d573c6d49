package image

import "github.com/lull-backup/lull/snapshot/image/layer"

const (
	entryCompressed = 1 << 62
	entryZero       = 1 << 0 // version 3, without extended entries
	entryOffset     = 0x00fffffffffffe00

	l1Reserved = 0x7f000000000001ff
	l2Reserved = 0x3f000000000001fe // of entries of clusters that are not compressed

	subclusters = 32 // in a cluster with an extended entry
)

// qcow2 is a layer in the format of that name.
type qcow2 struct {
	f      *layer.File
	h      header
	tables layer.Tables
	inflat *inflater
}

func (q *qcow2) Size() int64 { return q.h.size }

func (q *qcow2) Identity() layer.Identity { return layer.Identity{} }

func (q *qcow2) clusterSize() int64 { return 1 << q.h.clusterBits }

func (q *qcow2) Read(p []byte, off int64, below layer.Below) error {
	return layer.Fill(p, off, q.Lookup, func(p []byte, off int64, pc layer.Piece) error {
		if pc.Kind == layer.Compressed {
			return q.readCompressed(p, off, pc.Entry)
		}
		return q.f.Read(p, pc.Host, "data cluster")
	}, below)
}

// Lookup finds the run of clusters of one kind that starts at off, no further
// than one L2 table tells.
func (q *qcow2) Lookup(off, n int64) (layer.Piece, error) {
	l2Bits, bits := q.h.l2Bits(), q.h.clusterBits
	l1Index := off >> (bits + l2Bits)
	n = min(n, (l1Index+1)<<(bits+l2Bits)-off)
	table, err := q.l2Table(l1Index)
	if err != nil {
		return layer.Piece{}, err
	}
	if table == 0 {
		return layer.Piece{Kind: layer.Absent, Length: n}, nil
	}
	run := run{q: q}
	for run.Length < n {
		at := off + run.Length
		index := at >> bits & (1<<l2Bits - 1)
		entry, err := q.l2Entry(table, index, &run.seen)
		if err != nil {
			return layer.Piece{}, err
		}
		more, err := run.extend(at, entry)
		if err != nil {
			return layer.Piece{}, err
		}
		if !more {
			break
		}
	}
	run.Length = min(run.Length, n)
	return run.Piece, q.checkData(run.Piece)
}

// checkData sees that data lies in the file, and not in its header or L1 table.
func (q *qcow2) checkData(pc layer.Piece) error {
	if pc.Kind != layer.Data {
		return nil
	}
	end := pc.Host + pc.Length
	if pc.Host < q.clusterSize() || (pc.Host < q.h.l1Offset+q.h.l1Needed()*8 && end > q.h.l1Offset) {
		return q.f.Corrupt("data cluster at %#x overlaps the header or the L1 table", pc.Host)
	}
	if end > q.f.Size {
		return q.f.Corrupt("data cluster at %#x (%d bytes) reaches past the end of the file at %#x", pc.Host, pc.Length, q.f.Size)
	}
	return nil
}

// l2Table is where the L2 table for an L1 index lies, 0 for nowhere.
func (q *qcow2) l2Table(index int64) (int64, error) {
	at := q.h.l1Offset + index*8
	b, err := q.tableBytes(q.h.l1Offset, q.h.l1Needed()*8, index*8, 8, "L1 table")
	if err != nil {
		return 0, err
	}
	entry := be.Uint64(b)
	table := int64(entry & entryOffset)
	switch {
	case entry&l1Reserved != 0:
		return 0, q.f.Corrupt("L1 entry at %#x has reserved bits set: %#x", at, entry)
	case table == 0:
		return 0, nil
	case table&(q.clusterSize()-1) != 0 || table > q.f.Size-q.clusterSize():
		return 0, q.f.Corrupt("L1 entry at %#x points to an L2 table at %#x, unaligned or past the end of the file", at, table)
	case table < q.h.l1Offset+q.h.l1Needed()*8 && table+q.clusterSize() > q.h.l1Offset:
		return 0, q.f.Corrupt("L2 table at %#x overlaps the L1 table", table)
	}
	return table, nil
}

// l2Entry is one entry of an L2 table with its subcluster bitmap. seen is the
// piece of the table that the last call used, to spare the cache.
func (q *qcow2) l2Entry(table, index int64, seen *tableView) (l2Entry, error) {
	width := int64(8)
	if q.h.extendedL2 {
		width = 16
	}
	at := index * width
	if at < seen.start || at+width > seen.start+int64(len(seen.data)) {
		b, err := q.tableBytes(table, q.clusterSize(), at, width, "L2 table")
		if err != nil {
			return l2Entry{}, err
		}
		*seen = tableView{start: at, data: b}
	}
	b := seen.data[at-seen.start:]
	e := l2Entry{at: table + at, word: be.Uint64(b)}
	if q.h.extendedL2 {
		e.bitmap = be.Uint64(b[8:])
	}
	return e, nil
}

// tableView is a part of a table, from start on.
type tableView struct {
	start int64
	data  []byte
}

// tableBytes returns the bytes of a table from at to the end of the cached
// piece that holds them, width at least.
func (q *qcow2) tableBytes(table, length, at, width int64, what string) ([]byte, error) {
	return q.tables.Bytes(q.f, layer.Table{Name: what, Start: table, Length: length}, at, width)
}
