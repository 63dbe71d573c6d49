package vmstate

import (
	"encoding/binary"
	"fmt"
	"io"
)

// An image is a qcow2 file that holds a stream as the state of an internal snapshot, and
// nothing else, so that a QEMU that runs can load it
// (https://www.qemu.org/docs/master/interop/qcow2.html):
//
//	cluster 0  header
//	1, 2       refcount table, one refcount block
//	3          L1 table of the disk, which is empty
//	4          L1 table of the snapshot
//	5          the snapshot
//	6 ...      L2 tables, as many as the limit of the stream needs
//	then       the stream, as it came
//
// Clusters have 2 MiB, the most that QEMU takes, so that there are few tables, and what is
// not used of them is a hole. Where everything is follows from the limit, so that the
// tables can be written again: loading changes them.

// ImageTag names the snapshot.
const ImageTag = "lull"

const (
	clusterBits = 21
	cluster     = 1 << clusterBits
	l2Entries   = cluster / 8
	l2Span      = cluster * l2Entries // what an L2 table covers: 512 GiB
	// maxImage is what one refcount block covers, in bytes.
	maxImage = cluster * (cluster / 2)
)

// imageTables is how many L2 tables there are, and where the stream begins.
func imageTables(limit int64) (tables, data int64) {
	tables = max(1, (limit+l2Span-1)/l2Span)
	return tables, (6 + tables) * cluster
}

// WriteImage lays a stream of at most limit bytes as an image, and tells how long it was.
// ErrTooLarge: it is longer.
func WriteImage(w io.WriterAt, r io.Reader, limit int64) (int64, error) {
	_, data := imageTables(limit)
	if data+limit > maxImage {
		return 0, fmt.Errorf("%w: %d bytes", ErrTooLarge, limit)
	}
	n, err := io.CopyBuffer(writerOnly{io.NewOffsetWriter(w, data)}, io.LimitReader(r, limit+1), make([]byte, 1<<20))
	if err == nil && n > limit {
		err = ErrTooLarge
	}
	if err != nil {
		return n, err
	}
	return n, SealImage(w, n, limit)
}

// writerOnly keeps io.CopyBuffer from finding other methods.
type writerOnly struct{ io.Writer }

// SealImage writes the tables of an image whose stream has n bytes.
func SealImage(w io.WriterAt, n, limit int64) error {
	tables, data := imageTables(limit)
	used := (n + cluster - 1) / cluster // clusters of the stream
	if n < 0 || n > limit || data+used*cluster > maxImage {
		return fmt.Errorf("%w: %d bytes", ErrTooLarge, n)
	}
	be := binary.BigEndian
	put := func(off int64, b []byte) error {
		_, err := w.WriteAt(b, off)
		return err
	}
	refcounts := make([]byte, cluster)
	for i := range data/cluster + used {
		be.PutUint16(refcounts[2*i:], 1)
	}
	refcountTable, disk, state := make([]byte, cluster), make([]byte, cluster), make([]byte, cluster)
	be.PutUint64(refcountTable, 2*cluster)
	for t := range tables {
		be.PutUint64(state[8*(1+t):], uint64((6+t)*cluster))
		l2 := make([]byte, cluster)
		for i := int64(0); i < l2Entries && t*l2Entries+i < used; i++ {
			be.PutUint64(l2[8*i:], uint64(data+(t*l2Entries+i)*cluster))
		}
		if err := put((6+t)*cluster, l2); err != nil {
			return err
		}
	}
	for at, b := range map[int64][]byte{1: refcountTable, 2: refcounts, 3: disk, 4: state, 5: imageSnapshot(n, 1+tables), 0: imageHeader(1 + tables)} {
		if err := put(at*cluster, b); err != nil {
			return err
		}
	}
	return endImage(w, data+used*cluster)
}

// ImageSize is how long an image is whose stream has n bytes.
func ImageSize(n, limit int64) int64 {
	_, data := imageTables(limit)
	return data + (n+cluster-1)/cluster*cluster
}

// endImage makes the last cluster whole, and takes away what a load has put behind it.
func endImage(w io.WriterAt, size int64) error {
	if f, ok := w.(interface{ Truncate(size int64) error }); ok {
		return f.Truncate(size)
	}
	return nil
}

func imageHeader(l1 int64) []byte {
	be, b := binary.BigEndian, make([]byte, cluster)
	copy(b, "QFI\xfb")
	be.PutUint32(b[4:], 3) // version
	be.PutUint32(b[20:], clusterBits)
	be.PutUint64(b[24:], cluster) // size of the disk
	be.PutUint32(b[36:], uint32(l1))
	be.PutUint64(b[40:], 3*cluster) // L1 table
	be.PutUint64(b[48:], cluster)   // refcount table
	be.PutUint32(b[56:], 1)         // its clusters
	be.PutUint32(b[60:], 1)         // snapshots
	be.PutUint64(b[64:], 5*cluster)
	be.PutUint32(b[96:], 4)    // refcounts of 16 bits
	be.PutUint32(b[100:], 104) // length of the header
	return b
}

func imageSnapshot(n, l1 int64) []byte {
	be, b := binary.BigEndian, make([]byte, cluster)
	be.PutUint64(b, 4*cluster) // its L1 table
	be.PutUint32(b[8:], uint32(l1))
	be.PutUint16(b[12:], 1) // length of its ID
	be.PutUint16(b[14:], uint16(len(ImageTag)))
	be.PutUint32(b[32:], uint32(min(n, 1<<32-1)))
	be.PutUint32(b[36:], 16) // extra data
	be.PutUint64(b[40:], uint64(n))
	be.PutUint64(b[48:], cluster) // size of the disk
	copy(b[56:], "1"+ImageTag)
	return b
}
