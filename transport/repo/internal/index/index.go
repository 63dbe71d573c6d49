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

	writing sync.Mutex   // held by who changes the set of runs, before mu
	mu      sync.RWMutex // guards runs; held for a look-up, so no run ends under it
	runs    runs
	doubted map[[32]byte]struct{} // packs
	closed  bool
}

// Open loads what the cache folder dir holds, and makes it when there is none.
// Damaged files are removed: Reconcile then reports their sources. An empty dir
// stands for a temporary folder that Close removes.
//
// Every byte in the folder is read once to check it. Other processes may have the
// same folder open.
func Open(dir string) (*Index, error) {
	c, err := openCache(dir)
	if err != nil {
		return nil, fmt.Errorf("open index cache: %w", err)
	}
	loaded, err := c.load()
	if err != nil {
		return nil, fmt.Errorf("load index cache: %w", errors.Join(err, c.close()))
	}
	return &Index{cache: c, runs: loaded, doubted: map[[32]byte]struct{}{}}, nil
}

// Reconcile takes the index objects that the store holds, all of them, and
// returns those whose entries are to be added. Runs that come from an object not
// among them are dropped, so the caller opens the index first and lists the store
// then: an object that another process adds in between is not taken for gone. No
// session may be open.
func (x *Index) Reconcile(present []Source) (missing []Source, err error) {
	x.writing.Lock()
	defer x.writing.Unlock()
	exists := make(map[Source]bool, len(present))
	for _, id := range present {
		exists[id] = true
	}
	var gone runs
	for _, r := range x.runs {
		if !all(r.sources, exists) {
			gone = append(gone, r)
		}
	}
	if err := x.swap(nil, gone); err != nil {
		return nil, fmt.Errorf("drop index runs: %w", err)
	}
	return x.Missing(present)
}

// Missing returns the index objects among present whose entries are not held.
func (x *Index) Missing(present []Source) (missing []Source, err error) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	if x.closed {
		return nil, ErrClosed
	}
	held := map[Source]bool{}
	for _, r := range x.runs {
		for _, id := range r.sources {
			held[id] = true
		}
	}
	for _, id := range present {
		if !held[id] {
			missing = append(missing, id)
			held[id] = true
		}
	}
	return missing, nil
}

// all reports whether set has every one of ids.
func all(ids []Source, set map[Source]bool) bool {
	for _, id := range ids {
		if !set[id] {
			return false
		}
	}
	return true
}

// Add takes in the entries of the index object id, in any order. It returns the
// first error of entries, and has added nothing then.
func (x *Index) Add(ctx context.Context, id Source, entries iter.Seq2[Entry, error]) error {
	s := x.Session()
	defer s.Close()
	for e, err := range entries {
		if err == nil {
			err = s.Insert(ctx, e.Name, e.Location)
		}
		if err != nil {
			return err
		}
	}
	return s.Commit(ctx, id)
}

// Lookup finds a block, in a pack that is not doubted where there is one. It sees
// what was added or committed, not what sessions still hold back.
func (x *Index) Lookup(name block.Name) (Location, bool, error) {
	h, err := x.lookup(&name)
	return h.loc, h.found, err
}

func (x *Index) lookup(name *block.Name) (hit, error) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	if x.closed {
		return hit{}, ErrClosed
	}
	h := hit{doubted: x.doubted}
	err := x.runs.lookup(name, &h)
	return h, err
}

// Doubt says that a pack is damaged or gone: its blocks are looked for elsewhere
// first, and sessions do not know them. Doubts end with the Index.
func (x *Index) Doubt(pack [32]byte) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.doubted[pack] = struct{}{}
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

// adopt takes in a run written elsewhere, then merges what is due. The index
// holds the run even when merging fails.
func (x *Index) adopt(ctx context.Context, inputs []sorted, sources []Source) error {
	x.writing.Lock()
	defer x.writing.Unlock()
	if x.closed {
		return ErrClosed
	}
	r, err := writeRun(ctx, x.cache.dir, inputs, sources)
	if err != nil {
		return err
	}
	if err := x.swap(r, nil); err != nil {
		return err
	}
	for due := x.runs.due(); due != nil; due = x.runs.due() {
		merged, err := due.merge(ctx, x.cache.dir, true)
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
