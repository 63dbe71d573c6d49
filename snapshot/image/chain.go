package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/lull-backup/lull/snapshot"
)

// MaxDepth is the largest number of layers in a chain.
const MaxDepth = 64

// chain is a disk made of layers, top first.
type chain struct {
	layers []layer
	files  []*file
	bytes  int64 // Size
	end    sync.Once
}

// OpenChain opens the disk that the given layers make up, top first. Backing
// files are what the caller says, whatever the images name; only an image that
// names one where the caller's chain ends is refused, because what it left to its
// backing file would silently read as zeros.
//
// Every file is locked against writers until Close. Errors: snapshot.ErrBusy,
// ErrCorrupt, ErrUnsupported, and those of opening a file.
func OpenChain(ctx context.Context, layers []snapshot.Layer) (snapshot.Source, error) {
	if len(layers) == 0 || len(layers) > MaxDepth {
		return nil, fmt.Errorf("open chain of %d layers: 1 to %d are possible: %w", len(layers), MaxDepth, snapshot.ErrUnsupported)
	}
	c := &chain{}
	tables, inflat := newTableCache(), &inflater{}
	for i, l := range layers {
		err := ctx.Err()
		if err == nil {
			err = c.add(l, i == len(layers)-1, tables, inflat)
		}
		if err != nil {
			c.Close()
			return nil, fmt.Errorf("open image: %w", err)
		}
	}
	c.bytes = virtualSize(layers[0].Format, c.layers[0].size())
	return c, nil
}

// virtualSize is the size of the disk that an image of n bytes holds. A raw image
// is its disk to the byte, so that it comes back as it was; qcow2 counts sectors.
func virtualSize(format snapshot.Format, n int64) int64 {
	if format == snapshot.FormatRaw {
		return n
	}
	return roundUp(n, sectorSize)
}

func (c *chain) add(l snapshot.Layer, last bool, tables *tableCache, inflat *inflater) error {
	f, err := openFile(l.Path)
	if err != nil {
		return err
	}
	c.files = append(c.files, f)
	if err := lockForReading(f.File); err != nil {
		return err
	}
	switch l.Format {
	case snapshot.FormatRaw:
		if !last {
			return f.unsupported("raw image with a backing file")
		}
		c.layers = append(c.layers, raw{f})
		return nil
	case snapshot.FormatQcow2:
		h, err := readHeader(f)
		if err != nil {
			return err
		}
		if last && h.backing != "" {
			return f.corrupt("backing file %q is not in the chain", h.backing)
		}
		c.layers = append(c.layers, &qcow2{f: f, h: h, number: len(c.layers), tables: tables, inflat: inflat})
		return nil
	}
	return f.unsupported("format %q", l.Format)
}

func (c *chain) Size() int64 { return c.bytes }

func (c *chain) ReadAt(ctx context.Context, p []byte, off int64) error {
	if err := c.check(off, int64(len(p))); err != nil {
		return fmt.Errorf("read image: %w", err)
	}
	if err := c.read(ctx, 0, p, off); err != nil {
		return fmt.Errorf("read image at %d: %w", off, err)
	}
	return nil
}

// read fills p from the layers at depth and below.
func (c *chain) read(ctx context.Context, depth int, p []byte, off int64) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if depth == len(c.layers) {
		clear(p)
		return nil
	}
	l := c.layers[depth]
	have := max(0, min(int64(len(p)), l.size()-off))
	clear(p[have:])
	if have == 0 {
		return nil
	}
	return l.read(p[:have], off, func(p []byte, off int64) error {
		return c.read(ctx, depth+1, p, off)
	})
}

func (c *chain) Extents(ctx context.Context, off, length int64) ([]snapshot.Extent, error) {
	if err := c.check(off, length); err != nil {
		return nil, fmt.Errorf("map image: %w", err)
	}
	var out []snapshot.Extent
	err := c.walk(ctx, 0, off, length, func(off, n int64, zero bool) {
		if last := len(out) - 1; last >= 0 && out[last].Zero == zero {
			out[last].Length += n
			return
		}
		out = append(out, snapshot.Extent{Offset: off, Length: n, Zero: zero})
	})
	if err != nil {
		return nil, fmt.Errorf("map image at %d: %w", off, err)
	}
	return out, nil
}

// walk tells emit what n bytes at off are, by the layers at depth and below.
func (c *chain) walk(ctx context.Context, depth int, off, n int64, emit func(off, n int64, zero bool)) error {
	for n > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		if depth == len(c.layers) || off >= c.layers[depth].size() {
			emit(off, n, true)
			return nil
		}
		l := c.layers[depth]
		pc, err := l.lookup(off, min(n, l.size()-off))
		if err != nil {
			return err
		}
		if pc.kind != kindAbsent {
			emit(off, pc.length, pc.kind == kindZero)
		} else if err := c.walk(ctx, depth+1, off, pc.length, emit); err != nil {
			return err
		}
		off, n = off+pc.length, n-pc.length
	}
	return nil
}

// Close gives the locks back. Safe to call twice.
func (c *chain) Close() error {
	var errs []error
	c.end.Do(func() {
		for _, f := range c.files {
			errs = append(errs, f.Close())
		}
	})
	return errors.Join(errs...)
}

func (c *chain) check(off, length int64) error {
	if off < 0 || length < 0 || off > c.bytes || length > c.bytes-off {
		return fmt.Errorf("%d bytes at %d of a disk of %d: %w", length, off, c.bytes, io.ErrUnexpectedEOF)
	}
	return nil
}
