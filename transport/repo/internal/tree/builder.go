package tree

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/lull-backup/lull/transport/block"
)

// Errors of a caller that reports windows wrongly.
var (
	ErrTwice   = errors.New("window reported twice")
	ErrMissing = errors.New("windows were not reported")
	ErrRange   = errors.New("no such window")
	ErrKeep    = errors.New("window is not in the parent")
)

// Save stores an encoded node and returns its name. It may be called from
// several goroutines, and does not keep the slice.
type Save func(ctx context.Context, node []byte) (block.Name, error)

// Builder makes the tree of a new stream. Safe for concurrent use.
type Builder struct {
	size    int64
	windows int64
	parent  *Parent // nil: none
	save    Save

	mu    sync.Mutex
	root  slot
	ready []*started // all windows told of, not yet encoded
}

type state uint8

const (
	unset state = iota
	done        // ref is known
	kept        // the parent's node at this place
	open        // started
)

// slot is a place for a node or leaf.
type slot struct {
	state state
	ref   Ref
	node  *started
}

// started is a node of which some windows were told.
type started struct {
	level  int // of the node; its slots are one below
	index  int64
	up     *started // nil: it is the root's
	at     int      // slot in up
	unset  int      // slots that nothing was told of
	opened int      // slots that are started
	closed bool     // nothing is left to tell
	slots  [Fanout]slot
}

// NewBuilder starts the tree of a stream of size bytes.
func NewBuilder(size int64, parent *Parent, save Save) (*Builder, error) {
	root := Root{Size: size, Depth: Depth(max(0, min(size, MaxSize)))}
	if err := root.Check(); err != nil {
		return nil, err
	}
	return &Builder{size: size, windows: Windows(size), parent: parent, save: save}, nil
}

// Set tells the leaf of a window; the zero Ref: it is all zeros.
func (b *Builder) Set(ctx context.Context, window int64, leaf Ref) error {
	if err := b.mark(window, 1, slot{state: done, ref: leaf}); err != nil {
		return err
	}
	return b.encodeReady(ctx)
}

// Zero tells windows that are all zeros.
func (b *Builder) Zero(first, count int64) error {
	return b.mark(first, count, slot{state: done})
}

// Keep tells windows that are as in the parent's tree.
func (b *Builder) Keep(first, count int64) error {
	if b.parent == nil {
		return fmt.Errorf("%w: there is no parent", ErrKeep)
	}
	return b.mark(first, count, slot{state: kept})
}

// Finish returns the tree, every window of which has been told of.
func (b *Builder) Finish(ctx context.Context) (Root, error) {
	if err := b.encodeReady(ctx); err != nil {
		return Root{}, err
	}
	root := Root{Size: b.size, Depth: Depth(b.size)}
	b.mu.Lock()
	top := b.root
	b.mu.Unlock()
	switch {
	case b.windows == 0:
	case top.state == done:
		root.Node, root.Data = top.ref.Name, top.ref.Data
	case top.state == kept:
		ref, err := b.parent.Child(ctx, root.Depth, 0)
		if err != nil {
			return Root{}, err
		}
		root.Node, root.Data = ref.Name, ref.Data
	default:
		return Root{}, ErrMissing
	}
	return root, nil
}

