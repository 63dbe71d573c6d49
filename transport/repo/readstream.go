package repo

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/lull-backup/lull/transport/block"
	"github.com/lull-backup/lull/transport/repo/internal/index"
	"github.com/lull-backup/lull/transport/repo/internal/tree"
)

const (
	// batchSize bounds the content that a worker of ReadStream gathers before
	// it writes, in bytes: enough that neighbours in packs are read at once.
	batchSize = 16 << 20
	// batchBlocks bounds a batch of small blocks.
	batchBlocks = 16 << 10
	// planBlocks is how many blocks of a stream are put in order of packs before any is
	// read. What was written over many nights lies scattered among the segments of all of
	// them: with fewer blocks at a time each segment would be opened again and again.
	planBlocks = 96 << 10
)

// Write takes a range of a stream. data is valid until it returns.
type Write = func(ctx context.Context, off int64, data []byte) error

// ReadStream calls write for every range of a stream that is in blocks; what is
// between is zeros. Each range comes once, in no order, from workers goroutines at
// the same time, and never ends inside a page but at the stream's end. Every byte
// has been authenticated, and compared with the name of its block. ReadStream ends
// with the first error, after all calls of write have returned; ErrCorrupt names
// the object. It holds about 32 MiB a worker, and as much for the plan.
func (r *Repository) ReadStream(ctx context.Context, root Root, workers int, write Write) error {
	return r.readStream(ctx, root, workers, &planner{r: r, root: root}, write)
}

// SalvageStream is ReadStream that goes on past what is damaged or gone: write gets
// everything else, and what it did not get is returned as holes, in order, and never
// ends in an error.
func (r *Repository) SalvageStream(ctx context.Context, root Root, workers int, write Write) ([]Hole, error) {
	h := new(holes)
	if err := r.readStream(ctx, root, workers, &planner{r: r, root: root, holes: h}, write); err != nil {
		return nil, err
	}
	return h.sorted(), nil
}

// Windows takes a stream window by window. Zero and Same are called on one goroutine,
// Data from several at the same time.
type Windows struct {
	Zero func(first, count int64) error
	// Same hears of windows that are equal to those of the base.
	Same func(first, count int64) error
	Data func(ctx context.Context, window int64, data []byte) error // valid until it returns
}

// ReadWindows is ReadStream by whole windows, each told once. With a base, another
// stream of this repository, it reads nothing of what is the same there.
func (r *Repository) ReadWindows(ctx context.Context, root Root, base *Root, workers int, w Windows) error {
	p := &planner{r: r, root: root, windows: &w}
	if base != nil {
		parent, err := tree.NewParent(tree.Root(*base), r.nodes(r.store).load)
		if err != nil {
			return fmt.Errorf("read stream: base: %w", err)
		}
		p.base = parent
	}
	return r.readStream(ctx, root, workers, p, func(ctx context.Context, off int64, data []byte) error {
		return w.Data(ctx, off/block.WindowSize, data)
	})
}

func (r *Repository) readStream(ctx context.Context, root Root, workers int, p *planner, write Write) error {
	if err := tree.Root(root).Check(); err != nil {
		return fmt.Errorf("read stream: %w", err)
	}
	if workers < 1 {
		return errors.New("read stream: no workers")
	}
	p.out = make(chan *batch)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer close(p.out)
		return p.run(ctx)
	})
	for range workers {
		g.Go(func() error {
			f := fetcher{r: r, store: r.store, holes: p.holes}
			for b := range p.out {
				if err := f.run(ctx, b, write); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return fmt.Errorf("read stream: %w", err)
	}
	return nil
}

// batch is a part of a stream that one worker reads. Its runs lie one after the
// other in one buffer.
type batch struct {
	wants []want
	runs  []run
	size  int
	gaps  bool // the wants do not fill the runs: what is between is zeros
}

// want is a block that a batch needs, and where it goes.
type want struct {
	name   block.Name
	loc    index.Location
	off    int64 // in the stream
	at     int   // in the batch's buffer
	length int
}

func (w *want) sameSegment(o *want) bool {
	return w.loc.Pack == o.loc.Pack && w.loc.SegmentOffset == o.loc.SegmentOffset
}

// inPacks puts wants in order of packs and of places in them.
func inPacks(wants []want) {
	slices.SortFunc(wants, func(x, y want) int {
		return cmp.Or(bytes.Compare(x.loc.Pack[:], y.loc.Pack[:]),
			cmp.Compare(x.loc.SegmentOffset, y.loc.SegmentOffset), cmp.Compare(x.loc.BlockOffset, y.loc.BlockOffset))
	})
}

// run is a range of the stream that is written at once.
type run struct {
	off  int64 // in the stream
	at   int   // in the batch's buffer
	size int
}

// newBatch has the wants in order of the stream.
func newBatch(wants []want) *batch {
	slices.SortFunc(wants, func(x, y want) int { return cmp.Compare(x.off, y.off) })
	b := &batch{wants: wants}
	for i := range wants {
		w := &wants[i]
		w.at = b.size
		b.size += w.length
		if n := len(b.runs); n > 0 && b.runs[n-1].off+int64(b.runs[n-1].size) == w.off {
			b.runs[n-1].size += w.length
			continue
		}
		b.runs = append(b.runs, run{off: w.off, at: w.at, size: w.length})
	}
	return b
}

// addWindow puts a whole window at the end, whose blocks follow.
func (b *batch) addWindow(off int64, length int) {
	b.gaps = true
	b.runs = append(b.runs, run{off: off, at: b.size, size: length})
	b.size += length
}

// planner walks over a map and hands out batches: of whole windows in the stream's order,
// or of blocks in that of the packs, so that each segment is opened once for a plan.
type planner struct {
	r       *Repository
	root    Root
	base    *tree.Parent
	windows *Windows // nil: by runs of blocks
	holes   *holes   // nil: the first damage ends it

	out   chan *batch
	next  *batch      // with windows
	plans chan []want // without
	plan  []want
}

func (p *planner) run(ctx context.Context) error {
	if p.windows != nil {
		p.next = new(batch)
		if err := p.walk(ctx); err != nil {
			return err
		}
		return p.sendNext(ctx)
	}
	// One plan is read while the next is made.
	p.plans = make(chan []want)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer close(p.plans)
		if err := p.walk(ctx); err != nil {
			return err
		}
		return hand(ctx, p.plans, p.plan)
	})
	g.Go(func() error {
		for wants := range p.plans {
			if err := p.handOut(ctx, wants); err != nil {
				return err
			}
		}
		return nil
	})
	return g.Wait()
}

