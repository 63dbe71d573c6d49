package tree

import (
	"context"
	"sync"

	"github.com/lull-backup/lull/transport/block"
)

// cachedNodes bounds the decoded nodes that a Parent holds, 4 KiB each.
const cachedNodes = 64

// Parent looks into the tree of an earlier stream. Safe for concurrent use.
type Parent struct {
	root Root
	load Load

	mu    sync.Mutex
	nodes map[block.Name]*Node
}

// NewParent looks into the tree of root, which may be of another size than the
// stream that is being built.
func NewParent(root Root, load Load) (*Parent, error) {
	if err := root.Check(); err != nil {
		return nil, err
	}
	return &Parent{root: root, load: load, nodes: map[block.Name]*Node{}}, nil
}

// Covers tells whether the parent has exactly this node: it is no higher than
// the parent's root, and the same windows are under it in both streams.
func (p *Parent) Covers(level int, index int64, size int64) bool {
	if level > p.root.Depth {
		return false
	}
	here, there := clip(level, index, Windows(size)), clip(level, index, Windows(p.root.Size))
	if here != there {
		return false
	}
	// The last window may be cut off at another place.
	last := index*span(level) + here - 1
	return here > 0 && WindowLen(size, last) == WindowLen(p.root.Size, last)
}

// Child is the parent's node at a place, zero for zeros. The place must be one
// that the parent covers.
func (p *Parent) Child(ctx context.Context, level int, index int64) (Ref, error) {
	ref := Ref{p.root.Node, p.root.Data}
	for at := p.root.Depth; at > level && !ref.Name.IsZero(); at-- {
		n, err := p.node(ctx, ref.Name, at, index/span(at-level))
		if err != nil {
			return Ref{}, err
		}
		ref = n[index/span(at-1-level)%Fanout]
	}
	return ref, nil
}

func (p *Parent) node(ctx context.Context, name block.Name, level int, index int64) (*Node, error) {
	p.mu.Lock()
	n := p.nodes[name]
	p.mu.Unlock()
	if n != nil {
		return n, nil
	}
	b, err := p.load(ctx, name)
	if err != nil {
		return nil, err
	}
	n, err = parseNode(b, level, clip(level, index, Windows(p.root.Size)))
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.nodes) >= cachedNodes {
		for old := range p.nodes { // any one: order is nearly sequential
			delete(p.nodes, old)
			break
		}
	}
	p.nodes[name] = n
	return n, nil
}

// Last is the highest window below another that is not all zeros; -1: there is none.
func (p *Parent) Last(ctx context.Context, below int64) (int64, error) {
	return p.last(ctx, Ref{p.root.Node, p.root.Data}, p.root.Depth, 0, below)
}

// last is Last among the windows under one node.
func (p *Parent) last(ctx context.Context, ref Ref, level int, index, below int64) (int64, error) {
	if ref.Name.IsZero() || index*span(level) >= below {
		return -1, nil
	}
	if level == 0 {
		return index, nil
	}
	n, err := p.node(ctx, ref.Name, level, index)
	if err != nil {
		return 0, err
	}
	for i := int64(Fanout) - 1; i >= 0; i-- {
		w, err := p.last(ctx, n[i], level-1, index*Fanout+i, below)
		if w >= 0 || err != nil {
			return w, err
		}
	}
	return -1, nil
}
