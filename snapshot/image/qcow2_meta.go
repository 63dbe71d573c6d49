package image

import (
	"maps"
	"slices"

	"github.com/lull-backup/lull/snapshot/image/layer"
)

// layout says where the metadata of a new image lies, in clusters.
type layout struct {
	l2Start, l2Count           int64
	l1Start, l1Count           int64
	blockStart, blockCount     int64 // refcount blocks
	refTableStart, refTableLen int64
	total                      int64
}

const (
	refcountsPerBlock = writerCluster / 2 // of 16 bits
	copied            = 1 << 63           // the entry's cluster is used once
)

// plan places n L2 tables and an L1 table of l1Entries behind the data. The
// refcount blocks count themselves and their table, so their number is found by
// trying.
func planLayout(next, n, l1Entries int64) layout {
	clusters := func(bytes int64) int64 { return layer.RoundUp(bytes, writerCluster) / writerCluster }
	l := layout{l2Start: next, l2Count: n}
	l.l1Start = l.l2Start + l.l2Count
	l.l1Count = clusters(l1Entries * 8)
	l.blockStart = l.l1Start + l.l1Count
	for l.total = l.blockStart; ; {
		l.blockCount = layer.RoundUp(l.total, refcountsPerBlock) / refcountsPerBlock
		l.refTableStart = l.blockStart + l.blockCount
		l.refTableLen = clusters(l.blockCount * 8)
		total := l.refTableStart + l.refTableLen
		if total == l.total {
			return l
		}
		l.total = total
	}
}

// writeMetadata writes everything but the data, the header last.
func (t *qcow2Target) writeMetadata() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	l1Entries := layer.RoundUp(t.size, writerL2Span) / writerL2Span
	used := slices.Sorted(maps.Keys(t.l2))
	l := planLayout(int64(t.next), int64(len(used)), l1Entries)
	if err := t.draft.f.Truncate(l.total * writerCluster); err != nil {
		return err
	}
	for i, index := range used {
		if err := t.writeL2(t.l2[index], l.l2Start+int64(i)); err != nil {
			return err
		}
	}
	l1 := make([]byte, l1Entries*8)
	for i, index := range used {
		be.PutUint64(l1[index*8:], uint64(l.l2Start+int64(i))<<writerBits|copied)
	}
	if err := t.writeCluster(l1, l.l1Start); err != nil {
		return err
	}
	if err := t.writeRefcounts(l); err != nil {
		return err
	}
	return t.writeCluster(t.header(l, l1Entries), 0)
}

func (t *qcow2Target) writeL2(table *[writerEntries]uint32, at int64) error {
	b := make([]byte, 0, writerCluster)
	for _, cluster := range table {
		entry := uint64(cluster) << writerBits
		if cluster != 0 {
			entry |= copied
		}
		b = be.AppendUint64(b, entry)
	}
	return t.writeCluster(b, at)
}

// writeRefcounts writes one reference for each cluster of the file.
func (t *qcow2Target) writeRefcounts(l layout) error {
	table := make([]byte, 0, l.blockCount*8)
	block := make([]byte, 0, writerCluster)
	for i := range l.blockCount {
		block = block[:0]
		for range min(refcountsPerBlock, l.total-i*refcountsPerBlock) {
			block = be.AppendUint16(block, 1)
		}
		if err := t.writeCluster(block, l.blockStart+i); err != nil {
			return err
		}
		table = be.AppendUint64(table, uint64(l.blockStart+i)<<writerBits)
	}
	return t.writeCluster(table, l.refTableStart)
}

// header is that of qcow2 version 3 without any feature.
func (t *qcow2Target) header(l layout, l1Entries int64) []byte {
	b := make([]byte, headerSizeV3+8) // an end of the extensions behind it
	be.PutUint32(b[0:], qcow2Magic)
	be.PutUint32(b[4:], 3)
	be.PutUint32(b[20:], writerBits)
	be.PutUint64(b[24:], uint64(t.size))
	be.PutUint32(b[36:], uint32(l1Entries))
	be.PutUint64(b[40:], uint64(l.l1Start)<<writerBits)
	be.PutUint64(b[48:], uint64(l.refTableStart)<<writerBits)
	be.PutUint32(b[56:], uint32(l.refTableLen))
	be.PutUint32(b[96:], 4) // reference counts of 2^4 bits
	be.PutUint32(b[100:], headerSizeV3)
	return b
}

// writeCluster writes b at the start of a cluster.
func (t *qcow2Target) writeCluster(b []byte, at int64) error {
	_, err := t.draft.f.WriteAt(b, at*writerCluster)
	return err
}