func (b *Builder) mark(first, count int64, with slot) error {
	if first < 0 || count < 0 || first > b.windows || count > b.windows-first {
		return fmt.Errorf("%w: %d+%d of %d", ErrRange, first, count, b.windows)
	}
	if count == 0 {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	m := marking{b: b, first: first, end: first + count, with: with}
	return m.slot(&b.root, nil, 0, Depth(b.size), 0)
}

// marking is one mark of a range of windows, under the builder's lock.
type marking struct {
	b          *Builder
	first, end int64
	with       slot
}

// slot marks what lies in the range under the slot s, number at of node up,
// which is the place of the node (level, index).
func (m *marking) slot(s *slot, up *started, at, level int, index int64) error {
	from := index * span(level)
	to := from + clip(level, index, m.b.windows)
	if m.end <= from || to <= m.first {
		return nil
	}
	if m.first <= from && to <= m.end && m.whole(level, index) {
		if s.state != unset {
			return fmt.Errorf("%w: in %d to %d", ErrTwice, from, to-1)
		}
		*s = m.with
		if up != nil {
			up.unset--
		}
		return nil
	}
	if level == 0 {
		return fmt.Errorf("%w: %d", ErrKeep, from)
	}
	if s.state == unset {
		m.start(s, up, at, level, index)
	}
	if s.state != open {
		return fmt.Errorf("%w: in %d to %d", ErrTwice, from, to-1)
	}
	return m.under(s)
}

// whole tells whether the mark may stand for a whole node.
func (m *marking) whole(level int, index int64) bool {
	switch {
	case m.with.state == kept:
		return m.b.parent.Covers(level, index, m.b.size)
	case m.with.ref == Ref{}:
		return true
	}
	return level == 0
}

// start turns a slot into a started node.
func (m *marking) start(s *slot, up *started, at, level int, index int64) {
	n := &started{level: level, index: index, up: up, at: at}
	for i := range n.slots {
		if clip(level-1, index*Fanout+int64(i), m.b.windows) > 0 {
			n.unset++
		}
	}
	*s = slot{state: open, node: n}
	if up != nil {
		up.unset--
		up.opened++
	}
}

// under marks what lies in the range under a started node, and closes the node
// when nothing is left to tell.
func (m *marking) under(s *slot) error {
	n := s.node
	each := span(n.level - 1)
	low := n.index * Fanout
	from := max(m.first/each-low, 0)
	to := min((m.end+each-1)/each-low, Fanout)
	for i := from; i < to; i++ {
		if err := m.slot(&n.slots[i], n, int(i), n.level-1, low+i); err != nil {
			return err
		}
	}
	m.b.close(n)
	return nil
}

// close deals with a node that is complete. One that is kept or zero as a whole
// becomes a mark in its own slot; any other waits to be encoded.
func (b *Builder) close(n *started) {
	if n.unset > 0 || n.opened > 0 || n.closed {
		return
	}
	n.closed = true
	same := n.slots[0]
	for i := range n.slots {
		s := &n.slots[i]
		if s.state != unset && (s.state != same.state || s.state == done && s.ref != Ref{}) {
			same.state = open
		}
	}
	if same.state == done && same.ref == (Ref{}) || same.state == kept && b.parent.Covers(n.level, n.index, b.size) {
		b.fill(n, same)
		return
	}
	b.ready = append(b.ready, n)
}

// fill puts what became of a node into its slot.
func (b *Builder) fill(n *started, with slot) {
	if n.up == nil {
		b.root = with
		return
	}
	n.up.slots[n.at] = with
	n.up.opened--
	b.close(n.up)
}

// encodeReady encodes and saves complete nodes until none is left.
func (b *Builder) encodeReady(ctx context.Context) error {
	for {
		b.mu.Lock()
		if len(b.ready) == 0 {
			b.mu.Unlock()
			return nil
		}
		n := b.ready[len(b.ready)-1]
		b.ready = b.ready[:len(b.ready)-1]
		b.mu.Unlock()
		ref, err := b.encode(ctx, n)
		if err != nil {
			return err
		}
		b.mu.Lock()
		b.fill(n, slot{state: done, ref: ref})
		b.mu.Unlock()
	}
}

// encode saves a complete node. Its slots no longer change.
func (b *Builder) encode(ctx context.Context, n *started) (Ref, error) {
	var children Node
	for i := range n.slots {
		switch s := &n.slots[i]; s.state {
		case done:
			children[i] = s.ref
		case kept:
			ref, err := b.parent.Child(ctx, n.level-1, n.index*Fanout+int64(i))
			if err != nil {
				return Ref{}, err
			}
			children[i] = ref
		}
	}
	if children == (Node{}) {
		return Ref{}, nil
	}
	name, err := b.save(ctx, appendNode(nil, n.level, &children))
	return Ref{Name: name, Data: children.data()}, err
}