func (p *planner) walk(ctx context.Context) error {
	w := tree.Walker{Load: p.r.nodes(p.r.store).load, Base: p.base}
	w.Leaf = func(window int64, entries []tree.Entry) error { return p.leaf(ctx, window, entries) }
	if p.windows != nil {
		w.Zero = func(s tree.Span) error { return p.windows.Zero(s.First, s.Count) }
		w.Same = func(s tree.Span) error { return p.windows.Same(s.First, s.Count) }
	}
	if p.holes != nil {
		w.Bad = func(_ block.Name, at tree.Span, err error) error {
			off, length := at.Bytes(p.root.Size)
			return p.holes.add(off, length, err)
		}
	}
	return w.Walk(ctx, tree.Root(p.root))
}

// hand gives v to who takes from out.
func hand[T any](ctx context.Context, out chan<- T, v T) error {
	select {
	case out <- v:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// sendNext hands the batch of windows out and begins another.
func (p *planner) sendNext(ctx context.Context) error {
	b := p.next
	p.next = new(batch)
	if len(b.wants) == 0 {
		return nil
	}
	return hand(ctx, p.out, b)
}

// handOut makes batches of a plan.
func (p *planner) handOut(ctx context.Context, wants []want) error {
	inPacks(wants)
	for len(wants) > 0 {
		n := inBatch(wants)
		if err := hand(ctx, p.out, newBatch(wants[:n:n])); err != nil {
			return err
		}
		wants = wants[n:]
	}
	return nil
}

// inBatch is how many of the wants, in order of the packs, one batch takes: whole
// segments, unless one alone is asked for more than that.
func inBatch(wants []want) int {
	size, whole := 0, 0
	for i := range wants {
		if i > 0 && !wants[i].sameSegment(&wants[i-1]) {
			whole = i
		}
		size += wants[i].length
		if size > batchSize || i == batchBlocks {
			return max(cmp.Or(whole, i), 1)
		}
	}
	return len(wants)
}

// leaf adds the blocks of a window.
func (p *planner) leaf(ctx context.Context, window int64, entries []tree.Entry) error {
	length := tree.WindowLen(p.root.Size, window)
	start := window * block.WindowSize
	if p.windows != nil {
		if p.next.size+length > batchSize || len(p.next.wants)+len(entries) > batchBlocks {
			if err := p.sendNext(ctx); err != nil {
				return err
			}
		}
		p.next.addWindow(start, length)
	}
	for _, e := range entries {
		from, to := e.Range(length)
		if err := p.block(ctx, want{name: e.Name, off: start + int64(from), length: to - from}); err != nil {
			return err
		}
	}
	return nil
}

func (p *planner) block(ctx context.Context, w want) (err error) {
	if w.loc, err = p.r.find(ctx, w.name); err != nil {
		return p.holes.add(w.off, int64(w.length), err)
	}
	if p.windows != nil {
		last := p.next.runs[len(p.next.runs)-1]
		w.at = last.at + int(w.off-last.off)
		p.next.wants = append(p.next.wants, w)
		return nil
	}
	if p.plan = append(p.plan, w); len(p.plan) < planBlocks {
		return nil
	}
	full := p.plan
	p.plan = make([]want, 0, planBlocks)
	return hand(ctx, p.plans, full)
}
