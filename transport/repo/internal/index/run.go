package index

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"

	"github.com/lull-backup/lull/transport/block"
)

// run is one mapped file. Its methods other than close may run concurrently.
type run struct {
	*mapped
	path   string   // "" when the file has no name
	fences []uint32 // of the entry pages
}

// openRun maps the run at path. Of its pages it reads those that lead to all
// others; the others are checked when they are needed.
func openRun(path string) (*run, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return mapRun(f, path)
}

// mapRun maps f, which may be closed then.
func mapRun(f *os.File, path string) (*run, error) {
	m, err := mapFile(f)
	if err != nil {
		return nil, err
	}
	r := &run{mapped: m, path: path}
	if err := guard(r.readFences); err != nil {
		return nil, errors.Join(err, r.close())
	}
	return r, nil
}

func (r *run) readFences() error {
	r.willNeed(r.from[secFences], r.pages(secFences))
	r.fences = make([]uint32, 0, r.rows[secFences])
	s := scan{m: r.mapped, section: secFences}
	for {
		b, ok, err := s.row()
		if err != nil || !ok {
			return err
		}
		r.fences = append(r.fences, binary.LittleEndian.Uint32(b))
		if n := len(r.fences); n > 1 && r.fences[n-1] < r.fences[n-2] {
			return r.damaged("order of pages")
		}
	}
}

// mayHold is false when the block is surely not in the run.
func (r *run) mayHold(name *block.Name) bool {
	blocks := r.rows[secFilter]
	if blocks == 0 {
		return r.count > 0
	}
	at := r.from[secFilter]*pageLen + int64(filterAt(name, blocks))*filterBlock
	return filterHas(r.data[at:at+filterBlock], name)
}

// pageOf is the last entry page that name may be in; -1: none. Names are uniform,
// so a name's rank among all names tells nearly where it is.
func (r *run) pageOf(name *block.Name) int {
	key := binary.BigEndian.Uint32(name[:])
	n := len(r.fences)
	lo, hi := 0, n // the first fence beyond key is in [lo, hi]
	for at, step := int(uint64(key)*uint64(n)>>32), 8; lo < hi && at >= lo && at < hi; step *= 2 {
		if r.fences[at] <= key {
			lo, at = at+1, at+step
		} else {
			hi, at = at, at-step
		}
	}
	for lo < hi {
		if mid := (lo + hi) / 2; r.fences[mid] <= key {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo - 1
}

// lookup notes in h where the block lies, if it does.
func (r *run) lookup(name *block.Name, h *hit) error {
	key := binary.BigEndian.Uint32(name[:])
	for p := r.pageOf(name); p >= 0 && !h.good; p-- {
		if err := r.lookupIn(p, name, h); err != nil {
			return err
		}
		if r.fences[p] < key {
			break
		}
	}
	return nil
}

func (r *run) lookupIn(number int, name *block.Name, h *hit) error {
	p, err := r.entryPage(number)
	if err != nil {
		return err
	}
	first, found := p.find(name)
	for at := first; found && at < p.count && !h.good && bytes.Equal(p.rest(at), p.rest(first)); at++ {
		if err := h.at(r, p.place(at)); err != nil {
			return err
		}
	}
	return nil
}

// entryPage is a page of entries.
type entryPage struct {
	shared []byte // begin of all names
	rows   []byte
	stride int
	count  int
}

func (r *run) entryPage(number int) (entryPage, error) {
	b, err := r.page(r.from[secEntries] + int64(number))
	if err != nil {
		return entryPage{}, err
	}
	p := entryPage{count: int(binary.LittleEndian.Uint16(b))}
	n := int(b[2])
	if n > nameLen {
		return entryPage{}, r.damaged("page of names that share %d bytes", n)
	}
	p.shared, p.rows, p.stride = b[entryHead:entryHead+n], b[entryHead+n:], nameLen-n+placeLen
	if p.count == 0 || p.count*p.stride > len(p.rows) {
		return entryPage{}, r.damaged("page of %d entries", p.count)
	}
	return p, nil
}

func (p *entryPage) rest(i int) []byte { return p.rows[i*p.stride:][:p.stride-placeLen] }

func (p *entryPage) place(i int) place {
	return place(binary.LittleEndian.Uint64(p.rows[(i+1)*p.stride-placeLen:]))
}

// record writes entry i to rec.
func (p *entryPage) record(i int, rec *record) {
	copy(rec.name[:], p.shared)
	copy(rec.name[len(p.shared):], p.rest(i))
	rec.place = p.place(i)
}

func (r *run) locate(p place) (Location, error) {
	b, err := r.row(secSegments, p.segment())
	if err != nil {
		return Location{}, err
	}
	s := decodeSegment(b)
	k, err := r.pack(s.pack)
	if err != nil {
		return Location{}, err
	}
	return p.location(&s, &k), nil
}

func (r *run) pack(i uint32) (packID, error) {
	b, err := r.row(secPacks, i)
	if err != nil {
		return packID{}, err
	}
	k := packID{id: [32]byte(b)}
	b, err = r.row(secSigners, binary.LittleEndian.Uint32(b[32:]))
	if err != nil {
		return packID{}, err
	}
	k.signer = [32]byte(b)
	return k, nil
}
