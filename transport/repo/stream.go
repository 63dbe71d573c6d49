package repo

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/lull-backup/lull/transport/block"
	"github.com/lull-backup/lull/transport/repo/internal/tree"
)

// Stream takes the windows of one disk or file, each exactly once: Put, Zero or
// Keep. Safe for concurrent use until Finish.
type Stream struct {
	s       *Session
	size    int64
	builder *tree.Builder
	parent  *tree.Parent // nil: none
}

// Stream begins a disk or file of size bytes. parent is the same disk in the
// session's Parent, and may be nil. It is taken for none when it is of another point, as
// long as anything in the repository is known to be damaged, when maintenance that is
// under way has not seen the parent, when that was made in another deduplication domain, or
// by a key that was removed since, or before a key of its domain was removed, or when this key
// cannot read maps and the host does not keep that one.
func (s *Session) Stream(ctx context.Context, size int64, parent *Root) (*Stream, error) {
	st := &Stream{s: s, size: size}
	if err := s.alive(ctx); err != nil {
		return nil, fmt.Errorf("begin stream: %w", err)
	}
	p, err := s.inherit(ctx, parent)
	if err != nil {
		return nil, fmt.Errorf("begin stream: parent: %w", err)
	}
	st.parent = p
	b, err := tree.NewBuilder(size, st.parent, st.saveNode)
	if err != nil {
		return nil, fmt.Errorf("begin stream: %w", err)
	}
	st.builder = b
	return st, nil
}

// inherit is the parent that a stream may build on; nil for none.
func (s *Session) inherit(ctx context.Context, parent *Root) (*tree.Parent, error) {
	if !s.buildsOn(parent) || !s.r.mayInherit(&s.parent, parent) {
		return nil, nil
	}
	load := s.parents.load
	if !s.r.ring.CanReadMaps() {
		if s.keep == nil || !s.keep.old.holds(ctx, parent) {
			return nil, nil
		}
		load = s.keep.old.load
	}
	return tree.NewParent(tree.Root(*parent), load)
}

// alive fails when nothing more may be done.
func (s *Session) alive(ctx context.Context) error {
	if err := s.failure(); err != nil {
		return err
	}
	if s.r.doubts.count() != s.doubts {
		return errDoubts
	}
	return context.Cause(ctx)
}

// Put takes the content of a whole window; the stream's last one may be short.
// Cutting, naming, looking up, compressing and sealing happen on the caller's
// goroutine: as many processors work as there are callers. data is not kept.
func (st *Stream) Put(ctx context.Context, window int64, data []byte) error {
	_, err := st.put(ctx, window, data)
	if err != nil {
		st.s.fail(err)
		return fmt.Errorf("put window %d: %w", window, err)
	}
	return nil
}

// PutCompared is Put, and tells whether the parent holds the same window at that
// place. Without a parent none is the same.
func (st *Stream) PutCompared(ctx context.Context, window int64, data []byte) (same bool, err error) {
	stored, err := st.put(ctx, window, data)
	if err == nil {
		same, err = st.inParent(ctx, window, stored)
	}
	if err != nil {
		st.s.fail(err)
		return false, fmt.Errorf("put window %d: %w", window, err)
	}
	return same, nil
}

// Last is the highest window below another that is not all zeros in the parent; -1:
// there is none.
func (st *Stream) Last(ctx context.Context, below int64) (int64, error) {
	if st.parent == nil {
		return -1, nil
	}
	w, err := st.parent.Last(ctx, below)
	if err != nil {
		return -1, fmt.Errorf("look into parent: %w", err)
	}
	return w, nil
}

// Zero takes count windows from first on that are known to be zeros.
func (st *Stream) Zero(first, count int64) error {
	if err := st.builder.Zero(first, count); err != nil {
		return fmt.Errorf("zero windows: %w", err)
	}
	st.s.count.zero.Add(st.bytes(first, count))
	return nil
}

// Keep takes count windows from first on that are equal to the parent's. Where
// the parent ends differently in the last of them, or there is none, Put instead.
func (st *Stream) Keep(first, count int64) error {
	if err := st.builder.Keep(first, count); err != nil {
		return fmt.Errorf("keep windows: %w", err)
	}
	return nil
}

// Finish returns the map of the stream, whose windows were all taken.
func (st *Stream) Finish(ctx context.Context) (Root, error) {
	err := st.s.alive(ctx)
	var root tree.Root
	if err == nil {
		root, err = st.builder.Finish(ctx)
	}
	if err != nil {
		// A node may be claimed and not stored: nothing may build on it.
		st.s.fail(err)
		return Root{}, fmt.Errorf("finish stream: %w", err)
	}
	return Root(root), nil
}

