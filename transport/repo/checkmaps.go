package repo

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/transport/block"
	"github.com/lull-backup/lull/transport/repo/internal/index"
	"github.com/lull-backup/lull/transport/repo/internal/tree"
	"github.com/lull-backup/lull/transport/repo/internal/wire"
)

// Loss is what one disk or file of a restore point has lost.
type Loss struct {
	VM    string            `json:"vm"`
	Point string            `json:"point"`
	Disk  string            `json:"disk,omitempty"` // its name; or
	File  snapshot.FileRole `json:"file,omitempty"`
	Bytes int64             `json:"bytes"` // at most: holes of a damaged map count whole
	Holes []Hole            `json:"holes"` // the first ones
	More  int               `json:"more,omitempty"`
}

// maxLossHoles bounds the holes that a Loss names.
const maxLossHoles = 1000

func (l *Loss) add(off, length int64, err error) {
	l.Bytes += length
	if joined := appendHole(l.Holes, newHole(off, length, err)); len(joined) <= maxLossHoles {
		l.Holes = joined
		return
	}
	l.More++
}

// checkedPoint is what a check remembers of a point.
type checkedPoint struct {
	vm, id  string
	frozen  time.Time
	streams []checkedStream
}

type checkedStream struct {
	disk string
	file snapshot.FileRole
	root Root
}

// streams are the disks and files of a point.
func (p *Point) streams() iter.Seq[checkedStream] {
	return func(yield func(checkedStream) bool) {
		for _, d := range p.Disks {
			if !yield(checkedStream{disk: d.Name, root: d.Root}) {
				return
			}
		}
		for _, f := range p.Files {
			if !yield(checkedStream{file: f.Role, root: f.Root}) {
				return
			}
		}
	}
}

// checkPoints reads every manifest.
func (c *checker) checkPoints(ctx context.Context) error {
	gone := givenUp{r: c.r}
	for _, info := range c.manifests {
		p, err := gone.read(ctx, c.r.store, info)
		if errors.Is(err, errFence) {
			continue
		}
		if err != nil {
			if err := c.problem(info.Name, err); err != nil {
				return err
			}
			continue
		}
		c.points = append(c.points, checkedPoint{p.VM, p.ID, p.Frozen, slices.Collect(p.streams())})
		c.links = append(c.links, Point{VM: p.VM, ID: p.ID, Parent: p.Parent, ParentHash: p.ParentHash, Heads: c.unnamed(p.Heads), Hash: p.Hash})
	}
	slices.SortFunc(c.points, func(a, b checkedPoint) int {
		return cmp.Or(cmp.Compare(a.vm, b.vm), a.frozen.Compare(b.frozen), cmp.Compare(a.id, b.id))
	})
	c.report.Points = len(c.points)
	return nil
}

// unnamed are the heads that no point has named before, for one that is looked for once is
// enough: what a check holds of them grows with the points, not with points times VMs.
func (c *checker) unnamed(heads []Head) (fresh []Head) {
	for _, h := range heads {
		if _, named := c.heads[h]; !named {
			c.heads[h] = struct{}{}
			fresh = append(fresh, h)
		}
	}
	return fresh
}

// checkMaps walks over the maps of all points and looks every block up. What is whole
// is looked into once; what is hurt again for each point that has it.
func (c *checker) checkMaps(ctx context.Context) error {
	c.nodes = &nodes{
		r: c.r, store: c.r.store, damaged: c.damagedNode,
		find: func(_ context.Context, name block.Name) (index.Location, error) {
			loc, ok, err := c.index.Lookup(name)
			if !ok && err == nil {
				err = c.whyLost(name)
			}
			return loc, err
		},
	}
	for i := range c.points {
		p := &c.points[i]
		for _, s := range p.streams {
			l := Loss{VM: p.vm, Point: p.id, Disk: s.disk, File: s.file}
			if err := c.walk(ctx, s.root, &l); err != nil {
				return err
			}
			if l.Bytes > 0 {
				c.lost = append(c.lost, l)
				c.hurt = append(c.hurt, s.root)
			}
		}
	}
	return nil
}

// damagedNode takes down the pack that a node could not be read from, and steers clear
// of it.
func (c *checker) damagedNode(err error) error {
	var known *objectError
	if errors.As(err, &known) {
		if name, ok := sumOf(known.object); ok && packObject(name) == known.object {
			c.index.Doubt(name)
		}
	}
	return c.problem("", err)
}

// walk goes over the map of a stream but for what is known to be clean, and takes down
// what is lost.
func (c *checker) walk(ctx context.Context, root Root, l *Loss) error {
	var before []int64 // bytes lost, at each node that is being looked into
	lose := func(off, length int64, err error) error {
		var known *objectError
		if !errors.As(err, &known) {
			return err
		}
		if err := c.problem("", err); err != nil {
			return err
		}
		c.hit(known.object, l.Point)
		l.add(off, length, err)
		return nil
	}
	w := tree.Walker{
		Load: c.nodes.load,
		Enter: func(name block.Name) (bool, error) {
			clean, err := c.clean.has(name)
			if !clean && err == nil {
				before = append(before, l.Bytes)
			}
			return !clean, err
		},
		Leave: func(name block.Name) error {
			last := len(before) - 1
			clean := before[last] == l.Bytes
			if before = before[:last]; !clean {
				return nil
			}
			return c.clean.add(ctx, name)
		},
		Bad: func(name block.Name, at tree.Span, err error) error {
			off, length := at.Bytes(root.Size)
			return lose(off, length, c.badNode(name, err))
		},
		Leaf: func(window int64, entries []tree.Entry) error {
			length := tree.WindowLen(root.Size, window)
			for i := range entries {
				_, ok, err := c.index.Lookup(entries[i].Name)
				if !ok && err == nil {
					start, end := entries[i].Range(length)
					err = lose(window*block.WindowSize+int64(start), int64(end-start), c.whyLost(entries[i].Name))
				}
				if err != nil {
					return err
				}
			}
			return nil
		},
	}
	return w.Walk(ctx, tree.Root(root))
}

// whyLost says why a block cannot be had: the pack that it was in is damaged, or no
// index object lists it.
func (c *checker) whyLost(name block.Name) error {
	loc, ok, err := c.gone.Lookup(name)
	if err != nil {
		return err
	}
	if !ok {
		return noBlock(name)
	}
	return objectErr(packObject(loc.Pack), fmt.Errorf("%w: segment at %d cannot be read", wire.ErrDamaged, loc.SegmentOffset))
}

// badNode is err with the pack that holds a node, when it names none.
func (c *checker) badNode(name block.Name, err error) error {
	object := indexPrefix
	if loc, ok, _ := c.index.Lookup(name); ok {
		object = packObject(loc.Pack)
	}
	return objectErr(object, err)
}
