package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/durable"
	"github.com/lull-backup/lull/snapshot/image"
	"github.com/lull-backup/lull/snapshot/nbd"
	"github.com/lull-backup/lull/snapshot/qmp"
)

// closeTimeout bounds the end of exports, where no context comes from outside.
const closeTimeout = 30 * time.Second

// Open opens the files of the frozen layers, which is the fastest way by far, and has
// QEMU serve the disks that cannot be read so.
func (h *Host) Open(ctx context.Context, p snapshot.Plan) (snapshot.Frozen, error) {
	f := &frozen{host: h, plan: p, served: map[string]bool{}, guard: newGuard(h, p)}
	for _, d := range p.Disks {
		f.served[d.Name] = d.Export != "" && !readable(ctx, d)
	}
	err := h.during(ctx, p, func(m *monitor) error {
		f.pid = m.proc.pid
		if err := m.frozen(ctx, p); err != nil {
			return err
		}
		if err := h.unserve(ctx, m, p); err != nil { // left by a process that died
			return err
		}
		return h.serveDisks(ctx, m, f)
	})
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", p.VM, err)
	}
	for _, d := range p.Disks {
		if err := settleStamp(d); err != nil {
			return nil, errors.Join(fmt.Errorf("open %s: %w", p.VM, err), f.Close())
		}
	}
	h.track(f, true)
	return f, nil
}

// readable tells whether a frozen disk can be read from its files. Those of a disk that
// did not freeze are locked.
func readable(ctx context.Context, d snapshot.DiskPlan) bool {
	if !d.Local {
		return false
	}
	s, err := image.OpenChain(ctx, d.Chain)
	if err != nil {
		return false // QEMU can, and says why where it cannot
	}
	return s.Close() == nil && s.Size() == d.Size
}

// serveDisks exports the disks that are not read from their files.
func (h *Host) serveDisks(ctx context.Context, m *monitor, f *frozen) error {
	p, serving := f.plan, false
	for _, d := range p.Disks {
		if !f.served[d.Name] {
			continue
		}
		if !serving {
			if err := h.serve(ctx, m, p); err != nil {
				return err
			}
			serving = true
		}
		if err := m.export(ctx, d); err != nil {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
			defer cancel()
			return errors.Join(err, h.unserve(ctx, m, p))
		}
	}
	return nil
}

// frozen makes sure that every node to be read has its delta upon it.
func (m *monitor) frozen(ctx context.Context, p snapshot.Plan) error {
	drives, err := m.drives(ctx)
	if err != nil {
		return err
	}
	for _, d := range p.Disks {
		if !slices.ContainsFunc(drives, func(b block) bool {
			return b.Inserted != nil && m.isDelta(d, b.Inserted)
		}) {
			return fmt.Errorf("disk %s is not frozen", d.Name)
		}
	}
	return nil
}

// frozen is a set of frozen disks that are being read.
type frozen struct {
	host *Host
	plan snapshot.Plan
	pid  int // of QEMU
	// served are the disks that QEMU's NBD server serves.
	served map[string]bool

	guard guard // Watch's own

	mu      sync.Mutex
	closed  bool
	readers []snapshot.Source
}

var errClosed = errors.New("frozen disks are closed")

// Disk opens a disk. It connects under the lock: Close must find nobody in the middle
// of that, see nbd.Settle.
func (f *frozen) Disk(ctx context.Context, name string) (snapshot.Source, error) {
	d, err := f.planned(name)
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil, errClosed
	}
	s, err := f.source(ctx, d)
	if err != nil {
		return nil, err
	}
	f.readers = append(f.readers, s)
	return s, nil
}

func (f *frozen) planned(disk string) (snapshot.DiskPlan, error) {
	i := slices.IndexFunc(f.plan.Disks, func(d snapshot.DiskPlan) bool { return d.Name == disk })
	if i < 0 {
		return snapshot.DiskPlan{}, fmt.Errorf("no disk %q in the plan", disk)
	}
	return f.plan.Disks[i], nil
}

// source connects to the export of a disk, or opens its files.
func (f *frozen) source(ctx context.Context, d snapshot.DiskPlan) (snapshot.Source, error) {
	if f.served[d.Name] {
		return nbd.Dial(ctx, "unix", f.host.socketPath(f.plan), d.Export, nbd.Options{})
	}
	s, err := image.OpenChain(ctx, d.Chain)
	if err != nil {
		return nil, err
	}
	return &watched{Source: s, gone: func() bool {
		return f.plan.Instance != "" && instanceOf(f.pid) != f.plan.Instance
	}}, nil
}

// watched is a disk that is read from its files, only as long as its VM lives:
// afterwards someone else may write to them.
type watched struct {
	snapshot.Source
	gone func() bool
}

func (w *watched) ReadAt(ctx context.Context, p []byte, off int64) error {
	return w.check(w.Source.ReadAt(ctx, p, off))
}

func (w *watched) Extents(ctx context.Context, off, length int64) ([]snapshot.Extent, error) {
	list, err := w.Source.Extents(ctx, off, length)
	return list, w.check(err)
}

