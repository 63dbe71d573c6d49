package tree

import (
	"context"

	"github.com/lull-backup/lull/transport/block"
)

// Inner calls visit for each node of a tree above its leaves, in order of the stream, and
// for one that is there twice, twice. It is all that a Parent loads of the tree.
func Inner(ctx context.Context, root Root, load Load, visit func(name block.Name, node []byte) error) error {
	if err := root.Check(); err != nil {
		return err
	}
	w := inner{windows: Windows(root.Size), load: load, visit: visit}
	return w.node(ctx, place{level: root.Depth}, root.Node)
}

type inner struct {
	windows int64
	load    Load
	visit   func(block.Name, []byte) error
}

func (w *inner) node(ctx context.Context, at place, name block.Name) error {
	if at.level == 0 || name.IsZero() {
		return nil
	}
	b, err := w.load(ctx, name)
	if err != nil {
		return err
	}
	n, err := parseNode(b, at.level, clip(at.level, at.index, w.windows))
	if err != nil {
		return err
	}
	if err := w.visit(name, b); err != nil {
		return err
	}
	for i := range n {
		if err := w.node(ctx, place{at.level - 1, at.index*Fanout + int64(i)}, n[i].Name); err != nil {
			return err
		}
	}
	return nil
}
