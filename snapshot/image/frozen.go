package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"

	"github.com/lull-backup/lull/snapshot"
)

// frozen opens the locked chains of a plan for reading.
type frozen struct {
	plan snapshot.Plan

	mu      sync.Mutex
	closed  bool
	sources []snapshot.Source
}

func (f *frozen) Disk(ctx context.Context, name string) (snapshot.Source, error) {
	i := slices.IndexFunc(f.plan.Disks, func(d snapshot.DiskPlan) bool { return d.Name == name })
	if i < 0 {
		return nil, fmt.Errorf("disk %q is not in the snapshot of %s: %w", name, f.plan.VM, fs.ErrNotExist)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil, fmt.Errorf("open disk %q of %s: snapshot is closed: %w", name, f.plan.VM, fs.ErrClosed)
	}
	src, err := OpenChain(ctx, f.plan.Disks[i].Chain)
	if err != nil {
		return nil, fmt.Errorf("open disk %q of %s: %w", name, f.plan.VM, err)
	}
	f.sources = append(f.sources, src)
	return src, nil
}

// File finds nothing: loose images have no small files beside them.
func (f *frozen) File(_ context.Context, path string) ([]byte, error) {
	return nil, fmt.Errorf("file %s is not in the snapshot of %s: %w", path, f.plan.VM, fs.ErrNotExist)
}

// Watch just waits: a VM that is powered off cannot get into trouble.
func (f *frozen) Watch(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

func (f *frozen) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	var errs []error
	for _, src := range f.sources {
		errs = append(errs, src.Close())
	}
	f.sources = nil
	return errors.Join(errs...)
}
