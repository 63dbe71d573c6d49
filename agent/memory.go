package agent

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/wipe"
	"github.com/lull-backup/lull/transport"
	"github.com/lull-backup/lull/transport/repo"
)

// restoreMemory is the saved state of a VM, and the file that it comes to be in.
type restoreMemory struct {
	repo.File
	path    string
	definer snapshot.StateDefiner
}

func (r *restore) placeMemory(f repo.File, n *names) {
	definer, ok := r.Definer.(snapshot.StateDefiner)
	if !ok || r.Cold || r.BestEffort || !r.definable() || r.memory != nil {
		return
	}
	r.memory = &restoreMemory{File: f, path: filepath.Join(r.Dir, n.pick("memory.state", string(f.Role))), definer: definer}
}

// need is the room that the memory takes until it is there: as it is stored, and in
// the hypervisor's own form.
func (m *restoreMemory) need() int64 {
	if m == nil {
		return 0
	}
	return 2 * m.Root.Data
}

// writeMemory stages the memory; it gets its name with the disks.
func (r *restore) writeMemory(ctx context.Context) error {
	if r.memory == nil {
		return nil
	}
	s, err := r.stage(r.memory.path, func(f io.Writer) error {
		w := bufio.NewWriterSize(f, 1<<20)
		if err := r.takeMemory(ctx, w); err != nil {
			return err
		}
		return w.Flush()
	})
	if err != nil {
		return fmt.Errorf("memory: %w", err)
	}
	r.staged = append(r.staged, s)
	r.written = append(r.written, snapshot.RestoredFile{File: r.memory.File.File, Now: r.memory.path})
	return nil
}

// takeMemory writes the memory as it is stored into a file that does not stay, for its pieces come in any order, and from there as the hypervisor wants it.
func (r *restore) takeMemory(ctx context.Context, w *bufio.Writer) (err error) {
	f, err := os.CreateTemp(r.Dir, ".lull-*.partial")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if r.Wipe { // by its name a killed one is found again
		_ = lockPartial(f)
		defer func() { err = errors.Join(err, wipe.Remove(context.WithoutCancel(ctx), f.Name(), wipe.Sparse)) }()
	} else if err := os.Remove(f.Name()); err != nil {
		return err
	}
	root := r.memory.Root
	if err := f.Truncate(root.Size); err != nil {
		return err
	}
	if err := transport.Restore(ctx, r.Repository, root, nameless{f}, transport.Options{Workers: r.Workers}); err != nil {
		return err
	}
	return r.memory.definer.RestoreState(ctx, w, f, root.Size)
}

// nameless is a snapshot.Target that is never more than bytes.
type nameless struct{ f *os.File }

func (n nameless) WriteAt(_ context.Context, p []byte, off int64) error {
	_, err := n.f.WriteAt(p, off)
	return err
}

func (nameless) Commit() error { return nil }
func (nameless) Abort() error  { return nil }
