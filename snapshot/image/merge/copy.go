package merge

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/image/layer"
)

// step is how much is copied at a time, bytes.
const step = 1 << 20

// pieces goes through what the child has from a place on its disk on, in pieces of
// a step at most. zero: it reads as zeros.
func (r *run) pieces(ctx context.Context, from int64, each func(off, n int64, zero bool) error) error {
	for off, size := from, r.child.Size(); off < size; {
		if err := ctx.Err(); err != nil {
			return err
		}
		pc, err := r.child.Lookup(off, min(step, size-off))
		if err != nil {
			return err
		}
		if pc.Kind != layer.Absent {
			if err := each(off, pc.Length, pc.Kind == layer.Zero); err != nil {
				return err
			}
		}
		off += pc.Length
	}
	return nil
}

// copy writes what the child has into the parent.
func (r *run) copy(ctx context.Context) error {
	parent, err := r.parent()
	if err != nil {
		return err
	}
	w := parent.writer(r.dev, r.j.End)
	buf, begun := make([]byte, step), int64(0)
	err = r.pieces(ctx, r.j.Position, func(off, n int64, zero bool) error {
		if begun >= r.batch || w.Pending() >= maxPending {
			if err := r.commit(w, off); err != nil {
				return err
			}
			begun = 0
		}
		written, err := r.copyPiece(parent, w, buf[:n], off, zero)
		begun += written
		if r.Progress != nil {
			r.Progress(off+n, r.child.Size())
		}
		return err
	})
	if err != nil {
		return err
	}
	return r.commit(w, r.child.Size())
}

// copyPiece writes one piece, but zeros where there are zeros.
func (r *run) copyPiece(parent format, w layer.Writer, p []byte, off int64, zero bool) (written int64, err error) {
	if !zero {
		if err := r.child.Read(p, off, nothing); err != nil {
			return 0, err
		}
		r.written += int64(len(p))
		return int64(len(p)), w.Write(p, off)
	}
	clear(p)
	for len(p) > 0 {
		pc, err := parent.Lookup(off, int64(len(p)))
		if err != nil {
			return written, err
		}
		part := p[:min(layer.RoundUp(pc.Length, parent.sector()), int64(len(p)))]
		if pc.Kind != layer.Zero {
			if err := w.Write(part, off); err != nil {
				return written, err
			}
			written += int64(len(part))
		}
		p, off = p[len(part):], off+int64(len(part))
	}
	r.written += written
	return written, nil
}

// commit makes what was written until now part of the parent.
func (r *run) commit(w layer.Writer, position int64) error {
	if err := r.save(w, position); err != nil {
		return err
	}
	return r.apply()
}

// nothing stands for the layers below: what the child has is its own.
func nothing([]byte, int64) error { return errNotThere }

var errNotThere = errors.New("sectors are missing")

// compare reads back all that the child has.
func (r *run) compare(ctx context.Context) error {
	parent, err := r.parent()
	if err != nil {
		return fmt.Errorf("look at what was written: %w", err)
	}
	want, got := make([]byte, step), make([]byte, step)
	return r.pieces(ctx, 0, func(off, n int64, zero bool) error {
		clear(want[:n])
		if !zero {
			if err := r.child.Read(want[:n], off, nothing); err != nil {
				return err
			}
		}
		err := parent.Read(got[:n], off, nothing)
		if err == nil && !bytes.Equal(want[:n], got[:n]) {
			err = errors.New("it reads otherwise")
		}
		if err != nil {
			return fmt.Errorf("compare %s at %d: %w: %w", r.parentPath, off, snapshot.ErrCorrupt, err)
		}
		return nil
	})
}

// noSpace makes a full file system recognizable.
func noSpace(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return snapshot.WithHint(fmt.Errorf("%w: %w", snapshot.ErrNoSpace, err), "make room and run it again: it goes on where it was")
	}
	return err
}
