package transport

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/transport/block"
	"github.com/lull-backup/lull/transport/repo"
)

// span is how much of a disk is asked for its extents at a time: large enough to
// make the question rare, small enough to bound the answer in memory.
const span = 256 * block.WindowSize

// bridged is the longest hole that is read along with the data around it: one
// read of a few pages more costs less than a second read.
const bridged = 64 << 10

// Options tune a transfer. The zero value is right for one transfer alone.
type Options struct {
	// Workers is how many carry data at a time; 0: one more than there are
	// processors, as far as memory allows.
	Workers int
	// Progress hears how many bytes of the disk, holes included, were dealt
	// with since the last call. It is called from the workers, must not block,
	// and may be nil.
	Progress func(bytes int64)
	// Changes is what may have changed on the disk of a Backup since its parent. The
	// rest is kept as it is there, and only a sample of it is read. nil: all is read.
	Changes *snapshot.ChangeSet
	// Audit reads all of the disk, and compares what Changes says with the parent.
	Audit bool
}

// Workers at most when the caller does not say: of a backup each takes about 10 MiB,
// of a restore 32 MiB, and a run is to stay below 256.
const (
	backupWorkers  = 9
	restoreWorkers = 5
)

func (o Options) workers(most int) int {
	if o.Workers > 0 {
		return o.Workers
	}
	return min(runtime.GOMAXPROCS(0)+1, most)
}

func (o Options) progress(n int64) {
	if o.Progress != nil {
		o.Progress(n)
	}
}

// Stored is a disk that is in the session.
type Stored struct {
	Root repo.Root
	Read int64 // bytes read from the source
	// Inherited: there was a parent, without which Changes says nothing.
	Inherited bool
	// Untrue is how many bytes of the disk differ from the parent although Changes
	// says otherwise, as far as was looked, and where the first of them are found, by
	// windows. The disk was read in full then: what is stored is right.
	Untrue, UntrueAt int64
}

// Backup brings the whole of src into the session. parent is the disk's map in
// the restore point before, or nil; what is equal to it at the same place needs
// no look-up, and with Options.Changes no reading either.
func Backup(ctx context.Context, s *repo.Session, src snapshot.Source, parent *repo.Root, o Options) (Stored, error) {
	stream, err := s.Stream(ctx, src.Size(), parent)
	if err != nil {
		return Stored{}, err
	}
	b := &backup{src: src, stream: stream, opts: o, windows: make(chan window)}
	if stream.Inherits() && parent.Size == src.Size() && o.Changes != nil && o.Changes.Size() == src.Size() {
		b.changes, b.audit = o.Changes, o.Audit
		if err := b.sample(ctx); err != nil {
			return Stored{}, err
		}
	}
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer close(b.windows)
		return b.plan(gctx)
	})
	for range o.workers(backupWorkers) {
		g.Go(func() error { return b.work(gctx) })
	}
	if err := g.Wait(); err != nil {
		return Stored{}, err
	}
	root, err := stream.Finish(ctx)
	if err != nil {
		return Stored{}, err
	}
	stored := Stored{Root: root, Read: b.read.Load(), Inherited: stream.Inherits(), Untrue: b.untrue.bytes, UntrueAt: b.untrue.at}
	return stored, nil
}

// backup is one disk on its way into a session.
type backup struct {
	src     snapshot.Source
	stream  *repo.Stream
	opts    Options
	windows chan window
	read    atomic.Int64

	changes *snapshot.ChangeSet // nil: not known
	audit   bool                // compare what changes says is as in the parent
	taken   map[int64]bool      // windows that were samples
	untrue  untrue
}

// window is one window that holds data: where, and its extents.
type window struct {
	index   int64
	length  int64
	extents []snapshot.Extent // data only, in order
}

// plan goes over the disk, or over what has changed of it.
func (b *backup) plan(ctx context.Context) error {
	if b.changes != nil && !b.audit {
		return b.planChanged(ctx)
	}
	return b.planRange(ctx, 0, b.src.Size())
}

