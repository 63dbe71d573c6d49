package tree

import (
	"context"
	"fmt"

	"github.com/lull-backup/lull/transport/block"
	"github.com/lull-backup/lull/transport/repo/internal/wire"
)

// Load reads a node or leaf by its name, checked against it.
type Load func(ctx context.Context, name block.Name) ([]byte, error)

// Span is a range of windows: what is under a node or leaf.
type Span struct{ First, Count int64 }

// Bytes is where the span lies in a stream of size bytes.
func (s Span) Bytes(size int64) (off, length int64) {
	off = s.First * block.WindowSize
	return off, min(s.Count*block.WindowSize, size-off)
}

// Walker goes over a tree in order of the stream. All but Load and Leaf may be nil.
type Walker struct {
	Load Load
	// Leaf is called for each window that is not all zeros. The entries are
	// valid until it returns.
	Leaf func(window int64, entries []Entry) error
	// Zero hears of what is all zeros.
	Zero func(Span) error

	// Base is another tree, and Same hears of what is equal in it at the same
	// place: the walk does not look into that.
	Base *Parent
	Same func(Span) error

	// Enter says whether to look into a node or leaf.
	Enter func(name block.Name) (bool, error)
	// Leave follows on each Enter that said yes, when all that is under the node
	// was seen, good or bad.
	Leave func(name block.Name) error
	// Bad hears of a node that cannot be read or is damaged, and lets the walk
	// go on without it by returning nil. Without it the error ends the walk.
	Bad func(name block.Name, at Span, err error) error

	entries []Entry
}

// Walk goes over the tree of root.
func (w *Walker) Walk(ctx context.Context, root Root) error {
	if err := root.Check(); err != nil {
		return err
	}
	return w.node(ctx, root, place{level: root.Depth}, Ref{root.Node, root.Data})
}

// place is where a node is in its tree.
type place struct {
	level int
	index int64
}

func (p place) span(root Root) Span {
	return Span{First: p.index * span(p.level), Count: clip(p.level, p.index, Windows(root.Size))}
}

func (w *Walker) node(ctx context.Context, root Root, at place, ref Ref) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if passed, err := w.pass(ctx, root, at, ref); passed || err != nil {
		return err
	}
	if w.Enter != nil {
		if yes, err := w.Enter(ref.Name); !yes || err != nil {
			return err
		}
	}
	if err := w.into(ctx, root, at, ref); err != nil || w.Leave == nil {
		return err
	}
	return w.Leave(ref.Name)
}

// pass deals with what need not be looked into.
func (w *Walker) pass(ctx context.Context, root Root, at place, ref Ref) (passed bool, err error) {
	if ref.Name.IsZero() {
		if s := at.span(root); w.Zero != nil && s.Count > 0 {
			return true, w.Zero(s)
		}
		return true, nil
	}
	if w.Base == nil || !w.Base.Covers(at.level, at.index, root.Size) {
		return false, nil
	}
	old, err := w.Base.Child(ctx, at.level, at.index)
	if err != nil || old.Name != ref.Name {
		return false, err
	}
	return true, w.Same(at.span(root))
}

// into looks into a node or leaf.
func (w *Walker) into(ctx context.Context, root Root, at place, ref Ref) error {
	b, err := w.Load(ctx, ref.Name)
	if err != nil {
		return w.bad(root, at, ref, err)
	}
	if at.level == 0 {
		return w.leaf(root, at, ref, b)
	}
	n, err := parseNode(b, at.level, clip(at.level, at.index, Windows(root.Size)))
	if err == nil && n.data() != ref.Data {
		err = fmt.Errorf("%w: node of level %d holds %d bytes, want %d", wire.ErrDamaged, at.level, n.data(), ref.Data)
	}
	if err != nil {
		return w.bad(root, at, ref, err)
	}
	for i := range n {
		if err := w.node(ctx, root, place{at.level - 1, at.index*Fanout + int64(i)}, n[i]); err != nil {
			return err
		}
	}
	return nil
}

func (w *Walker) leaf(root Root, at place, ref Ref, b []byte) error {
	length := WindowLen(root.Size, at.index)
	entries, err := ParseLeaf(w.entries[:0], b, length)
	if got := Data(entries, length); err == nil && got != ref.Data {
		err = fmt.Errorf("%w: leaf holds %d bytes, want %d", wire.ErrDamaged, got, ref.Data)
	}
	if err != nil {
		return w.bad(root, at, ref, err)
	}
	w.entries = entries
	return w.Leaf(at.index, entries)
}

func (w *Walker) bad(root Root, at place, ref Ref, err error) error {
	if w.Bad == nil {
		return err
	}
	return w.Bad(ref.Name, at.span(root), err)
}
