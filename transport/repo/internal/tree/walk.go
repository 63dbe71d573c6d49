package tree

import (
	"context"
	"fmt"

	"github.com/lull-backup/lull/transport/block"
	"github.com/lull-backup/lull/transport/repo/internal/wire"
)

// Load reads a node or leaf by its name, checked against it.
type Load func(ctx context.Context, name block.Name) ([]byte, error)

// Walker goes over a tree in order of the stream.
type Walker struct {
	Load Load
	// Leaf is called for each window that is not all zeros. The entries are
	// valid until it returns.
	Leaf func(window int64, entries []Entry) error
	// Enter says whether to look into a node or leaf; nil: all.
	Enter func(name block.Name) bool
	// Bad hears of a node that cannot be read or is damaged, and lets the walk
	// go on without it by returning nil. Nil: the error ends the walk.
	Bad func(name block.Name, err error) error

	entries []Entry
}

// Walk goes over the tree of root.
func (w *Walker) Walk(ctx context.Context, root Root) error {
	if err := root.Check(); err != nil {
		return err
	}
	return w.node(ctx, root, root.Depth, 0, Ref{root.Node, root.Data})
}

func (w *Walker) node(ctx context.Context, root Root, level int, index int64, ref Ref) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	name := ref.Name
	if name.IsZero() || w.Enter != nil && !w.Enter(name) {
		return nil
	}
	b, err := w.Load(ctx, name)
	if err != nil {
		return w.bad(name, err)
	}
	if level == 0 {
		return w.leaf(root, index, ref, b)
	}
	n, err := parseNode(b, level, clip(level, index, Windows(root.Size)))
	if err == nil && n.data() != ref.Data {
		err = fmt.Errorf("%w: node of level %d holds %d bytes, want %d", wire.ErrDamaged, level, n.data(), ref.Data)
	}
	if err != nil {
		return w.bad(name, err)
	}
	for i := range n {
		if err := w.node(ctx, root, level-1, index*Fanout+int64(i), n[i]); err != nil {
			return err
		}
	}
	return nil
}

func (w *Walker) leaf(root Root, window int64, ref Ref, b []byte) error {
	length := WindowLen(root.Size, window)
	entries, err := ParseLeaf(w.entries[:0], b, length)
	if got := Data(entries, length); err == nil && got != ref.Data {
		err = fmt.Errorf("%w: leaf holds %d bytes, want %d", wire.ErrDamaged, got, ref.Data)
	}
	if err != nil {
		return w.bad(ref.Name, err)
	}
	w.entries = entries
	return w.Leaf(window, entries)
}

func (w *Walker) bad(name block.Name, err error) error {
	if w.Bad == nil {
		return err
	}
	return w.Bad(name, err)
}
