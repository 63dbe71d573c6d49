package index

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"slices"

	"github.com/lull-backup/lull/transport/block"
)

const (
	runSuffix  = ".run3" // with the format's version: others are removed
	tempSuffix = ".tmp"
	lockName   = "lock"

	checkEvery = 1 << 12 // entries between two looks at the context
)

// plan is what a run is written from.
type plan struct {
	inputs   []input
	named    bool     // durable, with a name in the folder; else it ends with the mapping
	vanished []Source // ascending: what only they list is left out
}

// writeRun merges inputs into one run in the cache's folder.
func writeRun(ctx context.Context, c *cache, p plan) (_ *run, err error) {
	f, err := os.CreateTemp(c.dir, "*"+tempSuffix)
	if err != nil {
		return nil, fmt.Errorf("create index run: %w", err)
	}
	defer f.Close()
	temp := f.Name()
	defer func() {
		if temp != "" {
			err = errors.Join(err, os.Remove(temp))
		}
	}()
	w := &runWriter{plan: p, f: f}
	if err := guard(func() error { return w.write(ctx) }); err != nil {
		return nil, fmt.Errorf("write index run %s: %w", temp, err)
	}
	if !p.named {
		return mapRun(f, "")
	}
	path := filepath.Join(c.dir, rand.Text()+runSuffix)
	if err := errors.Join(c.sync(f), os.Rename(temp, path)); err != nil {
		return nil, fmt.Errorf("store index run: %w", err)
	}
	temp = ""
	if err := c.syncDir(); err != nil {
		return nil, fmt.Errorf("store index run: %w", err)
	}
	return mapRun(f, path)
}

// runWriter streams a run. Besides its buffers it holds 4 bytes for each row of
// the inputs' tables and each page.
type runWriter struct {
	plan
	f      *os.File
	h      header
	out    *bufio.Writer
	number int64 // of the page at hand
	page   []byte
	fences []uint32
}

func (w *runWriter) write(ctx context.Context) error {
	w.h.nonce = mathrand.Uint64() // tells runs apart, and keeps no secret
	w.page = make([]byte, 0, pageLen)
	if err := w.seek(1); err != nil {
		return err
	}
	segments, err := w.writeTables()
	if err != nil {
		return err
	}
	if err := w.writeEntries(ctx, segments); err != nil {
		return err
	}
	var b [4]byte
	for _, fence := range w.fences {
		binary.LittleEndian.PutUint32(b[:], fence)
		w.row(secFences, b[:])
	}
	if err := errors.Join(w.endTable(), w.out.Flush()); err != nil {
		return err
	}
	if err := w.f.Truncate(w.h.size()); err != nil { // the filter may end within a page
		return err
	}
	_, err = w.f.WriteAt(w.h.encode(), 0)
	return err
}

// seek goes on at another page.
func (w *runWriter) seek(page int64) error {
	w.number = page
	if w.out == nil {
		w.out = bufio.NewWriterSize(nil, 1<<18)
	} else if err := w.out.Flush(); err != nil {
		return err
	}
	_, err := w.f.Seek(page*pageLen, io.SeekStart)
	w.out.Reset(w.f)
	return err
}

// endPage completes the page at hand. bufio keeps the first error for Flush.
func (w *runWriter) endPage() {
	n := len(w.page)
	w.page = w.page[:pageLen]
	clear(w.page[n:])
	_, _ = w.out.Write(seal(w.page, w.h.nonce, w.number))
	w.page = w.page[:0]
	w.number++
}

// row appends a row to the table of a section.
func (w *runWriter) row(section int, b []byte) {
	if len(w.page)+len(b) > payload {
		w.endPage()
	}
	w.page = append(w.page, b...)
	w.h.rows[section]++
}

// endTable completes the last page of a table.
func (w *runWriter) endTable() error {
	if len(w.page) > 0 {
		w.endPage()
	}
	return nil
}

