package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"math/rand/v2"
	"os"
)

// dbPage is the page of PostgreSQL, whose layout the pages here follow: a header,
// line pointers upwards, rows downwards, room between them.
const (
	dbPage   = 8 << 10
	dbHeader = 24
	rowsOnce = 3 // rows that an update of a page changes
)

// database makes pages: a page's bytes depend on the seed, its number and how
// often it was updated, so that nothing needs to be kept.
type database struct {
	seed  uint64
	pages int64
}

// create writes the whole table.
func (d database) create(ctx context.Context, path string) (err error) {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = closing(f, err) }()
	w := bufio.NewWriterSize(f, 1<<20)
	m := d.maker()
	for n := range d.pages {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if _, err := w.Write(m.page(n, 0)); err != nil {
			return err
		}
	}
	return w.Flush()
}

// update rewrites the day's share of the pages in place.
func (d database) update(ctx context.Context, path string) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer func() { err = closing(f, err) }()
	m := d.maker()
	for _, n := range d.changed() {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if _, err := f.WriteAt(m.page(n, 1), n*dbPage); err != nil {
			return err
		}
	}
	return nil
}

// changed are the pages that a day rewrites, each once.
func (d database) changed() []int64 {
	r := rand.New(rand.NewPCG(d.seed, 0xda7))
	seen := map[int64]bool{}
	var pages []int64
	for int64(len(pages)) < int64(float64(d.pages)*rewrittenPages) {
		if n := r.Int64N(d.pages); !seen[n] {
			seen[n] = true
			pages = append(pages, n)
		}
	}
	return pages
}

// writeWAL fills the log's segments anew, in place: records of changed rows, and
// the whole image of a page that changes for the first time since a checkpoint.
// Neither starts at a page border.
func (d database) writeWAL(ctx context.Context, path string, day uint64) (err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer func() { err = closing(f, err) }()
	w := bufio.NewWriterSize(f, 1<<20)
	m, r, changed := d.maker(), rand.New(rand.NewPCG(d.seed, 0x3a1+day)), d.changed()
	for left, i := int(float64(d.pages*dbPage)*walShare), 0; left > 0; i++ {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		record := m.page(changed[i%len(changed)], day)
		if i >= len(changed) {
			record = record[dbHeader : dbHeader+64+r.IntN(400)]
		}
		record = record[:min(len(record)-r.IntN(24), left)]
		if _, err := w.Write(record); err != nil {
			return err
		}
		left -= len(record)
	}
	return w.Flush()
}

// pageMaker builds one page at a time.
type pageMaker struct {
	seed  uint64
	words vocabulary
	buf   [dbPage]byte
	row   []byte
}

func (d database) maker() *pageMaker {
	return &pageMaker{seed: d.seed, words: newVocabulary(rand.New(rand.NewPCG(d.seed, 0x30d5)))}
}

// page returns a page after some updates; it is overwritten by the next call.
func (m *pageMaker) page(n int64, updates uint64) []byte {
	clear(m.buf[:])
	pick := rand.New(rand.NewPCG(m.seed+updates, uint64(n)))
	newer := map[int]bool{}
	for range rowsOnce {
		newer[pick.IntN(36)] = updates > 0
	}
	lower, upper := dbHeader, dbPage
	for i := 0; ; i++ {
		version := uint64(0)
		if newer[i] {
			version = updates
		}
		row := m.makeRow(n, i, version)
		if upper-len(row) < lower+4 {
			break
		}
		upper -= len(row)
		copy(m.buf[upper:], row)
		binary.LittleEndian.PutUint32(m.buf[lower:], uint32(upper)|1<<15|uint32(len(row))<<17)
		lower += 4
	}
	binary.LittleEndian.PutUint64(m.buf[:], uint64(n)*977+updates<<40) // where the log was
	binary.LittleEndian.PutUint16(m.buf[12:], uint16(lower))
	binary.LittleEndian.PutUint16(m.buf[14:], uint16(upper))
	binary.LittleEndian.PutUint16(m.buf[16:], dbPage)
	binary.LittleEndian.PutUint16(m.buf[18:], dbPage|4)
	return m.buf[:]
}

// makeRow is a customer's order: numbers that count up, random identities,
// amounts, and words.
func (m *pageMaker) makeRow(page int64, i int, version uint64) []byte {
	r := rand.New(rand.NewPCG(m.seed^version<<32, uint64(page)<<8|uint64(i)))
	row := m.row[:0]
	row = binary.LittleEndian.AppendUint32(row, uint32(700+page/64)) // who made it
	row = binary.LittleEndian.AppendUint32(row, uint32(version))
	row = append(row, 0, 0, 0, 0, byte(page), byte(page>>8), byte(page>>16), 0, byte(i), 0, 12, 0, 2, 9, 24, 0)
	row = binary.LittleEndian.AppendUint64(row, uint64(page)*40+uint64(i))
	row = binary.LittleEndian.AppendUint64(row, 800_000_000_000_000+uint64(page)*9_000_000+r.Uint64N(5_000_000))
	row = binary.LittleEndian.AppendUint64(row, r.Uint64())
	row = binary.LittleEndian.AppendUint64(row, r.Uint64())
	row = binary.LittleEndian.AppendUint32(row, r.Uint32N(2_000_000))
	row = binary.LittleEndian.AppendUint32(row, r.Uint32N(50_000))
	for range 8 + r.IntN(16) {
		row = append(append(row, m.words.from(r)...), ' ')
	}
	for len(row)%8 != 0 {
		row = append(row, 0)
	}
	m.row = row
	return row
}

// vocabulary is words as often as they are in a language: a few all the time.
type vocabulary struct {
	words []string
	zipf  *rand.Zipf
}

func newVocabulary(r *rand.Rand) vocabulary {
	syllables := []string{"an", "ber", "co", "dal", "en", "fi", "gor", "ha", "il", "ka", "lo", "mi", "nor", "os", "pe", "ra", "su", "ta", "ul", "vin"}
	words := make([]string, 8000)
	for i := range words {
		for range 1 + r.IntN(4) {
			words[i] += syllables[r.IntN(len(syllables))]
		}
	}
	return vocabulary{words, rand.NewZipf(r, 1.1, 8, uint64(len(words)-1))}
}

// pick draws from the vocabulary's own source.
func (v vocabulary) pick() string { return v.words[v.zipf.Uint64()] }

// from draws from another source, uniformly among words as frequent as that.
func (v vocabulary) from(r *rand.Rand) string {
	u := r.Float64()
	return v.words[int(u*u*u*float64(len(v.words)))]
}
