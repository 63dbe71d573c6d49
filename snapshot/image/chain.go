package image

import (
	"context"
	"fmt"
	"io"
	"sync"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/image/layer"
)

// MaxDepth is the largest number of layers in a chain.
const MaxDepth = 64

// chain is a disk made of layers, top first.
type chain struct {
	open   *opener
	layers []layer.Layer
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
	c := &chain{open: newOpener(true)}
	for i, l := range layers {
		err := ctx.Err()
		if err == nil {
			err = c.add(l, i == len(layers)-1)
		}
		if err != nil {
			c.Close()
			return nil, fmt.Errorf("open image: %w", err)
		}
	}
	c.bytes = c.open.images[0].info.Size
	return c, nil
}

// virtualSize is the size of the disk that an image of n bytes holds. A raw image
// is its disk to the byte, so that it comes back as it was; others count sectors.
func virtualSize(format snapshot.Format, n int64) int64 {
	if format == snapshot.FormatRaw {
		return n
	}
	return layer.RoundUp(n, layer.SectorSize)
}

func (c *chain) add(l snapshot.Layer, last bool) error {
	i, err := c.open.open(l)
	if err != nil {
		return err
	}
	f := i.files[0]
	switch {
	case l.Format == snapshot.FormatRaw && !last:
		return f.Unsupported("raw image with a backing file")
	case last && i.info.Backing != "":
		return f.Corrupt("backing file %q is not in the chain", i.info.Backing)
	}
	if n := len(c.layers); n > 0 {
		if err := i.fits(c.open.images[n-1]); err != nil {
			return err
		}
	}
	c.layers = append(c.layers, i.Layer)
	return nil
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
	have := max(0, min(int64(len(p)), l.Size()-off))
	clear(p[have:])
	if have == 0 {
		return nil
	}
	return l.Read(p[:have], off, func(p []byte, off int64) error {
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
		if depth == len(c.layers) || off >= c.layers[depth].Size() {
			emit(off, n, true)
			return nil
		}
		l := c.layers[depth]
		pc, err := l.Lookup(off, min(n, l.Size()-off))
		if err != nil {
			return err
		}
		if pc.Kind != layer.Absent {
			emit(off, pc.Length, pc.Kind == layer.Zero)
		} else if err := c.walk(ctx, depth+1, off, pc.Length, emit); err != nil {
			return err
		}
		off, n = off+pc.Length, n-pc.Length
	}
	return nil
}

// Close gives the locks back. Safe to call twice.
func (c *chain) Close() error {
	var err error
	c.end.Do(func() { err = c.open.close() })
	return err
}

func (c *chain) check(off, length int64) error {
	if off < 0 || length < 0 || off > c.bytes || length > c.bytes-off {
		return fmt.Errorf("%d bytes at %d of a disk of %d: %w", length, off, c.bytes, io.ErrUnexpectedEOF)
	}
	return nil
}
