package transport

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"

	"github.com/lull-backup/lull/transport/block"
)

// samples is how many windows are read though they are said to be unchanged. The
// first is the highest that holds data: a disk that was shrunk and grown again has
// lost that one, and QEMU's record of it too. The others are drawn by lot.
const samples = 4

// untrue is what was said to be unchanged and is not.
type untrue struct {
	mu        sync.Mutex
	bytes, at int64
}

// changed tells whether a window may have changed since the parent.
func (b *backup) changed(window int64) bool {
	return b.changes.Any(window*block.WindowSize, block.WindowSize)
}

// differs notes a window that is not as in the parent.
func (b *backup) differs(window int64) {
	if b.changed(window) {
		return
	}
	at := window * block.WindowSize
	u := &b.untrue
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.bytes == 0 || at < u.at {
		u.at = at
	}
	u.bytes += b.length(window)
}

// count is how many windows the disk has.
func (b *backup) count() int64 { return (b.src.Size() + block.WindowSize - 1) / block.WindowSize }

// length is that of a window in bytes.
func (b *backup) length(window int64) int64 {
	return min(block.WindowSize, b.src.Size()-window*block.WindowSize)
}

// sample takes a few windows ahead. If one of them differs from the parent, nothing
// that is said of the disk is believed.
func (b *backup) sample(ctx context.Context) error {
	windows := b.count()
	b.taken = map[int64]bool{}
	below := windows
	for range samples {
		w, err := b.unchangedData(ctx, below)
		if err != nil {
			return err
		}
		if w >= 0 && !b.taken[w] {
			if err := b.takeSample(ctx, w); err != nil {
				return err
			}
		}
		below = 1 + rand.Int64N(max(windows, 1))
	}
	b.audit = b.audit || b.untrue.bytes > 0
	return nil
}

// unchangedData is the highest window below another that holds data in the parent and
// is said to be unchanged; -1: there is none.
func (b *backup) unchangedData(ctx context.Context, below int64) (int64, error) {
	w, err := b.stream.Last(ctx, below)
	for w >= 0 && err == nil && b.changed(w) {
		w, err = b.stream.Last(ctx, w)
	}
	return w, err
}

func (b *backup) takeSample(ctx context.Context, w int64) error {
	buf := make([]byte, b.length(w))
	if err := b.src.ReadAt(ctx, buf, w*block.WindowSize); err != nil {
		return fmt.Errorf("read %d bytes at %d: %w", len(buf), w*block.WindowSize, err)
	}
	b.read.Add(int64(len(buf)))
	same, err := b.stream.PutCompared(ctx, w, buf)
	if err != nil {
		return err
	}
	if !same {
		b.differs(w)
	}
	b.taken[w] = true
	b.opts.progress(int64(len(buf)))
	return nil
}

// planChanged keeps what has not changed and plans the rest.
func (b *backup) planChanged(ctx context.Context) error {
	windows := b.count()
	for first := int64(0); first < windows; {
		changed, end := b.changed(first), first+1
		for end < windows && b.changed(end) == changed && !b.taken[first] && !b.taken[end] {
			end++
		}
		from, to := first*block.WindowSize, min(end*block.WindowSize, b.src.Size())
		switch {
		case b.taken[first]:
		case changed:
			if err := b.planRange(ctx, from, to); err != nil {
				return err
			}
		default:
			if err := b.stream.Keep(first, end-first); err != nil {
				return err
			}
			b.opts.progress(to - from)
		}
		first = end
	}
	return nil
}

// auditZeros compares windows of zeros with the parent.
func (b *backup) auditZeros(ctx context.Context, first, count int64) error {
	if !b.audit {
		return nil
	}
	w, err := b.stream.Last(ctx, first+count)
	for ; w >= first && err == nil; w, err = b.stream.Last(ctx, w) {
		b.differs(w)
	}
	return err
}
