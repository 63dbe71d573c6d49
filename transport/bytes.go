package transport

import (
	"context"
	"errors"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/transport/repo"
)

// BackupBytes stores a small file whole.
func BackupBytes(ctx context.Context, s *repo.Session, data []byte) (repo.Root, error) {
	stored, err := Backup(ctx, s, bytesSource(data), nil, Options{Workers: 1})
	return stored.Root, err
}

// RestoreBytes reads back what BackupBytes stored; more than limit bytes is an
// error, and so is nothing read for it.
func RestoreBytes(ctx context.Context, r *repo.Repository, root repo.Root, limit int64) ([]byte, error) {
	if root.Size < 0 || root.Size > limit {
		return nil, errTooLarge
	}
	data := make([]byte, root.Size)
	err := r.ReadStream(ctx, root, 1, func(_ context.Context, off int64, p []byte) error {
		copy(data[off:], p)
		return nil
	})
	return data, err
}

var (
	errTooLarge = errors.New("file is larger than it may be")
	errRange    = errors.New("read past the end")
)

// bytesSource is a Source over memory.
type bytesSource []byte

func (b bytesSource) Size() int64 { return int64(len(b)) }

func (b bytesSource) Extents(_ context.Context, off, length int64) ([]snapshot.Extent, error) {
	return []snapshot.Extent{{Offset: off, Length: length}}, nil
}

func (b bytesSource) ReadAt(_ context.Context, p []byte, off int64) error {
	if off < 0 || off+int64(len(p)) > int64(len(b)) {
		return errRange
	}
	copy(p, b[off:])
	return nil
}

func (b bytesSource) Close() error { return nil }
