package index

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"

	"github.com/lull-backup/lull/transport/block"
)

// Index looks blocks up in the runs of a cache folder. Its methods are safe for
// concurrent use.
type Index struct {
	cache *cache

	writing  sync.Mutex // held by who changes the set of runs, before mu
	vanished []Source   // ascending: sources of runs that the store no longer has; guarded by writing

	mu     sync.RWMutex // guards what follows; held for a look-up, so no run ends under it
	runs   runs
	hidden hidden
	closed bool
}

// Open maps what the cache folder dir holds, and makes it when there is none.
// Files that are damaged at first sight are removed: Reconcile then reports their
// sources. An empty dir stands for a temporary folder that Close removes.
//
// Open reads some MB for 100 million entries. All other pages are checked whenever
// they are read. Other processes may have the same folder open.
func Open(dir string) (*Index, error) {
	c, err := openCache(dir)
	if err != nil {
		return nil, fmt.Errorf("open index cache: %w", err)
	}
	loaded, err := c.load()
	if err != nil {
		return nil, fmt.Errorf("load index cache: %w", errors.Join(err, c.close()))
	}
	return &Index{
		cache: c, runs: loaded,
		hidden: hidden{doubted: map[[32]byte]struct{}{}, gone: map[[32]byte]struct{}{}},
	}, nil
}

// Add takes in the entries of the index object id, in any order. It returns the
// first error of entries, and has added nothing then. Who adds many uses a Loader.
func (x *Index) Add(ctx context.Context, id Source, entries iter.Seq2[Entry, error]) error {
	l := x.Loader()
	defer l.Close()
	if err := l.Add(ctx, id, entries); err != nil {
		return err
	}
	return l.Flush(ctx)
}

// Lookup finds a block, in a pack that is not doubted where there is one. It sees
// what was added or committed, not what sessions still hold back.
//
// ErrDamaged says that a part of the cache cannot be believed and was thrown away:
// Missing tells what to add again before the next attempt.
func (x *Index) Lookup(name block.Name) (Location, bool, error) {
	var h hit
	err := x.lookup(&name, &h)
	return h.loc, h.found, err
}

// Places are all places of a block, those in doubted packs too, appended to dst. Errors
// are those of Lookup.
func (x *Index) Places(dst []Location, name block.Name) ([]Location, error) {
	h := hit{usable: func(l *Location) bool { dst = append(dst, *l); return false }} // on to the next
	err := x.read(func() error {
		h.hidden = &hidden{gone: x.hidden.gone}
		return x.runs.lookup(&name, &h)
	})
	return dst, err
}

func (x *Index) lookup(name *block.Name, h *hit) error {
	h.hidden = &x.hidden
	return x.read(func() error { return x.runs.lookup(name, h) })
}

// read runs look, which reads runs, and drops the run that proves to be damaged.
func (x *Index) read(look func() error) error {
	x.mu.RLock()
	closed, err := x.closed, error(nil)
	if !closed {
		err = look()
	}
	x.mu.RUnlock()
	if closed {
		return ErrClosed
	}
	if errors.Is(err, ErrDamaged) {
		x.writing.Lock()
		defer x.writing.Unlock()
		return errors.Join(err, x.dropDamaged(err))
	}
	return err
}

// dropDamaged drops the run that err blames, if it is still there. The caller
// holds writing.
func (x *Index) dropDamaged(err error) error {
	if bad := x.runs.blamed(err); bad != nil {
		return x.swap(nil, runs{bad})
	}
	return nil
}

// Doubt says that packs are damaged, gone or about to be: their blocks are looked
// for elsewhere first, and sessions do not know them. Doubts end with the Index.
func (x *Index) Doubt(packs ...[32]byte) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, p := range packs {
		x.hidden.doubted[p] = struct{}{}
	}
}

// Len is the number of entries; a block that several index objects hold may count
// more than once.
func (x *Index) Len() int {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return int(x.runs.count())
}

// Close lets the files go. Sessions are to be closed before.
func (x *Index) Close() error {
	x.writing.Lock()
	defer x.writing.Unlock()
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.closed {
		return nil
	}
	x.closed = true
	err := errors.Join(x.runs.close(), x.cache.close())
	x.runs = nil
	if err != nil {
		return fmt.Errorf("close index cache: %w", err)
	}
	return nil
}

// adopt takes in what was gathered elsewhere, then merges what is due. The index
// holds it even when merging fails.
func (x *Index) adopt(ctx context.Context, inputs []input) error {
	x.writing.Lock()
	defer x.writing.Unlock()
	if x.closed {
		return ErrClosed
	}
	if err := x.comeBack(inputs); err != nil {
		return err
	}
	r, err := writeRun(ctx, x.cache, plan{inputs: inputs, named: true})
	if err != nil {
		return err
	}
	if err := x.swap(r, nil); err != nil {
		return err
	}
	for due := x.runs.due(fanIn); due != nil; due = x.runs.due(fanIn) {
		merged, err := writeRun(ctx, x.cache, plan{inputs: due.inputs(), named: true, vanished: x.vanished})
		if errors.Is(err, ErrDamaged) && due.blamed(err) != nil {
			err = x.dropDamaged(err) // its sources are missing now
			if err == nil {
				continue
			}
		}
		if err != nil {
			return fmt.Errorf("merge index runs: %w", err)
		}
		if err := x.swap(merged, due); err != nil {
			return fmt.Errorf("remove merged index runs: %w", err)
		}
	}
	return nil
}

// swap puts in a run, when there is one, and ends those that are gone. Only the
// holder of writing may call it.
func (x *Index) swap(in *run, gone runs) error {
	x.mu.Lock()
	x.runs = x.runs.with(in, gone)
	x.mu.Unlock()
	return gone.discard()
}
