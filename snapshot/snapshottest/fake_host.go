package snapshottest

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/lull-backup/lull/snapshot"
)

// fakeHost is one client of a Fake.
type fakeHost struct {
	fake *Fake
	open atomic.Int32 // readers of this client; a dead client's do not count
}

var _ snapshot.Host = (*fakeHost)(nil)

var errBadRun = errors.New("a run is named by 1 to 64 of 0-9 A-Z a-z -")

func (h *fakeHost) VMs(ctx context.Context) ([]snapshot.VM, error) {
	var list []snapshot.VM
	err := h.fake.do(ctx, "", "VMs", func() error {
		h.fake.mu.Lock()
		defer h.fake.mu.Unlock()
		for _, v := range h.fake.vms {
			vm := snapshot.VM{Name: v.Name, State: v.State, Guest: !v.NoGuest}
			if v.State == snapshot.StateUnreachable {
				vm.Problem = snapshot.ErrUnreachable.Error()
			} else {
				for _, d := range v.Disks {
					vm.Disks = append(vm.Disks, v.describe(d.Name))
				}
			}
			list = append(list, vm)
		}
		return nil
	})
	slices.SortFunc(list, func(a, b snapshot.VM) int { return cmp.Compare(a.Name, b.Name) })
	return list, err
}

func (v *fakeVM) describe(disk string) snapshot.Disk {
	return snapshot.Disk{Name: disk, Path: "/fake/" + v.Name + "/" + disk + ".qcow2",
		Format: snapshot.FormatQcow2, Size: int64(len(v.disks[disk].base))}
}

func (h *fakeHost) Plan(ctx context.Context, vm, run string) (snapshot.Plan, error) {
	const allowed = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-"
	if run == "" || len(run) > 64 || strings.Trim(run, allowed) != "" {
		return snapshot.Plan{}, fmt.Errorf("plan %s: run %q: %w", vm, run, errBadRun)
	}
	var p snapshot.Plan
	err := h.fake.lock(ctx, vm, "Plan", func(v *fakeVM) (err error) {
		p, err = v.plan(run)
		return err
	})
	return p, err
}

func (v *fakeVM) plan(run string) (snapshot.Plan, error) {
	if v.State == snapshot.StateUnreachable {
		return snapshot.Plan{}, fmt.Errorf("plan %s: %w", v.Name, snapshot.ErrUnreachable)
	}
	p := snapshot.Plan{Host: "fake", VM: v.Name, Run: run, State: v.State, Instance: v.instance(),
		Excluded: v.Excluded, Hardware: v.Hardware}
	for _, d := range v.Disks {
		if v.disks[d.Name].delta != "" {
			return snapshot.Plan{}, fmt.Errorf("plan %s: %s: %w", v.Name, v.disks[d.Name].delta, snapshot.ErrMergePending)
		}
		disk := v.describe(d.Name)
		p.Disks = append(p.Disks, snapshot.DiskPlan{Disk: disk, Delta: disk.Path + ".lull-" + run + ".delta",
			Chain: []snapshot.Layer{{Path: disk.Path, Format: disk.Format}}})
	}
	if v.Memory != nil {
		p.Saved = snapshot.SavedPlan{Path: "/fake/" + v.Name + "/state", Limit: int64(len(v.Memory))}
	}
	for _, role := range slices.Sorted(maps.Keys(v.Files)) {
		p.Files = append(p.Files, snapshot.File{Role: role, Path: v.filePath(role)})
	}
	return p, nil
}

func (v *fakeVM) filePath(role snapshot.FileRole) string {
	return "/fake/" + v.Name + "/" + string(role)
}

