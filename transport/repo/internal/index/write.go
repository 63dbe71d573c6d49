package index

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/zeebo/blake3"
)

const (
	runSuffix  = ".run1" // with the format's version: others are not looked at
	tempSuffix = ".tmp"
	lockName   = "lock"
)

// writeRun merges inputs into one run in dir. With sources it gets a name and is
// durable; without, its file has no name and ends with the mapping.
func writeRun(ctx context.Context, dir string, inputs []sorted, sources []Source) (_ *run, err error) {
	f, err := os.CreateTemp(dir, "*"+tempSuffix)
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
	if err := fill(ctx, f, inputs, sources); err != nil {
		return nil, fmt.Errorf("write index run %s: %w", temp, err)
	}
	if sources == nil {
		return mapRun(f, "")
	}
	path := filepath.Join(dir, rand.Text()+runSuffix)
	if err := errors.Join(f.Sync(), os.Rename(temp, path)); err != nil {
		return nil, fmt.Errorf("store index run: %w", err)
	}
	temp = ""
	if err := syncDir(dir); err != nil {
		return nil, fmt.Errorf("store index run: %w", err)
	}
	return mapRun(f, path)
}

func fill(ctx context.Context, f *os.File, inputs []sorted, sources []Source) error {
	sum := blake3.New()
	w := &runWriter{out: bufio.NewWriterSize(io.MultiWriter(f, sum), 1<<18)}
	if _, err := f.Seek(headerLen, io.SeekStart); err != nil {
		return err
	}
	if err := w.entries(ctx, inputs); err != nil {
		return err
	}
	if err := w.tail(sources); err != nil {
		return err
	}
	sum.Sum(w.h.body[:0])
	_, err := f.WriteAt(w.h.encode(), 0)
	return err
}

// runWriter streams the body of a run. Besides its buffer it holds the starts of
// the buckets and the pack IDs.
type runWriter struct {
	out    *bufio.Writer
	h      header
	starts []uint32
	packs  table // only its pack numbering
}

func (w *runWriter) entries(ctx context.Context, inputs []sorted) error {
	var most uint64
	for _, in := range inputs {
		most += uint64(in.len())
	}
	if most > maxEntries {
		return fmt.Errorf("%w: %d", ErrTooBig, most)
	}
	w.h.bits = bitsFor(most)
	w.starts = make([]uint32, 0, 1<<w.h.bits+1)
	m, err := newMerger(inputs, w.renumber(inputs))
	if err != nil {
		return err
	}
	for {
		rec, ok, err := m.next()
		if err != nil || !ok {
			return err
		}
		if err := w.entry(&rec); err != nil {
			return err
		}
		if w.h.count%chunkLen == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

// renumber gives the packs of all inputs common numbers.
func (w *runWriter) renumber(inputs []sorted) [][]uint32 {
	w.packs.packNum = map[[32]byte]uint32{}
	all := make([][]uint32, len(inputs))
	for i, in := range inputs {
		for _, id := range in.packs() {
			all[i] = append(all[i], w.packs.pack(id))
		}
	}
	return all
}

func (w *runWriter) entry(rec *record) error {
	for b := bucket(rec.name[:], w.h.bits); uint32(len(w.starts)) <= b; {
		w.starts = append(w.starts, uint32(w.h.count))
	}
	w.h.count++
	var b [entryLen]byte
	encodeRecord(b[:], rec)
	_, err := w.out.Write(b[:])
	return err
}

// tail writes what follows the entries. bufio keeps the first error for Flush.
func (w *runWriter) tail(sources []Source) error {
	for len(w.starts) < 1<<w.h.bits+1 {
		w.starts = append(w.starts, uint32(w.h.count))
	}
	var b [4]byte
	for _, s := range w.starts {
		binary.LittleEndian.PutUint32(b[:], s)
		_, _ = w.out.Write(b[:])
	}
	for _, id := range w.packs.packIDs {
		_, _ = w.out.Write(id[:])
	}
	for _, id := range sources {
		_, _ = w.out.Write(id[:])
	}
	w.h.packs, w.h.sources = uint32(len(w.packs.packIDs)), uint32(len(sources))
	return w.out.Flush()
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
