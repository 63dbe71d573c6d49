package image

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/lull-backup/lull/snapshot"
)

// Images creates raw and qcow2 files. It implements snapshot.Images; the zero
// value is ready for use.
type Images struct {
	// Wipe has what was written overwritten where an image is given up.
	Wipe bool
}

var _ snapshot.Images = Images{}

// MaxSize is the largest disk that is written, in bytes: what an L1 table of
// the size that QEMU accepts covers with clusters of 64 KiB.
const MaxSize = maxL1Bytes / 8 * writerL2Span

// Create starts an image. A raw image takes any size; one of qcow2 is padded to
// a multiple of 512. Errors: snapshot.ErrExists; ErrBusy when the file to replace
// is open in a QEMU; ErrUnsupported; ErrNoSpace.
func (i Images) Create(ctx context.Context, path string, format snapshot.Format, size int64, overwrite bool) (snapshot.Target, error) {
	t, err := i.create(ctx, path, format, size, overwrite)
	if err != nil {
		return nil, fmt.Errorf("create image %s: %w", path, noSpace(err))
	}
	return t, nil
}

func (i Images) create(ctx context.Context, path string, format snapshot.Format, size int64, overwrite bool) (snapshot.Target, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if size < 0 || size > MaxSize {
		return nil, fmt.Errorf("disk of %d bytes: %w", size, snapshot.ErrUnsupported)
	}
	if format != snapshot.FormatRaw && format != snapshot.FormatQcow2 {
		return nil, fmt.Errorf("format %q: %w", format, snapshot.ErrUnsupported)
	}
	d, err := newDraft(path, overwrite)
	if err != nil {
		return nil, err
	}
	d.wipe = i.Wipe
	if format == snapshot.FormatQcow2 {
		return newQcow2Target(d, size), nil
	}
	if err := d.f.Truncate(size); err != nil {
		return nil, errors.Join(err, d.abort())
	}
	return &rawTarget{draft: d, size: size}, nil
}

// noSpace makes a full file system recognizable.
func noSpace(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return fmt.Errorf("%w: %w", snapshot.ErrNoSpace, err)
	}
	return err
}
