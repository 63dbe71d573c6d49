package record

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Writer appends records to the logs on several disks.
type Writer struct {
	files    []*os.File
	capacity uint64
	next     uint64
	boot     uint32
	buf      []byte
}

// Open continues the logs in dirs, and returns with the writer what Verify found
// before anything was written. The record under the pen, if any, is written
// anew on every disk that lacks it.
func Open(dirs []string, capacity int) (*Writer, Report, error) {
	found, err := Verify(dirs, capacity)
	if err != nil {
		return nil, Report{}, err
	}
	w := &Writer{capacity: uint64(capacity), next: found.Last() + 1, boot: 1, buf: make([]byte, RecordSize)}
	for _, l := range found.Logs {
		for _, b := range l.Boots {
			w.boot = max(w.boot, b.Boot+1)
		}
	}
	for _, dir := range dirs {
		f, err := os.OpenFile(filepath.Join(dir, FileName), os.O_RDWR|os.O_CREATE, 0o644)
		if err != nil {
			w.Close()
			return nil, Report{}, fmt.Errorf("open log: %w", err)
		}
		w.files = append(w.files, f)
	}
	return w, found, nil
}

// Append writes the next record on every disk, durable on each before the next,
// and returns its number.
func (w *Writer) Append(now time.Time) (uint64, error) {
	n := w.next
	Record{Number: n, Time: now, Boot: w.boot}.encode(w.buf)
	off := int64(slot(n, w.capacity)) * RecordSize
	for _, f := range w.files {
		if _, err := f.WriteAt(w.buf, off); err != nil {
			return 0, fmt.Errorf("write record: %w", err)
		}
		if err := unix.Fdatasync(int(f.Fd())); err != nil {
			return 0, fmt.Errorf("sync log %s: %w", f.Name(), err)
		}
	}
	w.next++
	return n, nil
}

// Run appends a record, tells acked its number, waits, and so on until ctx ends.
func (w *Writer) Run(ctx context.Context, pause time.Duration, acked func(uint64) error) error {
	tick := time.NewTicker(pause)
	defer tick.Stop()
	for {
		n, err := w.Append(time.Now())
		if err != nil {
			return err
		}
		if err := acked(n); err != nil {
			return fmt.Errorf("acknowledge record: %w", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// Close closes the logs.
func (w *Writer) Close() error {
	var first error
	for _, f := range w.files {
		if err := f.Close(); err != nil && first == nil {
			first = err
		}
	}
	return first
}
