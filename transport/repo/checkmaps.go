package repo

import (
	"context"
	"errors"
	"fmt"

	"github.com/lull-backup/lull/transport/block"
	"github.com/lull-backup/lull/transport/repo/internal/index"
	"github.com/lull-backup/lull/transport/repo/internal/tree"
	"github.com/lull-backup/lull/transport/repo/internal/wire"
)

// checkPoints reads every manifest.
func (c *checker) checkPoints(ctx context.Context) error {
	for _, info := range c.manifests {
		p, err := c.r.readPoint(ctx, c.r.store, info)
		if errors.Is(err, errFence) {
			continue
		}
		if err != nil {
			if err := c.problem(info.Name, err); err != nil {
				return err
			}
			continue
		}
		c.points = append(c.points, p)
	}
	c.report.Points = len(c.points)
	return nil
}

// checkMaps walks over the maps of all points, each node once, and looks every
// block up.
func (c *checker) checkMaps(ctx context.Context) error {
	seen := map[block.Name]bool{}
	for i := range c.points {
		if err := c.walk(ctx, &c.points[i], seen, func(string) {}); err != nil {
			return err
		}
	}
	return nil
}

// checkLost finds the points that need a bad pack or a missing block. It walks
// again, over each point's whole map, only when there is anything bad.
func (c *checker) checkLost(ctx context.Context) error {
	if len(c.bad) == 0 {
		return nil
	}
	for i := range c.points {
		p := &c.points[i]
		if err := c.walk(ctx, p, map[block.Name]bool{}, func(object string) { c.hit(object, p.ID) }); err != nil {
			return err
		}
	}
	return nil
}

// walk goes over the maps of a point but for the nodes that were seen, and tells
// touch of each object that is met.
func (c *checker) walk(ctx context.Context, p *Point, seen map[block.Name]bool, touch func(object string)) error {
	nodes := c.nodes()
	visit := func(name block.Name) error {
		loc, ok, err := c.index.Lookup(name)
		if err != nil {
			return err
		}
		if !ok {
			object := indexPrefix
			touch(object)
			return c.problem(object, fmt.Errorf("%w: block %s is in no index object", wire.ErrDamaged, name))
		}
		touch(packObject(loc.Pack))
		return nil
	}
	w := tree.Walker{
		Load: nodes.load,
		Enter: func(name block.Name) bool {
			fresh := !seen[name]
			seen[name] = true
			if loc, ok, _ := c.index.Lookup(name); ok && fresh {
				touch(packObject(loc.Pack))
			}
			return fresh
		},
		Bad: func(name block.Name, _ tree.Span, err error) error {
			return errors.Join(c.badNode(name, err), visit(name))
		},
		Leaf: func(_ int64, entries []tree.Entry) error {
			for i := range entries {
				if err := visit(entries[i].Name); err != nil {
					return err
				}
			}
			return nil
		},
	}
	for root := range p.roots() {
		if err := w.Walk(ctx, tree.Root(root)); err != nil {
			return err
		}
	}
	return nil
}

// nodes reads map nodes by the index that is checked.
func (c *checker) nodes() *nodes {
	return &nodes{
		r: c.r, store: c.r.store,
		find: func(_ context.Context, name block.Name) (index.Location, error) {
			loc, ok, err := c.index.Lookup(name)
			if !ok && err == nil {
				err = noBlock(name)
			}
			return loc, err
		},
		damaged: func(err error) error { return c.problem("", err) },
	}
}

// badNode takes down what is wrong with a node, by the pack that holds it.
func (c *checker) badNode(name block.Name, err error) error {
	object := indexPrefix
	if loc, ok, _ := c.index.Lookup(name); ok {
		object = packObject(loc.Pack)
	}
	return c.problem(object, err)
}
