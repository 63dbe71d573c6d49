package qemu

import (
	"bytes"
	"context"
	"errors"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/image"
)

// comparison bounds how much of two images is held at a time, in bytes.
const comparison = 1 << 20

// sameContent tells whether an image says the same with a delta upon it as
// without. It costs what the delta holds, not what the image holds.
func sameContent(ctx context.Context, d snapshot.DiskPlan, delta string) (bool, error) {
	top := snapshot.Layer{Path: delta, Format: snapshot.FormatQcow2}
	alone, err := image.OpenChain(ctx, []snapshot.Layer{top})
	if err != nil {
		return false, err
	}
	defer alone.Close()
	with, err := image.OpenChain(ctx, append([]snapshot.Layer{top}, d.Chain...))
	if err != nil {
		return false, err
	}
	defer with.Close()
	without, err := image.OpenChain(ctx, d.Chain)
	if err != nil {
		return false, err
	}
	defer without.Close()
	if with.Size() != without.Size() || alone.Size() != with.Size() {
		return false, nil
	}
	c := comparer{alone: alone, with: with, without: without, a: make([]byte, comparison), b: make([]byte, comparison)}
	err = c.run(ctx)
	if errors.Is(err, errDiffers) {
		return false, nil
	}
	return err == nil, err
}

var errDiffers = errors.New("the images differ")

type comparer struct {
	alone, with, without snapshot.Source
	a, b                 []byte
}

// run compares where the two can differ: where the delta alone has data, and
// where it hides data below by zeros. There the chain reads as zeros.
func (c comparer) run(ctx context.Context) error {
	for off := int64(0); off < c.with.Size(); off += comparison {
		n := min(comparison, c.with.Size()-off)
		err := each(ctx, c.alone, off, n, false, c.equal)
		if err == nil {
			err = each(ctx, c.with, off, n, true, func(ctx context.Context, off, n int64) error {
				return each(ctx, c.without, off, n, false, c.equal)
			})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// each calls fn for the extents of a range that are zero, or are not.
func each(ctx context.Context, s snapshot.Source, off, n int64, zero bool, fn func(ctx context.Context, off, n int64) error) error {
	extents, err := s.Extents(ctx, off, n)
	if err != nil {
		return err
	}
	for _, e := range extents {
		if e.Zero != zero {
			continue
		}
		if err := fn(ctx, e.Offset, e.Length); err != nil {
			return err
		}
	}
	return nil
}

func (c comparer) equal(ctx context.Context, off, n int64) error {
	if err := c.with.ReadAt(ctx, c.a[:n], off); err != nil {
		return err
	}
	if err := c.without.ReadAt(ctx, c.b[:n], off); err != nil {
		return err
	}
	if !bytes.Equal(c.a[:n], c.b[:n]) {
		return errDiffers
	}
	return nil
}
