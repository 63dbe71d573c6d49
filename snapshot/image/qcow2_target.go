package image

import (
	"context"
	"fmt"
	"sync"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/image/layer"
)

const (
	writerBits    = 16
	writerCluster = 1 << writerBits
	writerEntries = writerCluster / 8 // in an L2 table
	writerL2Span  = writerEntries * writerCluster
)

// qcow2Target is a qcow2 image in the making: version 3, clusters of 64 KiB.
// Data clusters are given out as writes come; all metadata is kept in memory,
// four bytes a cluster, and written behind the data by Commit, the header last.
//
//	header | data ... | L2 tables | L1 table | refcount blocks | refcount table
type qcow2Target struct {
	draft *draft
	asked int64 // the disk's size; writes end there at the latest
	size  int64 // the same in whole sectors

	mu   sync.Mutex
	next uint32                           // first cluster that is not given out
	l2   map[int64]*[writerEntries]uint32 // by L1 index: cluster numbers, 0 for none
}

func newQcow2Target(d *draft, size int64) *qcow2Target {
	return &qcow2Target{draft: d, asked: size, size: layer.RoundUp(size, layer.SectorSize), next: 1, l2: map[int64]*[writerEntries]uint32{}}
}

func (t *qcow2Target) WriteAt(ctx context.Context, p []byte, off int64) error {
	if err := checkWrite(ctx, p, off, t.asked); err != nil {
		return fmt.Errorf("write image %s: %w", t.draft.path, err)
	}
	for len(p) > 0 {
		skip, data := nextClusters(p, off)
		p, off = p[skip:], off+int64(skip)
		if err := t.writeData(p[:data], off); err != nil {
			return fmt.Errorf("write image %s: %w", t.draft.path, noSpace(err))
		}
		p, off = p[data:], off+int64(data)
	}
	return nil
}

// nextClusters is nextData in whole clusters of the disk, at borders of which
// p, which starts at off, is cut.
func nextClusters(p []byte, off int64) (skip, data int) {
	border := func(n int) int { return min(n+int(writerCluster-(off+int64(n))%writerCluster), len(p)) }
	for skip < len(p) && isZero(p[skip:border(skip)]) {
		skip = border(skip)
	}
	end := skip
	for end < len(p) && !isZero(p[end:border(end)]) {
		end = border(end)
	}
	return skip, end - skip
}

// writeData writes p into clusters, in as few calls as they are contiguous.
func (t *qcow2Target) writeData(p []byte, off int64) error {
	for len(p) > 0 {
		host, n, err := t.place(off, int64(len(p)))
		if err != nil {
			return err
		}
		if err := t.draft.writeAt(p[:n], host); err != nil {
			return err
		}
		p, off = p[n:], off+n
	}
	return nil
}

// place gives the place in the file for the first bytes of n at off, and how
// many of them may go there, giving out clusters where there are none yet.
func (t *qcow2Target) place(off, n int64) (host, length int64, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	first, err := t.cluster(off)
	if err != nil {
		return 0, 0, err
	}
	inside := off % writerCluster
	length = writerCluster - inside
	for at := uint32(1); length < n; at++ {
		next, err := t.cluster(off + length)
		if err != nil {
			return 0, 0, err
		}
		if next != first+at {
			break
		}
		length += writerCluster
	}
	return int64(first)*writerCluster + inside, min(length, n), nil
}

// cluster is the number of the cluster in the file for an offset on the disk.
func (t *qcow2Target) cluster(off int64) (uint32, error) {
	table := t.l2[off/writerL2Span]
	if table == nil {
		table = new([writerEntries]uint32)
		t.l2[off/writerL2Span] = table
	}
	entry := &table[off%writerL2Span/writerCluster]
	if *entry == 0 {
		if t.next == 1<<32-1 {
			return 0, fmt.Errorf("image of more than %d clusters: %w", t.next, snapshot.ErrUnsupported)
		}
		*entry = t.next
		t.next++
	}
	return *entry, nil
}

func (t *qcow2Target) Commit() error {
	if err := t.draft.commit(t.writeMetadata); err != nil {
		return fmt.Errorf("commit image %s: %w", t.draft.path, noSpace(err))
	}
	return nil
}

func (t *qcow2Target) Abort() error {
	if err := t.draft.abort(); err != nil {
		return fmt.Errorf("abort image %s: %w", t.draft.path, err)
	}
	return nil
}