func (h *fakeHost) Prepare(ctx context.Context, p snapshot.Plan) error {
	return h.fake.lock(ctx, p.VM, "Prepare", func(v *fakeVM) error {
		if err := v.gone(p); err != nil {
			return fmt.Errorf("prepare: %w", err)
		}
		for _, d := range p.Disks {
			if v.disks[d.Name].delta != "" {
				return fmt.Errorf("prepare: create %s: %w", d.Delta, snapshot.ErrExists)
			}
			v.disks[d.Name].delta = d.Delta
			v.disks[d.Name].dropRecords(d.Track.Stem, d.Track.Since)
		}
		return nil
	})
}

func (h *fakeHost) Take(ctx context.Context, p snapshot.Plan) error {
	return h.fake.lock(ctx, p.VM, "Take", func(v *fakeVM) error { return v.take(p) })
}

func (v *fakeVM) take(p snapshot.Plan) error {
	if err := v.gone(p); err != nil {
		return fmt.Errorf("take: %w", err)
	}
	for _, d := range p.Disks {
		if disk := v.disks[d.Name]; disk.delta != d.Delta || disk.active {
			return fmt.Errorf("take: disk %s is not prepared for run %s", d.Name, p.Run)
		}
	}
	for _, d := range p.Disks {
		v.disks[d.Name].active, v.disks[d.Name].pages = true, map[int64][]byte{}
		v.disks[d.Name].startRecord(d.Track)
	}
	return nil
}

// gone tells whether the VM of the plan went away since. A VM that was off when
// the plan was made cannot.
func (v *fakeVM) gone(p snapshot.Plan) error {
	if p.State != snapshot.StateOff && (v.State == snapshot.StateOff || v.instance() != p.Instance) {
		return fmt.Errorf("VM %s: %w", v.Name, snapshot.ErrGone)
	}
	return nil
}

