package index

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"

	"github.com/zeebo/blake3"
	"golang.org/x/sys/unix"

	"github.com/lull-backup/lull/transport/block"
)

// run is one mapped file. Its methods other than close may run concurrently, and
// only inside guard.
type run struct {
	header
	path    string // "" when the file has no name
	data    []byte
	sources []Source
}

// openRun maps the run at path after it has read and checked all of it.
func openRun(path string) (*run, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := verify(f); err != nil {
		return nil, fmt.Errorf("check %s: %w", path, err)
	}
	return mapRun(f, path)
}

// verify reads f once and compares its checksums.
func verify(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	var head [headerLen]byte
	if _, err := io.ReadFull(f, head[:]); err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	h, err := parseHeader(head[:], info.Size())
	if err != nil {
		return err
	}
	sum := blake3.New()
	if _, err := io.CopyBuffer(struct{ io.Writer }{sum}, struct{ io.Reader }{f}, make([]byte, 1<<20)); err != nil {
		return err
	}
	if !bytes.Equal(sum.Sum(nil), h.body[:]) {
		return fmt.Errorf("%w: body checksum", ErrDamaged)
	}
	return nil
}

// mapRun maps f, whose checksums are known to be good. f may be closed then.
func mapRun(f *os.File, path string) (*run, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Size() < headerLen || int64(int(info.Size())) != info.Size() {
		return nil, fmt.Errorf("%w: %d bytes", ErrDamaged, info.Size())
	}
	data, err := unix.Mmap(int(f.Fd()), 0, int(info.Size()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map %s: %w", f.Name(), err)
	}
	// Look-ups land anywhere: reading ahead of them only costs memory. A kernel
	// that knows no advice is as right, and slower.
	_ = unix.Madvise(data, unix.MADV_RANDOM)
	r := &run{path: path, data: data}
	err = guard(func() error { return r.parse() })
	if err != nil {
		return nil, errors.Join(err, r.close())
	}
	return r, nil
}

func (r *run) parse() (err error) {
	if r.header, err = parseHeader(r.data, int64(len(r.data))); err != nil {
		return err
	}
	r.sources = make([]Source, r.header.sources)
	for i := range r.sources {
		copy(r.sources[i][:], r.data[r.sourcesAt()+int64(i)*idLen:])
	}
	return nil
}

func (r *run) close() error { return unix.Munmap(r.data) }

// guard runs fn, which reads mapped pages. A page that cannot be read (a failing
// disk, a file cut short by someone else) becomes an error, where without it the
// whole process would end.
func guard(fn func() error) (err error) {
	old := debug.SetPanicOnFault(true)
	defer func() {
		debug.SetPanicOnFault(old)
		switch p := recover().(type) {
		case nil:
		case interface{ Addr() uintptr }: // only memory faults have an address
			err = fmt.Errorf("%w: page at %#x cannot be read", ErrDamaged, p.Addr())
		default:
			panic(p)
		}
	}()
	return fn()
}

// lookup notes in h where the block lies, if it does.
func (r *run) lookup(name *block.Name, h *hit) error {
	lo, end, err := r.bucketOf(name)
	if err != nil {
		return err
	}
	for hi := end; lo < hi; {
		if mid := (lo + hi) / 2; bytes.Compare(r.entry(mid)[:32], name[:]) < 0 {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	for ; lo < end && !h.good && [32]byte(r.entry(lo)[:32]) == *name; lo++ {
		rec := decodeRecord(r.entry(lo))
		loc, err := r.locate(&rec)
		if err != nil {
			return err
		}
		h.at(loc)
	}
	return nil
}

// bucketOf is the range of entries among which name must be.
func (r *run) bucketOf(name *block.Name) (lo, hi int, err error) {
	at := r.startsAt() + 4*int64(bucket(name[:], r.bits))
	lo = int(binary.LittleEndian.Uint32(r.data[at:]))
	hi = int(binary.LittleEndian.Uint32(r.data[at+4:]))
	if lo > hi || uint64(hi) > r.count {
		return 0, 0, fmt.Errorf("%w: bucket %d to %d of %d in %s", ErrDamaged, lo, hi, r.count, r.path)
	}
	return lo, hi, nil
}

func (r *run) entry(i int) []byte {
	at := headerLen + i*entryLen
	return r.data[at : at+entryLen]
}

func (r *run) locate(rec *record) (Location, error) {
	if rec.pack >= r.header.packs {
		return Location{}, fmt.Errorf("%w: pack %d of %d in %s", ErrDamaged, rec.pack, r.header.packs, r.path)
	}
	at := r.packsAt() + int64(rec.pack)*idLen
	return rec.location([32]byte(r.data[at : at+idLen])), nil
}

func (r *run) len() int        { return int(r.count) }
func (r *run) at(i int) record { return decodeRecord(r.entry(i)) }

func (r *run) packs() [][32]byte {
	ids := make([][32]byte, r.header.packs)
	for i := range ids {
		copy(ids[i][:], r.data[r.packsAt()+int64(i)*idLen:])
	}
	return ids
}
