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
// without. It reads what the image holds; there is seldom a reason to ask.
func sameContent(ctx context.Context, d snapshot.DiskPlan, delta string) (bool, error) {
	top := snapshot.Layer{Path: delta, Format: snapshot.FormatQcow2}
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
	if with.Size() != without.Size() {
		return false, nil
	}
	c := comparer{with: with, without: without, a: make([]byte, comparison), b: make([]byte, comparison)}
	err = c.run(ctx)
	if errors.Is(err, errDiffers) {
		return false, nil
	}
	return err == nil, err
}

var errDiffers = errors.New("the images differ")

type comparer struct {
	with, without snapshot.Source
	a, b          []byte
}

// run compares wherever one of the two has data.
func (c comparer) run(ctx context.Context) error {
	for off := int64(0); off < c.with.Size(); off += comparison {
		n := min(comparison, c.with.Size()-off)
		for _, s := range []snapshot.Source{c.with, c.without} {
			extents, err := s.Extents(ctx, off, n)
			if err != nil {
				return err
			}
			for _, e := range extents {
				if e.Zero {
					continue
				}
				if err := c.equal(ctx, e.Offset, e.Length); err != nil {
					return err
				}
			}
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