// planRange walks over a part of the disk, reports windows of zeros by themselves and
// hands every other to a worker.
func (b *backup) planRange(ctx context.Context, from, to int64) error {
	for off := from; off < to; off += span {
		length := min(span, to-off)
		extents, err := b.src.Extents(ctx, off, length)
		if err != nil {
			return fmt.Errorf("list extents at %d: %w", off, err)
		}
		if err := tile(extents, off, length); err != nil {
			return err
		}
		if err := b.planSpan(ctx, off, length, extents); err != nil {
			return err
		}
	}
	return nil
}

var errExtents = errors.New("source does not tell all that it holds")

// tile fails unless extents cover a range exactly: a gap would be taken for zeros,
// and the guest's data would be lost without a word.
func tile(extents []snapshot.Extent, off, length int64) error {
	at := off
	for _, e := range extents {
		if e.Offset != at || e.Length <= 0 || e.Length > off+length-at {
			return fmt.Errorf("%w: extent of %d bytes at %d, want one at %d", errExtents, e.Length, e.Offset, at)
		}
		at += e.Length
	}
	if at != off+length {
		return fmt.Errorf("%w: extents end at %d, want %d", errExtents, at, off+length)
	}
	return nil
}

func (b *backup) planSpan(ctx context.Context, off, length int64, extents []snapshot.Extent) error {
	zeroFrom, zeros := int64(0), int64(0)
	flush := func() error {
		if zeros == 0 {
			return nil
		}
		first, count := zeroFrom, zeros
		zeros = 0
		if err := b.auditZeros(ctx, first, count); err != nil {
			return err
		}
		if err := b.stream.Zero(first, count); err != nil {
			return err
		}
		b.opts.progress(min(count*block.WindowSize, b.src.Size()-first*block.WindowSize))
		return nil
	}
	for at := off; at < off+length; at += block.WindowSize {
		w := window{index: at / block.WindowSize, length: min(block.WindowSize, b.src.Size()-at)}
		w.extents, extents = data(extents, at, at+w.length)
		if b.taken[w.index] {
			if err := flush(); err != nil {
				return err
			}
			continue
		}
		if len(w.extents) == 0 {
			if zeros == 0 {
				zeroFrom = w.index
			}
			zeros++
			continue
		}
		if err := flush(); err != nil {
			return err
		}
		select {
		case b.windows <- w:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return flush()
}

// data takes from the front of extents what lies before end, and returns the
// data of [from, end), bridged over short holes, and the extents still to come.
func data(extents []snapshot.Extent, from, end int64) (within, rest []snapshot.Extent) {
	for len(extents) > 0 && extents[0].Offset < end {
		e := extents[0]
		lo, hi := max(e.Offset, from), min(e.Offset+e.Length, end)
		if !e.Zero && lo < hi {
			if n := len(within); n > 0 && lo-(within[n-1].Offset+within[n-1].Length) <= bridged {
				within[n-1].Length = hi - within[n-1].Offset
			} else {
				within = append(within, snapshot.Extent{Offset: lo, Length: hi - lo})
			}
		}
		if e.Offset+e.Length > end {
			break // goes on in the next window
		}
		extents = extents[1:]
	}
	return within, extents
}

// work carries windows from the source into the stream until there are no more.
func (b *backup) work(ctx context.Context) error {
	buf := make([]byte, block.WindowSize)
	for {
		select {
		case w, ok := <-b.windows:
			if !ok {
				return nil
			}
			if err := b.carry(ctx, w, buf[:w.length]); err != nil {
				return err
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (b *backup) carry(ctx context.Context, w window, buf []byte) error {
	start := w.index * block.WindowSize
	clean := int64(0) // buf[:clean] is filled
	for _, e := range w.extents {
		lo, hi := e.Offset-start, e.Offset-start+e.Length
		clear(buf[clean:lo])
		if err := b.src.ReadAt(ctx, buf[lo:hi], e.Offset); err != nil {
			return fmt.Errorf("read %d bytes at %d: %w", e.Length, e.Offset, err)
		}
		b.read.Add(e.Length)
		clean = hi
	}
	clear(buf[clean:])
	if err := b.put(ctx, w.index, buf); err != nil {
		return err
	}
	b.opts.progress(w.length)
	return nil
}

func (b *backup) put(ctx context.Context, window int64, data []byte) error {
	if !b.audit {
		return b.stream.Put(ctx, window, data)
	}
	same, err := b.stream.PutCompared(ctx, window, data)
	if err == nil && !same {
		b.differs(window)
	}
	return err
}
