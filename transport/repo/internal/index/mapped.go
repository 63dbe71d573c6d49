package index

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// mapped is a run file in the process's memory, read page by page. What reads it
// runs inside guard.
type mapped struct {
	header
	name string // for messages
	data []byte
	from [sections]int64 // first page of each section
	// seen is one more than the page that row has checked last, section by section: neighbours
	// of a stream were stored together, and ask for the same rows over and over.
	seen [sections]atomic.Int64
}

// mapFile maps f, which may be closed then, and checks its header.
func mapFile(f *os.File) (*mapped, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Size() < pageLen || int64(int(info.Size())) != info.Size() {
		return nil, fmt.Errorf("%w: %d bytes", ErrDamaged, info.Size())
	}
	data, err := unix.Mmap(int(f.Fd()), 0, int(info.Size()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map %s: %w", f.Name(), err)
	}
	m := &mapped{name: f.Name(), data: data}
	err = guard(func() (err error) {
		m.header, err = parseHeader(data, info.Size())
		return err
	})
	if err != nil {
		return nil, errors.Join(err, m.close())
	}
	for s := range m.from {
		m.from[s] = m.first(s)
	}
	// Look-ups land anywhere: reading ahead of them only costs memory. A kernel
	// that knows no advice is as right, and slower.
	_ = unix.Madvise(data, unix.MADV_RANDOM)
	return m, nil
}

func (m *mapped) close() error { return unix.Munmap(m.data) }

// page is the payload of a page whose checksum is right. It is checked whenever it
// is asked for, because the kernel may have read it anew in between.
func (m *mapped) page(number int64) ([]byte, error) {
	b := m.data[number*pageLen:][:pageLen]
	if !sealed(b, m.nonce, number) {
		return nil, m.damaged("checksum of page %d", number)
	}
	return b[:payload], nil
}

// row is one row of a table. Its page is checked unless it is the one that was asked for last.
func (m *mapped) row(section int, i uint32) ([]byte, error) {
	if uint64(i) >= m.rows[section] {
		return nil, m.damaged("row %d of %d", i, m.rows[section])
	}
	n := rowLen(section)
	per := uint32(payload / n)
	number := m.from[section] + int64(i/per)
	if m.seen[section].Load() == number+1 {
		return m.data[number*pageLen:][int(i%per)*n:][:n], nil
	}
	page, err := m.page(number)
	if err != nil {
		return nil, err
	}
	m.seen[section].Store(number + 1)
	return page[int(i%per)*n:][:n], nil
}

// askPages is what the kernel is asked for at once: it begins to read no more of a
// longer range than the disk's read-ahead.
const askPages = 32

// willNeed asks the kernel to begin reading pages that will be asked for soon.
func (m *mapped) willNeed(page, count int64) {
	for end := page + count; page < end; page += askPages {
		_ = unix.Madvise(m.data[page*pageLen:min(page+askPages, end)*pageLen], unix.MADV_WILLNEED)
	}
}

// forget lets the pages of a section go from this process; they are read again
// when they are asked for.
func (m *mapped) forget(page, count int64) {
	_ = unix.Madvise(m.data[page*pageLen:][:count*pageLen], unix.MADV_DONTNEED)
}

// scan reads the rows of a table one after the other, each page checked once.
type scan struct {
	m       *mapped
	section int
	next    uint32
	page    []byte
}

func (s *scan) row() ([]byte, bool, error) {
	if uint64(s.next) >= s.m.rows[s.section] {
		return nil, false, nil
	}
	n := rowLen(s.section)
	per := uint32(payload / n)
	if s.next%per == 0 {
		page, err := s.m.page(s.m.from[s.section] + int64(s.next/per))
		if err != nil {
			return nil, false, err
		}
		s.page = page
	}
	at := int(s.next%per) * n
	s.next++
	return s.page[at : at+n], true, nil
}

func decodeSegment(b []byte) segment {
	return segment{binary.LittleEndian.Uint32(b), binary.LittleEndian.Uint32(b[4:]), binary.LittleEndian.Uint32(b[8:])}
}
