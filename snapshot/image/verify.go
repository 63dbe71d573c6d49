package image

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/image/layer"
)

const (
	verifyStep = 1 << 30

	// maxPlaces bounds how many places of blocks are held to find two that overlap:
	// 4 TiB of blocks of 1 MiB. Beyond, overlaps are not looked for.
	maxPlaces = 4 << 20
)

// Verify goes through the tables of every image of a chain, top first, and sees that
// they add up: checksums, the bounds of everything, that images fit upon each other,
// and of VHD and VHDX that no two blocks share a place. It reads no data. The images
// are locked against writers meanwhile. Its error has one line for each image that is
// damaged.
func Verify(ctx context.Context, layers []snapshot.Layer) error {
	src, err := OpenChain(ctx, layers)
	if err != nil {
		return fmt.Errorf("verify chain: %w", err)
	}
	defer src.Close()
	var errs []error
	for _, i := range src.(*chain).open.images {
		if err := i.verify(ctx); err != nil {
			errs = append(errs, fmt.Errorf("verify image: %w", err))
		}
	}
	return errors.Join(errs...)
}

// place is where a block is in its file.
type place struct{ at, end, disk int64 }

func (i *openImage) verify(ctx context.Context) error {
	var places []place
	blocks := i.info.Format == snapshot.FormatVHD || i.info.Format == snapshot.FormatVHDX
	for off, size := int64(0), i.Size(); off < size; {
		if err := ctx.Err(); err != nil {
			return err
		}
		pc, err := i.Lookup(off, min(verifyStep, size-off))
		if err != nil {
			return err
		}
		if blocks && pc.Kind == layer.Data && len(places) <= maxPlaces {
			places = joined(places, place{pc.Host, pc.Host + pc.Length, off})
		}
		off += pc.Length
	}
	if len(places) > maxPlaces {
		return nil
	}
	slices.SortFunc(places, func(a, b place) int { return cmp.Compare(a.at, b.at) })
	for n := 1; n < len(places); n++ {
		if a, b := places[n-1], places[n]; b.at < a.end {
			return i.files[0].Corrupt("what is at %#x of the disk and what is at %#x share a place at %#x of the file", a.disk, b.disk, b.at)
		}
	}
	return nil
}

// joined appends a place, or makes the last one longer that it continues.
func joined(places []place, p place) []place {
	if n := len(places); n > 0 && places[n-1].end == p.at && places[n-1].disk+places[n-1].end-places[n-1].at == p.disk {
		places[n-1].end = p.end
		return places
	}
	return append(places, p)
}
