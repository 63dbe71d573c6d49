package merge

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/dustin/go-humanize"
	"golang.org/x/sys/unix"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/image"
	"github.com/lull-backup/lull/snapshot/image/layer"
)

const (
	maxNeighbours = 10000
	spare         = 16 << 20 // bytes that stay free beside what a merge takes
)

// look refuses what cannot come to a good end.
func (r *run) look(ctx context.Context, child image.Info, parent format) error {
	if err := parent.writable(); err != nil {
		return err
	}
	if id := parent.Identity().ID; id != child.ParentID {
		return snapshot.WithHint(
			fmt.Errorf("%s is not, or no longer, what it was made on: it has %s, not %s: %w", r.parentPath, orNone(id), child.ParentID, snapshot.ErrCorrupt),
			"find the parent as it was then; merged into another, the disk would be neither the one nor the other")
	}
	if err := r.unchanged(); err != nil {
		return err
	}
	if c, p := r.child.Size(), parent.Size(); c != p {
		return r.parentFile.Unsupported("disk of %d bytes, but %d in %s: it was resized", p, c, r.Child)
	}
	if c, p := r.child.sector(), parent.sector(); c != p {
		return r.parentFile.Unsupported("sectors of %d bytes, but %d in %s", p, c, r.Child)
	}
	if err := r.alone(child); err != nil {
		return err
	}
	return r.room(ctx, parent)
}

func orNone(id string) string {
	if id == "" {
		return "no identity"
	}
	return id
}

// unchanged refuses a VHD parent whose time is not what it was. Its identity would
// not tell.
func (r *run) unchanged() error {
	if r.Unchanged {
		return nil
	}
	why, err := image.Doubts([]snapshot.Layer{{Path: r.Child, Format: r.Format}, {Path: r.parentPath, Format: r.Format}})
	if err != nil || len(why) == 0 {
		return err
	}
	return snapshot.WithHint(fmt.Errorf("%s: %w", strings.Join(why, ", "), snapshot.ErrInexact),
		"where you know that it was copied only, and not started, give --parent-unchanged")
}

// alone refuses while another image beside these two was made on one of them: to it
// the merge would be a disk that changes below it.
func (r *run) alone(child image.Info) error {
	for _, dir := range folders(r.Child, r.parentPath) {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return err
		}
		if len(entries) > maxNeighbours {
			return fmt.Errorf("%s holds %d files, too many to look for other images: %w", dir, len(entries), snapshot.ErrUnsupported)
		}
		for _, e := range entries {
			path := filepath.Join(dir, e.Name())
			if !e.Type().IsRegular() || !r.kin(path) {
				continue
			}
			info, err := image.Inspect(path, r.Format)
			switch {
			case errors.Is(err, snapshot.ErrCorrupt), errors.Is(err, snapshot.ErrUnsupported): // nobody reads through it
			case err != nil:
				return err
			case info.ParentID == child.ParentID && info.ID != child.ID:
				return snapshot.WithHint(fmt.Errorf("%s was made on %s, too: %w", path, r.parentPath, snapshot.ErrBusy),
					"back up what it holds and remove it first, or work on a copy of the parent")
			case info.ParentID == child.ID:
				return snapshot.WithHint(fmt.Errorf("%s was made on %s: %w", path, r.Child, snapshot.ErrBusy),
					"merge that one first")
			}
		}
	}
	return nil
}

// kin tells whether a file may be an image of the format, by its name.
func (r *run) kin(path string) bool {
	ending := strings.ToLower(filepath.Ext(path))
	return ending == "."+string(r.Format) || ending == ".a"+string(r.Format)
}

// room refuses where the parent would grow beyond what is free.
func (r *run) room(ctx context.Context, parent format) error {
	var need int64
	err := r.pieces(ctx, 0, func(off, n int64, zero bool) error {
		for n > 0 && !zero {
			pc, err := parent.Lookup(off, n)
			if err != nil {
				return err
			}
			if pc.Kind != layer.Data {
				need += pc.Length
			}
			off, n = off+pc.Length, n-pc.Length
		}
		return nil
	})
	if err != nil {
		return err
	}
	var s unix.Statfs_t
	if err := unix.Fstatfs(int(r.parentFile.Fd()), &s); err != nil {
		return fmt.Errorf("look for room: %w", err)
	}
	if free := int64(s.Bavail) * s.Bsize; s.Blocks != 0 && free < need+spare {
		return snapshot.WithHint(fmt.Errorf("%s takes %s more, %s are free: %w", r.parentPath,
			humanize.IBytes(uint64(need)), humanize.IBytes(uint64(max(free, 0))), snapshot.ErrNoSpace),
			"make room and run it again")
	}
	return nil
}

// Pending is the image whose merge into a parent was not finished; empty for none.
func Pending(parent string) (child string, err error) {
	j, err := readJournal(parent)
	if err != nil || j == nil {
		return "", err
	}
	return j.Child, nil
}