// bytes is the length of count windows from first on.
func (st *Stream) bytes(first, count int64) int64 {
	return min((first+count)*block.WindowSize, st.size) - min(first*block.WindowSize, st.size)
}

// leafWork is the memory that naming a window takes.
type leafWork struct {
	entries []tree.Entry
	names   []block.Name
	known   []bool // of each entry
	leaf    []byte
}

var errWindow = errors.New("window number or length is wrong")

// put returns the name of the window's leaf, zero for zeros.
func (st *Stream) put(ctx context.Context, window int64, data []byte) (leaf block.Name, err error) {
	if err := st.s.alive(ctx); err != nil {
		return leaf, err
	}
	if window < 0 || window >= tree.Windows(st.size) || len(data) != tree.WindowLen(st.size, window) {
		return leaf, errWindow
	}
	work := st.s.r.leaves.Get().(*leafWork)
	defer st.s.r.leaves.Put(work)
	stored := work.name(st.s.r, data)
	st.s.count.read.Add(int64(len(data)))
	st.s.count.zero.Add(int64(len(data) - stored))
	st.s.count.blocks.Add(int64(len(work.entries)))
	if len(work.entries) == 0 {
		return leaf, st.builder.Set(ctx, window, tree.Ref{})
	}
	work.leaf = tree.AppendLeaf(work.leaf[:0], work.entries)
	leaf = st.s.r.ring.Nodes.Name(work.leaf)
	same, err := st.inParent(ctx, window, leaf)
	if err != nil {
		return leaf, err
	}
	if same {
		st.s.count.dedup.Add(int64(stored))
	} else if err := st.store(ctx, work, leaf, data); err != nil {
		return leaf, err
	}
	return leaf, st.builder.Set(ctx, window, tree.Ref{Name: leaf, Data: int64(stored)})
}

// name cuts a window and names its blocks, and returns their length in all. Each
// page is cut and hashed while the processor's cache has it.
func (w *leafWork) name(r *Repository, data []byte) (stored int) {
	w.entries = w.entries[:0]
	for at := 0; ; {
		start, end := r.ring.Cutter.Next(data, at)
		if start == end {
			return stored
		}
		w.entries = append(w.entries, tree.NewEntry(start, end, r.ring.Data.Name(data[start:end])))
		stored += end - start
		at = end
	}
}

// inParent tells whether the parent has the same leaf at the same place: then
// every block of the window is in the repository, and none needs a look-up.
func (st *Stream) inParent(ctx context.Context, window int64, leaf block.Name) (bool, error) {
	if st.parent == nil || !st.parent.Covers(0, window, st.size) {
		return false, nil
	}
	ref, err := st.parent.Child(ctx, 0, window)
	return ref.Name == leaf, err
}

// store puts the window's new blocks, and its leaf when that is new, into
// segments.
func (st *Stream) store(ctx context.Context, work *leafWork, leaf block.Name, data []byte) error {
	if err := work.lookUp(ctx, st.s); err != nil {
		return err
	}
	seg := st.s.data.take()
	defer st.s.data.give(seg)
	for i := range work.entries {
		e := &work.entries[i]
		start, end := e.Range(len(data))
		if work.known[i] || !st.s.claims.claim(e.Name) {
			st.s.count.dedup.Add(int64(end - start))
			continue
		}
		st.s.count.newBlocks.Add(1)
		st.s.count.fresh.Add(int64(end - start))
		if err := st.s.data.add(ctx, seg, e.Name, data[start:end]); err != nil {
			return err
		}
	}
	return st.storeNode(ctx, leaf, work.leaf)
}

// lookUp asks for all blocks of a window together.
func (w *leafWork) lookUp(ctx context.Context, s *Session) error {
	w.names = w.names[:0]
	for i := range w.entries {
		w.names = append(w.names, w.entries[i].Name)
	}
	w.known = slices.Grow(w.known[:0], len(w.names))[:len(w.names)]
	return s.lookUp(ctx, w.names, w.known)
}

// saveNode is the builder's tree.Save.
func (st *Stream) saveNode(ctx context.Context, node []byte) (block.Name, error) {
	name := st.s.r.ring.Nodes.Name(node)
	if err := st.s.keep.add(name, node); err != nil {
		return name, err
	}
	return name, st.storeNode(ctx, name, node)
}

func (st *Stream) storeNode(ctx context.Context, name block.Name, node []byte) error {
	known, err := st.s.known(ctx, name)
	if known || err != nil {
		return err
	}
	seg := st.s.nodes.take()
	defer st.s.nodes.give(seg)
	return st.s.nodes.add(ctx, seg, name, node)
}
