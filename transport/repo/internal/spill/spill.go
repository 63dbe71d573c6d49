package spill

import (
	"bufio"
	"bytes"
	"container/heap"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"sort"
)

const (
	// bufferSize bounds the records in memory, in bytes.
	bufferSize = 32 << 20
	// fanIn runs at most are merged at a time, each read through readSize bytes.
	fanIn    = 64
	readSize = 256 << 10
)

// Set is records on their way to be sorted. It is not safe for concurrent use.
type Set struct {
	dir    string
	record int
	limit  int
	buf    []byte
	levels [][]*os.File // runs that were merged so often
}

// New makes an empty set of records of size bytes, with its files in dir; "" is the
// folder for temporary files.
func New(dir string, size int) (*Set, error) {
	if size < 1 || size > readSize {
		return nil, fmt.Errorf("sort records: %d bytes each", size)
	}
	return &Set{dir: dir, record: size, limit: bufferSize / size * size}, nil
}

// Add puts in one record.
func (s *Set) Add(record []byte) error {
	if len(record) != s.record {
		return fmt.Errorf("sort records: %d bytes, want %d", len(record), s.record)
	}
	if s.buf = append(s.buf, record...); len(s.buf) < s.limit {
		return nil
	}
	return s.spill()
}

// spill writes the records in memory out as a run.
func (s *Set) spill() error {
	sort.Sort(&records{s.buf, s.record, make([]byte, s.record)})
	f, err := s.write(func(w *bufio.Writer) error {
		_, err := w.Write(s.buf)
		return err
	})
	if err != nil {
		return err
	}
	s.buf = s.buf[:0]
	return s.push(0, f)
}

// push takes in a run of a level, and merges the level when it is full.
func (s *Set) push(level int, f *os.File) error {
	for len(s.levels) <= level {
		s.levels = append(s.levels, nil)
	}
	s.levels[level] = append(s.levels[level], f)
	if len(s.levels[level]) < fanIn {
		return nil
	}
	merged, err := s.write(func(w *bufio.Writer) error {
		for rec, err := range s.merge(s.levels[level], nil) {
			if err != nil {
				return err
			}
			if _, err := w.Write(rec); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	err = closeAll(s.levels[level])
	s.levels[level] = nil
	return errors.Join(err, s.push(level+1, merged))
}

// write fills a file without a name.
func (s *Set) write(fill func(*bufio.Writer) error) (*os.File, error) {
	f, err := os.CreateTemp(s.dir, "lull-sort-*")
	if err != nil {
		return nil, fmt.Errorf("sort records: %w", err)
	}
	w := bufio.NewWriterSize(f, readSize)
	if err := errors.Join(os.Remove(f.Name()), fill(w), w.Flush()); err != nil {
		return nil, fmt.Errorf("sort records: %w", errors.Join(err, f.Close()))
	}
	return f, nil
}

// Sorted yields all records in ascending order. Each is valid until the next one; an
// error is the last thing that comes. Nothing may be added meanwhile.
func (s *Set) Sorted() iter.Seq2[[]byte, error] {
	sort.Sort(&records{s.buf, s.record, make([]byte, s.record)})
	var all []*os.File
	for _, l := range s.levels {
		all = append(all, l...)
	}
	return s.merge(all, s.buf)
}

func (s *Set) merge(runs []*os.File, memory []byte) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		var h heads
		for _, f := range runs {
			info, err := f.Stat()
			if err != nil {
				yield(nil, fmt.Errorf("sort records: %w", err))
				return
			}
			h = append(h, &head{r: bufio.NewReaderSize(io.NewSectionReader(f, 0, info.Size()), readSize)})
		}
		h = append(h, &head{r: bytes.NewReader(memory)})
		for _, one := range h {
			one.record = make([]byte, s.record)
			one.next()
		}
		h = h.live()
		heap.Init(&h)
		for len(h) > 0 {
			if err := h[0].err; err != nil {
				yield(nil, fmt.Errorf("sort records: %w", err))
				return
			}
			if !yield(h[0].record, nil) {
				return
			}
			if h[0].next(); h[0].done {
				heap.Pop(&h)
			} else {
				heap.Fix(&h, 0)
			}
		}
	}
}

// Close lets the files go.
func (s *Set) Close() error {
	var errs []error
	for _, l := range s.levels {
		errs = append(errs, closeAll(l))
	}
	s.levels, s.buf = nil, nil
	return errors.Join(errs...)
}

func closeAll(files []*os.File) error {
	var errs []error
	for _, f := range files {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}

// head is the first record of a run that is left.
type head struct {
	r      io.Reader
	record []byte
	done   bool
	err    error
}

func (h *head) next() {
	switch _, err := io.ReadFull(h.r, h.record); err {
	case nil:
	case io.EOF:
		h.done = true
	default:
		h.err = err
	}
}

// heads is a heap: an error comes first, then the least record.
type heads []*head

func (h heads) live() (left heads) {
	for _, one := range h {
		if !one.done {
			left = append(left, one)
		}
	}
	return left
}

func (h heads) Len() int { return len(h) }
func (h heads) Less(i, j int) bool {
	if h[i].err != nil || h[j].err != nil {
		return h[i].err != nil
	}
	return bytes.Compare(h[i].record, h[j].record) < 0
}
func (h heads) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *heads) Push(x any)   { *h = append(*h, x.(*head)) }
func (h *heads) Pop() any {
	old := *h
	last := old[len(old)-1]
	*h = old[:len(old)-1]
	return last
}

// records sorts a buffer in place.
type records struct {
	b    []byte
	size int
	swap []byte
}

func (r *records) at(i int) []byte    { return r.b[i*r.size:][:r.size] }
func (r *records) Len() int           { return len(r.b) / r.size }
func (r *records) Less(i, j int) bool { return bytes.Compare(r.at(i), r.at(j)) < 0 }
func (r *records) Swap(i, j int) {
	copy(r.swap, r.at(i))
	copy(r.at(i), r.at(j))
	copy(r.at(j), r.swap)
}
