package image

import (
	"context"
	"errors"
	"fmt"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/image/layer"
)

// Dirty bitmaps in a qcow2 image, by its specification. Bounds are QEMU's own
// (block/qcow2-bitmap.c), but for that of the directory, which is lower.
const (
	extensionBitmaps  = 0x23852875
	autoclearBitmaps  = 1 << 0 // the extension is in order
	bitmapEntry       = 24     // bytes of a directory's entry before its name
	bitmapInUse       = 1 << 0
	bitmapTracking    = 1 // type
	maxBitmaps        = 65535
	maxDirectory      = 16 << 20 // bytes
	minGranularity    = 9        // bits
	maxGranularity    = 31
	bitmapOffset      = 0x00fffffffffffe00 // of a cluster, in the bitmap's table
	bitmapReserved    = 0xff000000000001fe
	bitmapAllOnes     = 1 // where there is no cluster
	maxBitmapName     = 1023
	bitmapsExtensions = 24 // bytes
)

// ErrNoBitmap: the image has no bitmap of that name that says something.
var ErrNoBitmap = errors.New("no such bitmap")

// bitmapDirectory says where an image's bitmaps are listed.
type bitmapDirectory struct {
	count  int64
	offset int64
	length int64
}

// readBitmaps reads the header extension. It says nothing unless the header's
// autoclear bit vouches for it.
func (h *header) readBitmaps(b []byte) {
	if len(b) < bitmapsExtensions || h.autoclear&autoclearBitmaps == 0 {
		return
	}
	h.bitmaps = bitmapDirectory{count: int64(be.Uint32(b)), length: int64(be.Uint64(b[8:])), offset: int64(be.Uint64(b[16:]))}
}

// ReadBitmap reads what a dirty bitmap of a qcow2 image says of a disk of size bytes.
// The image is locked against writers meanwhile. ErrNoBitmap: there is none, or one
// that is being written to by a program, or was when that crashed.
func ReadBitmap(ctx context.Context, path, name string, size int64) (*snapshot.ChangeSet, error) {
	set, err := readBitmap(ctx, path, name, size)
	if err != nil {
		return nil, fmt.Errorf("read bitmap %s: %w", name, err)
	}
	return set, nil
}

func readBitmap(ctx context.Context, path, name string, size int64) (*snapshot.ChangeSet, error) {
	f, err := layer.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := lockForReading(f.File); err != nil {
		return nil, err
	}
	h, err := readHeader(f)
	if err != nil {
		return nil, err
	}
	if got := virtualSize(snapshot.FormatQcow2, h.size); got != size {
		return nil, f.Corrupt("a disk of %d bytes where there were %d", got, size)
	}
	e, err := findBitmap(f, h, name)
	if err != nil {
		return nil, err
	}
	return e.read(ctx, f, h, size)
}

// storedBitmap is one entry of a directory.
type storedBitmap struct {
	table, entries int64
	granularity    uint // bits
}

// findBitmap looks for a name in the directory.
func findBitmap(f *layer.File, h header, name string) (storedBitmap, error) {
	d := h.bitmaps
	if d.count > maxBitmaps || d.length < 0 || d.length > maxDirectory {
		return storedBitmap{}, f.Corrupt("%d bitmaps in a directory of %d bytes", d.count, d.length)
	}
	b := make([]byte, d.length)
	if err := f.Read(b, d.offset, "directory of bitmaps"); err != nil {
		return storedBitmap{}, err
	}
	for range d.count {
		if len(b) < bitmapEntry {
			return storedBitmap{}, f.Corrupt("the directory of bitmaps ends early")
		}
		extra, length := int64(be.Uint32(b[20:])), int64(be.Uint16(b[18:]))
		whole := layer.RoundUp(bitmapEntry+extra+length, 8)
		if length > maxBitmapName || whole > int64(len(b)) {
			return storedBitmap{}, f.Corrupt("a bitmap's entry of %d bytes", whole)
		}
		if string(b[bitmapEntry+extra:][:length]) == name {
			return parseBitmap(f, b)
		}
		b = b[whole:]
	}
	return storedBitmap{}, ErrNoBitmap
}

func parseBitmap(f *layer.File, b []byte) (storedBitmap, error) {
	flags, kind, bits := be.Uint32(b[12:]), b[16], uint(b[17])
	switch {
	case flags&bitmapInUse != 0:
		return storedBitmap{}, fmt.Errorf("%w: it is in use, or was when a program crashed", ErrNoBitmap)
	case kind != bitmapTracking || bits < minGranularity || bits > maxGranularity || be.Uint32(b[20:]) != 0:
		return storedBitmap{}, f.Unsupported("bitmap of type %d with parts of 2^%d bytes", kind, bits)
	}
	return storedBitmap{table: int64(be.Uint64(b)), entries: int64(be.Uint32(b[8:])), granularity: bits}, nil
}

// read reads the table, and each cluster of the bitmap.
func (s storedBitmap) read(ctx context.Context, f *layer.File, h header, size int64) (*snapshot.ChangeSet, error) {
	set, err := snapshot.NewChangeSet(size, 1<<s.granularity)
	if err != nil {
		return nil, f.Unsupported("bitmap: %v", err)
	}
	cluster := int64(1) << h.clusterBits
	covers := cluster * 8 << s.granularity // bytes of the disk, by one cluster
	if need := (size + covers - 1) / covers; s.entries != need {
		return nil, f.Corrupt("bitmap of %d clusters, want %d", s.entries, need)
	}
	table := make([]byte, s.entries*8)
	if err := f.Read(table, s.table, "table of a bitmap"); err != nil {
		return nil, err
	}
	b := make([]byte, cluster)
	for i := range s.entries {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		entry := be.Uint64(table[i*8:])
		at := int64(entry & bitmapOffset)
		switch {
		case entry&bitmapReserved != 0 || at != 0 && entry&bitmapAllOnes != 0:
			return nil, f.Corrupt("entry %#x in the table of a bitmap", entry)
		case at == 0 && entry&bitmapAllOnes != 0:
			set.Add(i*covers, covers)
		case at != 0:
			if err := f.Read(b, at, "bitmap"); err != nil {
				return nil, err
			}
			addBits(set, b, i*covers, 1<<s.granularity)
		}
	}
	return set, nil
}

// addBits adds the parts whose bits are set, of a disk from off on. The first bit of a
// byte is its lowest.
func addBits(set *snapshot.ChangeSet, b []byte, off, grain int64) {
	for n := int64(len(b)) * 8; n > 0; {
		first := int64(len(b))*8 - n
		dirty, run := layer.BitRun(b, first, n, false)
		if dirty {
			set.Add(off+first*grain, run*grain)
		}
		n -= run
	}
}