func (h *fakeHost) Open(ctx context.Context, p snapshot.Plan) (snapshot.Frozen, error) {
	err := h.fake.lock(ctx, p.VM, "Open", func(v *fakeVM) error {
		if err := v.gone(p); err != nil {
			return fmt.Errorf("open: %w", err)
		}
		for _, d := range p.Disks {
			if !v.disks[d.Name].active {
				return fmt.Errorf("open: disk %s is not frozen", d.Name)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	h.open.Add(1)
	return &fakeFrozen{host: h, plan: p}, nil
}

func (h *fakeHost) Merge(ctx context.Context, p snapshot.Plan) error {
	return h.fake.lock(ctx, p.VM, "Merge", func(v *fakeVM) error {
		if n := h.open.Load(); n > 0 {
			return fmt.Errorf("merge: %d sets of frozen disks are open: %w", n, snapshot.ErrBusy)
		}
		for _, d := range p.Disks {
			disk := v.disks[d.Name]
			if disk.delta == d.Delta && !disk.active && len(disk.pages) > 0 {
				return fmt.Errorf("merge: %s: %w", d.Delta, snapshot.ErrDiverged)
			}
		}
		for _, d := range p.Disks {
			if disk := v.disks[d.Name]; disk.delta == d.Delta {
				for at := range disk.pages {
					disk.record(at, page)
				}
				*disk = fakeDisk{base: disk.content(), records: disk.records}
			}
		}
		v.saved = nil
		if v.full {
			v.State, v.full = snapshot.StateRunning, false
			v.changed()
		}
		return nil
	})
}

func (h *fakeHost) Instance(ctx context.Context, vm string) (instance string, err error) {
	err = h.fake.lock(ctx, vm, "Instance", func(v *fakeVM) error {
		if v.State != snapshot.StateOff {
			instance = v.instance()
		}
		return nil
	})
	return instance, err
}

func (h *fakeHost) Guest(ctx context.Context, vm string) (snapshot.Guest, error) {
	var g snapshot.Guest
	err := h.fake.lock(ctx, vm, "Guest", func(v *fakeVM) error {
		if v.NoGuest || v.State != snapshot.StateRunning {
			return fmt.Errorf("VM %s: %w", vm, snapshot.ErrNoGuest)
		}
		g = v.guest
		return nil
	})
	return g, err
}

// fakeFrozen is the set of frozen disks of one plan.
type fakeFrozen struct {
	host   *fakeHost
	plan   snapshot.Plan
	closed atomic.Bool
}

var errClosed = errors.New("frozen disks are closed")

func (f *fakeFrozen) Disk(ctx context.Context, name string) (snapshot.Source, error) {
	s := &fakeSource{frozen: f, name: name}
	err := f.use(ctx, "Disk", func(v *fakeVM) error {
		if !slices.ContainsFunc(f.plan.Disks, func(d snapshot.DiskPlan) bool { return d.Name == name }) {
			return fmt.Errorf("no disk %q in the plan", name)
		}
		s.size = int64(len(v.disks[name].base))
		return nil
	})
	if err != nil {
		return nil, err
	}
	return s, nil
}

func (f *fakeFrozen) File(ctx context.Context, path string) ([]byte, error) {
	var b []byte
	err := f.use(ctx, "File", func(v *fakeVM) error {
		for role, content := range v.Files {
			if v.filePath(role) == path {
				b = bytes.Clone(content)
				return nil
			}
		}
		return fmt.Errorf("no file %q in the plan", path)
	})
	return b, err
}

func (f *fakeFrozen) use(ctx context.Context, call string, fn func(*fakeVM) error) error {
	return f.host.fake.lock(ctx, f.plan.VM, call, func(v *fakeVM) error {
		if f.closed.Load() {
			return errClosed
		}
		if err := v.gone(f.plan); err != nil {
			return err
		}
		return fn(v)
	})
}

// Watch waits for Crash, StartFromBase or Fill.
func (f *fakeFrozen) Watch(ctx context.Context) error {
	for {
		var change chan struct{}
		err := f.host.fake.lock(ctx, f.plan.VM, "Watch", func(v *fakeVM) error {
			change = v.change
			if v.full {
				return fmt.Errorf("VM %s: delta: %w", v.Name, snapshot.ErrNoSpace)
			}
			return v.gone(f.plan)
		})
		if err != nil {
			return err
		}
		select {
		case <-change:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (f *fakeFrozen) Close() error {
	if !f.closed.Swap(true) {
		f.host.open.Add(-1)
	}
	return nil
}

type fakeSource struct {
	frozen *fakeFrozen
	name   string
	size   int64
}

func (s *fakeSource) Size() int64  { return s.size }
func (s *fakeSource) Close() error { return nil }

func (s *fakeSource) ReadAt(ctx context.Context, p []byte, off int64) error {
	return s.frozen.use(ctx, "ReadAt", func(v *fakeVM) error {
		if off < 0 || off > s.size || int64(len(p)) > s.size-off {
			return fmt.Errorf("read %d bytes at %d of a disk of %d", len(p), off, s.size)
		}
		copy(p, v.disks[s.name].base[off:])
		return nil
	})
}

func (s *fakeSource) Extents(ctx context.Context, off, length int64) ([]snapshot.Extent, error) {
	var list []snapshot.Extent
	err := s.frozen.use(ctx, "Extents", func(v *fakeVM) error {
		if off < 0 || length < 0 || off > s.size || length > s.size-off {
			return fmt.Errorf("extents of %d bytes at %d of a disk of %d", length, off, s.size)
		}
		list = extents(v.disks[s.name].base[off:off+length], off)
		return nil
	})
	return list, err
}

// extents tells zero pages from others.
func extents(b []byte, off int64) (list []snapshot.Extent) {
	zeros := make([]byte, page)
	for len(b) > 0 {
		n := min(int64(len(b)), page-off%page)
		zero := bytes.Equal(b[:n], zeros[:n])
		if last := len(list) - 1; last >= 0 && list[last].Zero == zero {
			list[last].Length += n
		} else {
			list = append(list, snapshot.Extent{Offset: off, Length: n, Zero: zero})
		}
		off, b = off+n, b[n:]
	}
	return list
}