// check looks after the read, so that what was read was right.
func (w *watched) check(err error) error {
	if w.gone() {
		return errors.Join(fmt.Errorf("read frozen disk: %w", snapshot.ErrGone), err)
	}
	return err
}

// File reads one of the plan's files.
func (f *frozen) File(ctx context.Context, path string) ([]byte, error) {
	i := slices.IndexFunc(f.plan.Files, func(x snapshot.File) bool { return x.Path == path })
	if i < 0 {
		return nil, fmt.Errorf("no file %q in the plan", path)
	}
	if !filepath.IsAbs(path) {
		return nil, fmt.Errorf("read file of VM: the folder of %s is not known: %w", path, os.ErrNotExist)
	}
	if !f.plan.Files[i].Role.Written() {
		b, err := durable.ReadFile(path, snapshot.MaxFileSize)
		if err != nil {
			return nil, fmt.Errorf("read file of VM: %w", err)
		}
		return b, ctx.Err()
	}
	if b, ok := f.host.kept(f.plan)[path]; ok {
		return b, nil
	}
	b, err := steady(ctx, path)
	if err != nil {
		return nil, fmt.Errorf("read file of VM: %w", err)
	}
	return b, fmt.Errorf("%s: %w", path, snapshot.ErrInexact)
}

// Watch looks after each event that may mean trouble, and every second.
func (f *frozen) Watch(ctx context.Context) error {
	for {
		err := f.host.during(ctx, f.plan, func(m *monitor) error {
			nodes, err := m.deltaNodes(ctx, f.plan)
			if err != nil {
				return err
			}
			return m.awaitEvent(ctx, func(e *qmp.Event) (bool, error) {
				if err := guestHurt(e, nodes); err != nil {
					return false, err
				}
				if err := m.trouble(ctx, f.plan); err != nil {
					return false, err
				}
				return false, f.guard.look(ctx, m, e)
			},
				"BLOCK_IO_ERROR", "STOP", "SHUTDOWN", "DEVICE_DELETED", "MIGRATION", eventThreshold)
		})
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			return err
		}
	}
}

// deltaNodes are the nodes of the plan's deltas, with the names of their disks: a
// manager names them as it likes.
func (m *monitor) deltaNodes(ctx context.Context, p snapshot.Plan) (map[string]string, error) {
	nodes, err := m.nodes(ctx, true)
	if err != nil {
		return nil, err
	}
	names := map[string]string{}
	for _, d := range p.Disks {
		for i := range nodes {
			if m.isDelta(d, &nodes[i]) {
				names[nodes[i].Node] = d.Name
			}
		}
	}
	return names, nil
}

// trouble is what must end the run, or nil.
func (m *monitor) trouble(ctx context.Context, p snapshot.Plan) error {
	if err := m.leaving(p, errors.Join(m.movedAway(ctx, p), m.underway(ctx))); err != nil {
		return err
	}
	d, err := m.outOfSpace(ctx, p)
	if d != nil {
		return fmt.Errorf("QEMU stopped the VM: no room for the delta of disk %s in %s: %w", d.Name, filepath.Dir(d.Delta), snapshot.ErrNoSpace)
	}
	return err
}

// outOfSpace is a disk of the plan for whose sake QEMU stopped the VM, as it cannot
// grow; nil: none.
func (m *monitor) outOfSpace(ctx context.Context, p snapshot.Plan) (*snapshot.DiskPlan, error) {
	status, err := m.status(ctx)
	if err != nil || status != "io-error" {
		return nil, err
	}
	drives, err := m.drives(ctx)
	if err != nil {
		return nil, err
	}
	// After cont QEMU may say nospace of a disk still that had run out before: the
	// one with the least room is meant.
	var full *snapshot.DiskPlan
	var least uint64 // bytes
	for i, d := range p.Disks {
		if !slices.ContainsFunc(drives, func(b block) bool { return b.IOStatus == "nospace" && b.QDev == d.Device }) {
			continue
		}
		var fs unix.Statfs_t
		_ = unix.Statfs(filepath.Dir(d.Delta), &fs) // a folder that cannot be looked at has no room
		if room := fs.Bavail * uint64(fs.Bsize); full == nil || room < least {
			full, least = &p.Disks[i], room
		}
	}
	return full, nil
}

// Close disconnects all readers, then ends exports and server.
func (f *frozen) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil
	}
	f.closed = true
	f.host.track(f, false)
	f.closeReaders()
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	err := f.host.during(ctx, f.plan, func(m *monitor) error { return f.host.unserve(ctx, m, f.plan) })
	if errors.Is(err, snapshot.ErrGone) {
		return removeSocket(f.host.socketPath(f.plan)) // exports and server went with it
	}
	if err != nil {
		return fmt.Errorf("close frozen disks of %s: %w", f.plan.VM, err)
	}
	return nil
}

// closeReaders closes all disks that are open; the caller holds f.mu.
func (f *frozen) closeReaders() {
	var all sync.WaitGroup
	for _, s := range f.readers {
		all.Go(func() { _ = s.Close() }) // it only reads
	}
	all.Wait()
	f.readers = nil
}
