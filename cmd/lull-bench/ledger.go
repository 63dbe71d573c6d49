package main

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/zeebo/blake3"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/lull-backup/lull/transport/block"
)

// ledger knows which blocks a store holds, and counts what listing them takes.
type ledger struct {
	press   *press
	hash    *blake3.Hasher
	known   map[[16]byte]struct{}
	leaves  map[[16]byte]struct{}
	names   [][16]byte
	ends    [][2]int
	leaf    []byte
	segment []byte               // new blocks
	before  []byte               // the segment before
	pages   map[where][][16]byte // of each VM's newest image, where the scheme asks for them
	index   int64
	maps    int64
}

func newLedger(p *press) *ledger {
	return &ledger{press: p, hash: blake3.New(), known: map[[16]byte]struct{}{}, leaves: map[[16]byte]struct{}{}, pages: map[where][][16]byte{}}
}

// where is the place of a window.
type where struct {
	vm string
	at int64
}

// window cuts and names one window, and keeps what is new. It returns the processor
// seconds that cutting and naming took.
func (l *ledger) window(ctx context.Context, s scheme, at where, data []byte) (float64, error) {
	start := threadSeconds()
	l.cut(s.cutter, data)
	took := threadSeconds() - start
	if len(l.names) == 0 {
		return took, nil
	}
	l.addLeaf(s, at, data)
	for i, name := range l.names {
		if _, ok := l.known[name]; ok {
			continue
		}
		l.known[name] = struct{}{}
		l.index += listed
		if err := l.add(ctx, s, data[l.ends[i][0]:l.ends[i][1]]); err != nil {
			return 0, err
		}
	}
	return took, nil
}

// addLeaf counts the window's leaf, if it is new. Where only changed pages are to
// be kept, it leaves their blocks alone in the ledger.
func (l *ledger) addLeaf(s scheme, at where, data []byte) {
	l.leaf = l.leaf[:0]
	for i, name := range l.names {
		l.leaf = append(append(l.leaf, name[:]...), byte(l.ends[i][0]>>12), byte(l.ends[i][0]>>20))
	}
	entries := len(l.names)
	if s.pages && l.maskKnown(at, data) {
		l.cut(s.cutter, data)
		entries += 2 * len(l.names) // each splits a range that was one
	}
	name := l.name(l.leaf)
	if _, ok := l.leaves[name]; ok {
		return
	}
	l.leaves[name] = struct{}{}
	l.maps += int64(leafHeader+mapped*entries+upper) + listed
}

// maskKnown puts zeros where a page is what it was in the VM's image before, and
// reports whether there was one.
func (l *ledger) maskKnown(at where, data []byte) bool {
	before := l.pages[at]
	now := make([][16]byte, 0, len(data)/block.PageSize+1)
	for off := 0; off < len(data); off += block.PageSize {
		page := data[off:min(off+block.PageSize, len(data))]
		name := l.name(page)
		if n := len(now); n < len(before) && before[n] == name {
			clear(page)
		}
		now = append(now, name)
	}
	l.pages[at] = now
	return before != nil
}

func (l *ledger) cut(c cutter, data []byte) {
	l.names, l.ends = l.names[:0], l.ends[:0]
	for at := 0; ; {
		start, end := c.next(data, at)
		if start == end {
			return
		}
		l.names = append(l.names, l.name(data[start:end]))
		l.ends = append(l.ends, [2]int{start, end})
		at = end
	}
}

func (l *ledger) name(data []byte) (name [16]byte) {
	l.hash.Reset()
	l.hash.Write(data)
	var sum [32]byte
	copy(name[:], l.hash.Sum(sum[:0]))
	return name
}

func (l *ledger) add(ctx context.Context, s scheme, data []byte) error {
	if len(l.segment)+len(data) > s.segment {
		if err := l.flush(ctx); err != nil {
			return err
		}
	}
	if l.segment == nil {
		l.segment = make([]byte, 0, s.segment)
	}
	l.segment = append(l.segment, data...)
	return nil
}

// flush sends the segment to be compressed.
func (l *ledger) flush(ctx context.Context) error {
	if len(l.segment) == 0 {
		return nil
	}
	err := l.press.send(ctx, squeeze{l.segment, l.before})
	l.before, l.segment = l.segment, nil
	return err
}

// squeeze is a segment to compress, and the one before it, which stays as it is.
type squeeze struct{ segment, before []byte }

// press compresses segments on every processor and adds their lengths up.
type press struct {
	jobs    chan squeeze
	pending sync.WaitGroup
	workers *errgroup.Group
	bytes   atomic.Int64
	micros  atomic.Int64
}

func startPress(s scheme) (*press, error) {
	p := &press{jobs: make(chan squeeze)}
	p.workers = &errgroup.Group{}
	for range runtime.GOMAXPROCS(0) {
		c, err := newCodec(s.codec, s.segment)
		if err != nil {
			close(p.jobs)
			return nil, err
		}
		p.workers.Go(func() error { return p.work(c) })
	}
	return p, nil
}

func (p *press) work(c codec) (err error) {
	runtime.LockOSThread() // whose processor time is counted
	defer runtime.UnlockOSThread()
	for job := range p.jobs {
		if err == nil {
			start := threadSeconds()
			var n int
			n, err = c.size(job.segment, job.before)
			p.bytes.Add(int64(n + sealed))
			p.micros.Add(int64((threadSeconds() - start) * 1e6))
		}
		p.pending.Done()
	}
	return err
}

func (p *press) send(ctx context.Context, job squeeze) error {
	p.pending.Add(1)
	select {
	case p.jobs <- job:
		return nil
	case <-ctx.Done():
		p.pending.Done()
		return fmt.Errorf("compress: %w", context.Cause(ctx))
	}
}

// drain waits for what was sent and returns the bytes so far.
func (p *press) drain() int64 {
	p.pending.Wait()
	return p.bytes.Load()
}

func (p *press) seconds() float64 { return float64(p.micros.Load()) / 1e6 }

func (p *press) stop() error {
	close(p.jobs)
	return p.workers.Wait()
}

// threadSeconds is the processor time of the calling thread.
func threadSeconds() float64 {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t); err != nil {
		return 0
	}
	return float64(t.Nano()) / 1e9
}
