package image

import (
	"context"
	"fmt"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/image/layer"
)

// Blank tells whether an image holds nothing of its own: all of its disk shows through from
// below. It reads tables, and no data, and nobody may write to the image meanwhile. Errors:
// snapshot.ErrBusy, ErrCorrupt, ErrUnsupported, and those of opening a file.
func Blank(ctx context.Context, path string, format snapshot.Format) (blank bool, err error) {
	o := newOpener(true)
	defer o.close()
	i, err := o.open(snapshot.Layer{Path: path, Format: format})
	if err != nil {
		return false, fmt.Errorf("open image: %w", err)
	}
	if i.info.Snapshots > 0 {
		return false, nil
	}
	for off := int64(0); off < i.Size(); {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		pc, err := i.Lookup(off, i.Size()-off)
		if err != nil {
			return false, fmt.Errorf("map image at %d: %w", off, err)
		}
		if pc.Kind != layer.Absent {
			return false, nil
		}
		off += pc.Length
	}
	return true, nil
}
