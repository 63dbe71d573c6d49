package repo

import (
	"context"
	"errors"
	"fmt"

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
)

// Write takes a range of a stream. data is valid until it returns.
type Write = func(ctx context.Context, off int64, data []byte) error

// ReadStream calls write for every range of a stream that is in blocks; what is
// between is zeros. Each range comes once, in no order, from workers goroutines at
// the same time, and never ends inside a page but at the stream's end. Every byte
// has been authenticated, and compared with the name of its block. ReadStream ends
// with the first error, after all calls of write have returned; ErrCorrupt names
// the object. It holds about 32 MiB a worker.
func (r *Repository) ReadStream(ctx context.Context, root Root, workers int, write Write) error {
	if err := tree.Root(root).Check(); err != nil {
		return fmt.Errorf("read stream: %w", err)
	}
	if workers < 1 {
		return errors.New("read stream: no workers")
	}
	batches := make(chan *batch)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer close(batches)
		return r.plan(ctx, root, batches)
	})
	for range workers {
		g.Go(func() error {
			f := fetcher{r: r, store: r.store}
			for b := range batches {
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

// batch is a part of a stream that one worker reads. Its blocks lie one after the
// other in one buffer, in the stream's order.
type batch struct {
	wants []want
	runs  []run
	size  int
}

// want is a block that a batch needs, and where it goes.
type want struct {
	name   block.Name
	loc    index.Location
	at     int // in the batch's buffer
	length int
}

// run is a range of the stream without holes.
type run struct {
	off  int64 // in the stream
	at   int   // in the batch's buffer
	size int
}

// add puts one more block at the end.
func (b *batch) add(off int64, w want) {
	w.at = b.size
	b.wants = append(b.wants, w)
	b.size += w.length
	if n := len(b.runs); n > 0 && b.runs[n-1].off+int64(b.runs[n-1].size) == off {
		b.runs[n-1].size += w.length
		return
	}
	b.runs = append(b.runs, run{off: off, at: w.at, size: w.length})
}

// plan walks over the map and hands out batches.
func (r *Repository) plan(ctx context.Context, root Root, out chan<- *batch) error {
	b := new(batch)
	send := func() error {
		select {
		case out <- b:
			b = new(batch)
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	w := tree.Walker{Load: r.nodes(r.store).load, Leaf: func(window int64, entries []tree.Entry) error {
		for _, e := range entries {
			start, end := e.Range(tree.WindowLen(root.Size, window))
			loc, err := r.find(ctx, e.Name)
			if err != nil {
				return err
			}
			if b.size+end-start > batchSize || len(b.wants) == batchBlocks {
				if err := send(); err != nil {
					return err
				}
			}
			b.add(window*block.WindowSize+int64(start), want{name: e.Name, loc: loc, length: end - start})
		}
		return nil
	}}
	if err := w.Walk(ctx, tree.Root(root)); err != nil {
		return err
	}
	if len(b.wants) == 0 {
		return nil
	}
	return send()
}
