package transport

import (
	"context"
	"fmt"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/transport/repo"
)

// Restore writes a whole stream into target, which the caller then commits or
// aborts. What is not written reads as zeros. Progress counts bytes written.
func Restore(ctx context.Context, r *repo.Repository, root repo.Root, target snapshot.Target, o Options) error {
	return r.ReadStream(ctx, root, o.workers(restoreWorkers), writeTo(target, o))
}

// Salvage is Restore that goes on past what is damaged. It returns what it did not
// write although it is not known to be zeros.
func Salvage(ctx context.Context, r *repo.Repository, root repo.Root, target snapshot.Target, o Options) ([]repo.Hole, error) {
	return r.SalvageStream(ctx, root, o.workers(restoreWorkers), writeTo(target, o))
}

func writeTo(target snapshot.Target, o Options) repo.Write {
	return func(ctx context.Context, off int64, p []byte) error {
		if err := target.WriteAt(ctx, p, off); err != nil {
			return fmt.Errorf("write %d bytes at %d: %w", len(p), off, err)
		}
		o.progress(int64(len(p)))
		return nil
	}
}
