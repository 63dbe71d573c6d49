package agent

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/transport"
	"github.com/lull-backup/lull/transport/repo"
)

// restoreMemory is the saved state of a VM, and the file that it is written into:
// like a raw disk, as it may be as large.
type restoreMemory struct {
	repo.File
	path   string
	target snapshot.Target
}

func (r *restore) placeMemory(f repo.File, n *names) {
	if r.Cold || r.BestEffort || !r.definable() || r.memory != nil {
		return
	}
	r.memory = &restoreMemory{File: f, path: filepath.Join(r.Dir, n.pick("memory.state", string(f.Role)))}
}

// writeMemory writes the memory; it gets its name with the disks.
func (r *restore) writeMemory(ctx context.Context) (err error) {
	m := r.memory
	if m == nil {
		return nil
	}
	if m.target, err = r.Images.Create(ctx, m.path, snapshot.FormatRaw, m.Root.Size, r.Overwrite); err != nil {
		return fmt.Errorf("create file of memory: %w", err)
	}
	if err := transport.Restore(ctx, r.Repository, m.Root, m.target, transport.Options{Workers: r.Workers}); err != nil {
		return fmt.Errorf("memory: %w", err)
	}
	r.files = append(r.files, snapshot.RestoredFile{File: m.File.File, Now: m.path})
	return nil
}
