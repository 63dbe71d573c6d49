package image

import (
	"bytes"
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/zstd"

	"github.com/lull-backup/lull/snapshot/image/layer"
)

// zstdWindow is the largest window of a zstd frame that is accepted, in bytes.
// A window larger than a cluster has no use, but encoders declare some.
const zstdWindow = 8 << 20

// inflater expands compressed clusters for all layers of a chain. Its buffers
// and decoders are reused.
type inflater struct {
	buffers sync.Pool // *[]byte, room for the compressed or the expanded cluster
	flate   sync.Pool // io.ReadCloser that is a flate.Resetter
	zstd    sync.Pool // *zstd.Decoder, without goroutines
}

// buffer is a buffer of n bytes; the caller gives it back.
func (i *inflater) buffer(n int64) *[]byte {
	b, _ := i.buffers.Get().(*[]byte)
	if b == nil || int64(cap(*b)) < n {
		fresh := make([]byte, n)
		return &fresh
	}
	*b = (*b)[:n]
	return b
}

// expand fills out from the beginning of a compressed stream. What follows the
// stream in packed is padding.
func (i *inflater) expand(c compression, out, packed []byte) error {
	if c == compressionZstd {
		return i.expandZstd(out, packed)
	}
	r, _ := i.flate.Get().(io.ReadCloser)
	if r == nil {
		r = flate.NewReader(bytes.NewReader(packed))
	} else if err := r.(flate.Resetter).Reset(bytes.NewReader(packed), nil); err != nil {
		return err
	}
	defer i.flate.Put(r)
	_, err := io.ReadFull(r, out)
	return err
}

func (i *inflater) expandZstd(out, packed []byte) error {
	d, _ := i.zstd.Get().(*zstd.Decoder)
	if d == nil {
		var err error
		d, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
			zstd.WithDecoderMaxWindow(zstdWindow))
		if err != nil {
			return err
		}
	}
	defer i.zstd.Put(d)
	if err := d.Reset(bytes.NewReader(packed)); err != nil {
		return err
	}
	_, err := io.ReadFull(d, out)
	return err
}

// readCompressed fills p from off, both inside the one cluster of entry.
func (q *qcow2) readCompressed(p []byte, off int64, entry uint64) error {
	shift := 62 - (q.h.clusterBits - 8)
	start := int64(entry & (1<<shift - 1))
	sectors := int64(entry&(entryCompressed-1)>>shift) + 1
	// The last sector may be longer than the file: the stream ends before.
	end := min(start/layer.SectorSize*layer.SectorSize+sectors*layer.SectorSize, q.f.Size)
	if start < q.clusterSize() || start >= end {
		return q.f.Corrupt("compressed cluster at %#x lies outside of the file", start)
	}
	packed := q.inflat.buffer(end - start)
	defer q.inflat.buffers.Put(packed)
	if err := q.f.Read(*packed, start, "compressed cluster"); err != nil {
		return err
	}
	if int64(len(p)) == q.clusterSize() {
		return q.expanded(start, q.inflat.expand(q.h.compression, p, *packed))
	}
	whole := q.inflat.buffer(q.clusterSize())
	defer q.inflat.buffers.Put(whole)
	if err := q.expanded(start, q.inflat.expand(q.h.compression, *whole, *packed)); err != nil {
		return err
	}
	copy(p, (*whole)[off&(q.clusterSize()-1):])
	return nil
}

func (q *qcow2) expanded(at int64, err error) error {
	if err != nil {
		return fmt.Errorf("%w (%w)", q.f.Corrupt("compressed cluster at %#x does not expand", at), err)
	}
	return nil
}
