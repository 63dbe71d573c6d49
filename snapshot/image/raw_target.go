package image

import (
	"context"
	"fmt"
	"io/fs"
)

// rawTarget is a raw image in the making: a sparse file of its final size.
type rawTarget struct {
	draft *draft
	size  int64
}

func (t *rawTarget) WriteAt(ctx context.Context, p []byte, off int64) error {
	if err := checkWrite(ctx, p, off, t.size); err != nil {
		return fmt.Errorf("write image %s: %w", t.draft.path, err)
	}
	for len(p) > 0 {
		skip, data := nextData(p)
		if data > 0 {
			if err := t.draft.writeAt(p[skip:skip+data], off+int64(skip)); err != nil {
				return fmt.Errorf("write image %s: %w", t.draft.path, noSpace(err))
			}
		}
		p, off = p[skip+data:], off+int64(skip+data)
	}
	return nil
}

func (t *rawTarget) Commit() error {
	if err := t.draft.commit(func() error { return nil }); err != nil {
		return fmt.Errorf("commit image %s: %w", t.draft.path, noSpace(err))
	}
	return nil
}

func (t *rawTarget) Abort() error {
	if err := t.draft.abort(); err != nil {
		return fmt.Errorf("abort image %s: %w", t.draft.path, err)
	}
	return nil
}

// checkWrite sees that a write lies in the disk and on page borders.
func checkWrite(ctx context.Context, p []byte, off, size int64) error {
	end := off + int64(len(p))
	if off < 0 || end < off || end > size || off%pageSize != 0 || (end%pageSize != 0 && end != size) {
		return fmt.Errorf("%d bytes at %d, in a disk of %d: %w", len(p), off, size, fs.ErrInvalid)
	}
	return ctx.Err()
}
