package plugins

import (
	"errors"
	"io"
	"os"
	"sync"
	"time"
)

// A plugin may write this much to its outputs, in bytes.
const (
	floodBurst = 8 << 20
	floodRate  = 1 << 20 // a second
)

// flood measures what a plugin writes and calls over, once, when it is too much.
type flood struct {
	over func()

	mu     sync.Mutex
	level  float64
	filled time.Time
	once   sync.Once
}

func newFlood(over func()) *flood { return &flood{over: over, filled: time.Now()} }

func (f *flood) add(n int) {
	f.mu.Lock()
	now := time.Now()
	f.level = max(0, f.level-floodRate*now.Sub(f.filled).Seconds()) + float64(n)
	f.filled = now
	over := f.level > floodBurst
	f.mu.Unlock()
	if over {
		f.once.Do(f.over)
	}
}

// floodReader counts what is read, and ends where the reading was ended.
type floodReader struct {
	r     *os.File
	flood *flood
}

func (r *floodReader) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	r.flood.add(n)
	if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, os.ErrClosed) {
		err = io.EOF
	}
	return n, err
}

// floodWriter counts what is written.
type floodWriter struct {
	w     io.Writer
	flood *flood
}

func (w *floodWriter) Write(p []byte) (int, error) {
	w.flood.add(len(p))
	return w.w.Write(p)
}