func (w *runWriter) isVanished(id Source) bool {
	_, is := slices.BinarySearchFunc(w.vanished, id, func(a, b Source) int { return compareSources(&a, &b) })
	return is
}

// writeEntries writes the filter and the entries beside each other.
func (w *runWriter) writeEntries(ctx context.Context, segments numbers) error {
	var most uint64
	cursors := make([]cursor[record], len(w.inputs))
	for i, in := range w.inputs {
		most += in.len()
		cursors[i] = kept(in.records(), func(_ int, r *record) (bool, error) {
			s, err := segments.of(i, r.place.segment())
			if s == none || err != nil {
				return false, err
			}
			r.place = r.place.in(s)
			return true, nil
		})
	}
	if most > maxEntries {
		return fmt.Errorf("%w: %d", ErrTooBig, most)
	}
	w.h.rows[secFilter] = filterBlocks(most)
	filter := newFilterWriter(io.NewOffsetWriter(w.f, w.number*pageLen), w.h.rows[secFilter])
	if err := w.seek(w.h.first(secEntries)); err != nil {
		return err
	}
	m, err := newMerger(cursors, compareRecords)
	if err != nil {
		return err
	}
	pages := pageBuilder{w: w}
	var last record
	for h := m.least(); h != nil; h = m.least() {
		if w.h.count == 0 || last.name != h.row.name || last.place.segment() != h.row.place.segment() {
			last = h.row
			filter.add(&last.name)
			pages.add(&last)
			if w.h.count++; w.h.count%checkEvery == 0 && ctx.Err() != nil {
				return ctx.Err()
			}
		}
		if err := m.advance(); err != nil {
			return err
		}
	}
	pages.end()
	return filter.end()
}

// pageBuilder gathers entries until a page is full.
type pageBuilder struct {
	w       *runWriter
	records []record
	shared  int
}

// sharedLen is how many bytes two names begin with alike.
func sharedLen(a, b *record) (n int) {
	for n < nameLen && a.name[n] == b.name[n] {
		n++
	}
	return n
}

func (p *pageBuilder) add(r *record) {
	shared := nameLen
	if len(p.records) > 0 {
		shared = sharedLen(&p.records[0], r)
	}
	if entryHead+shared+(len(p.records)+1)*(nameLen-shared+placeLen) > payload {
		p.end()
		shared = nameLen
	}
	p.records, p.shared = append(p.records, *r), shared
}

func (p *pageBuilder) end() {
	if len(p.records) == 0 {
		return
	}
	w := p.w
	first := &p.records[0].name
	w.fences = append(w.fences, binary.BigEndian.Uint32(first[:]))
	w.page = binary.LittleEndian.AppendUint16(w.page, uint16(len(p.records)))
	w.page = append(w.page, byte(p.shared))
	w.page = append(w.page, first[:p.shared]...)
	for i := range p.records {
		w.page = append(w.page, p.records[i].name[p.shared:]...)
		w.page = binary.LittleEndian.AppendUint64(w.page, uint64(p.records[i].place))
	}
	w.h.rows[secEntries]++
	w.endPage()
	p.records = p.records[:0]
}

// filterWriter writes the blocks of a filter in order.
type filterWriter struct {
	out    *bufio.Writer
	blocks uint64
	at     uint64
	block  [filterBlock]byte
}

func newFilterWriter(out io.Writer, blocks uint64) *filterWriter {
	return &filterWriter{out: bufio.NewWriterSize(out, 1<<16), blocks: blocks}
}

func (f *filterWriter) add(name *block.Name) {
	f.upTo(filterAt(name, f.blocks))
	filterSet(f.block[:], name)
}

func (f *filterWriter) upTo(block uint64) {
	for f.at < block {
		_, _ = f.out.Write(f.block[:])
		clear(f.block[:])
		f.at++
	}
}

func (f *filterWriter) end() error {
	f.upTo(f.blocks)
	return f.out.Flush()
}
