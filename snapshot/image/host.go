package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/lull-backup/lull/snapshot"
)

// HostKind is Plan.Host of this package's plans.
const HostKind = "image"

// VM is a powered-off VM, or a set of loose images that goes by one name.
type VM struct {
	Name  string
	Disks []DiskSpec
}

// DiskSpec is one disk by the administrator's word.
type DiskSpec struct {
	Name   string // unique within the VM; derived from the file's name when empty
	Path   string
	Format snapshot.Format
	// Parents are where images are that it was made on, if not in its own folder.
	Parents []string
}

// host serves images that no hypervisor has open. Its snapshot is a lock: the
// disks hold still because nobody may write them.
type host struct {
	vms []VM // sorted by name

	mu   sync.Mutex
	held map[string]*hold // by Plan.Run and VM
}

// hold is the locks of one plan.
type hold struct {
	chains []snapshot.Source
	taken  bool
}

// NewHost serves powered-off VMs. It opens nothing before it is asked.
func NewHost(vms []VM) snapshot.Host {
	h := &host{vms: slices.Clone(vms), held: map[string]*hold{}}
	slices.SortFunc(h.vms, func(a, b VM) int { return strings.Compare(a.Name, b.Name) })
	return h
}

func (h *host) VMs(ctx context.Context) ([]snapshot.VM, error) {
	out := make([]snapshot.VM, 0, len(h.vms))
	for _, vm := range h.vms {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		out = append(out, describe(vm))
	}
	return out, nil
}

// describe lists a VM; what stands in the way of a backup is its problem.
func describe(vm VM) snapshot.VM {
	out := snapshot.VM{Name: vm.Name, State: snapshot.StateOff}
	plans, err := planDisks(vm)
	if err != nil {
		out.State, out.Problem = snapshot.StateUnreachable, oneLine(err)
		return out
	}
	for _, p := range plans {
		out.Disks = append(out.Disks, p.Disk)
	}
	return out
}

func oneLine(err error) string { return strings.Join(strings.Fields(err.Error()), " ") }

func (h *host) Plan(ctx context.Context, name, run string) (snapshot.Plan, error) {
	vm, err := h.find(name)
	if err != nil {
		return snapshot.Plan{}, err
	}
	if !regexp.MustCompile(`^[0-9A-Za-z-]{1,64}$`).MatchString(run) {
		return snapshot.Plan{}, fmt.Errorf("plan snapshot of %s: run %q is no name", name, run)
	}
	p := snapshot.Plan{Host: HostKind, VM: name, Run: run, State: snapshot.StateOff}
	if p.Disks, err = planDisks(vm); err != nil {
		return snapshot.Plan{}, fmt.Errorf("plan snapshot of %s: %w", name, err)
	}
	for _, d := range p.Disks {
		list, err := Doubts(d.Chain)
		if err != nil {
			return snapshot.Plan{}, fmt.Errorf("plan snapshot of %s: %w", name, unreachable(err))
		}
		p.Warnings = append(p.Warnings, list...)
	}
	return p, ctx.Err()
}

func (h *host) find(name string) (VM, error) {
	i := slices.IndexFunc(h.vms, func(vm VM) bool { return vm.Name == name })
	if i < 0 {
		return VM{}, fmt.Errorf("%s: %w", name, snapshot.ErrNotFound)
	}
	return h.vms[i], nil
}

// planDisks resolves the chains of all disks, and sees that nobody writes them and
// that no delta waits to be merged into them.
func planDisks(vm VM) ([]snapshot.DiskPlan, error) {
	names, err := diskNames(vm.Disks)
	if err != nil {
		return nil, err
	}
	plans := make([]snapshot.DiskPlan, len(vm.Disks))
	for i, spec := range vm.Disks {
		info, err := Inspect(spec.Path, spec.Format)
		if err != nil {
			return nil, unreachable(err)
		}
		layers, err := ResolveChain(spec.Path, spec.Format, spec.Parents...)
		if err != nil {
			return nil, unreachable(err)
		}
		if err := unwritten(layers); err != nil {
			return nil, unreachable(err)
		}
		if err := merged(spec.Path); err != nil {
			return nil, unreachable(err)
		}
		plans[i] = snapshot.DiskPlan{
			Disk:  snapshot.Disk{Name: names[i], Path: spec.Path, Format: spec.Format, Size: info.Size},
			Chain: layers,
		}
	}
	return plans, nil
}

func unwritten(layers []snapshot.Layer) error {
	for _, l := range layers {
		i, closing, err := inspect(l)
		if err != nil {
			return err
		}
		for _, f := range i.files {
			err = errors.Join(err, checkUnwritten(f.File))
		}
		closing()
		if err != nil {
			return err
		}
	}
	return nil
}

// unreachable marks what is missing on disk, or may not be read, as such.
func unreachable(err error) error {
	var hinted *snapshot.Hinted
	switch {
	case errors.Is(err, fs.ErrNotExist) && errors.As(err, &hinted): // it says more of what is missing
		return &outOfReach{err}
	case errors.Is(err, fs.ErrNotExist):
		return snapshot.WithHint(&outOfReach{err}, "check the path, and that the disk is mounted there")
	case errors.Is(err, fs.ErrPermission):
		return snapshot.WithHint(&outOfReach{err}, "run lull as root, or let this user read the file")
	}
	return err
}

// outOfReach is a snapshot.ErrUnreachable whose text does not speak of a
// hypervisor: there is none.
type outOfReach struct{ error }

func (e *outOfReach) Unwrap() []error { return []error{e.error, snapshot.ErrUnreachable} }

// Prepare takes the locks, and sees that the chains are still those of the plan.
func (h *host) Prepare(ctx context.Context, p snapshot.Plan) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.held[holdKey(p)] != nil {
		return nil
	}
	chains, err := openAll(ctx, p)
	if err != nil {
		return fmt.Errorf("prepare snapshot of %s: %w", p.VM, err)
	}
	if err := h.unchanged(p, chains); err != nil {
		return errors.Join(fmt.Errorf("prepare snapshot of %s: %w", p.VM, err), closeAll(chains))
	}
	h.held[holdKey(p)] = &hold{chains: chains}
	return nil
}

// unchanged compares locked chains with the plan: the VM may have run between.
func (h *host) unchanged(p snapshot.Plan, chains []snapshot.Source) error {
	vm, err := h.find(p.VM)
	if err != nil {
		return err
	}
	for i, d := range p.Disks {
		layers, err := ResolveChain(d.Path, d.Format, vm.Disks[i].Parents...)
		if err != nil {
			return err
		}
		if chains[i].Size() != d.Size || !slices.Equal(layers, d.Chain) {
			return fmt.Errorf("%s is not what it was when the snapshot was planned: %w", d.Path, snapshot.ErrBusy)
		}
	}
	return nil
}

// Take finds the disks frozen already.
func (h *host) Take(_ context.Context, p snapshot.Plan) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	held := h.held[holdKey(p)]
	if held == nil {
		return fmt.Errorf("take snapshot of %s: it was not prepared: %w", p.VM, snapshot.ErrGone)
	}
	held.taken = true
	return nil
}

func (h *host) Open(_ context.Context, p snapshot.Plan) (snapshot.Frozen, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if held := h.held[holdKey(p)]; held == nil || !held.taken {
		return nil, fmt.Errorf("open snapshot of %s: it was not taken: %w", p.VM, snapshot.ErrGone)
	}
	return &frozen{plan: p}, nil
}

// Merge has nothing to merge: it gives the locks back. After a crash the kernel
// did so.
func (h *host) Merge(_ context.Context, p snapshot.Plan) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	held := h.held[holdKey(p)]
	if held == nil {
		return nil
	}
	delete(h.held, holdKey(p))
	if err := closeAll(held.chains); err != nil {
		return fmt.Errorf("release images of %s: %w", p.VM, err)
	}
	return nil
}

// Instance is empty: nothing runs.
func (h *host) Instance(_ context.Context, name string) (string, error) {
	_, err := h.find(name)
	return "", err
}

func (h *host) Guest(_ context.Context, name string) (snapshot.Guest, error) {
	if _, err := h.find(name); err != nil {
		return nil, err
	}
	return nil, fmt.Errorf("%s is powered off: %w", name, snapshot.ErrNoGuest)
}

func holdKey(p snapshot.Plan) string { return p.Run + "/" + p.VM }

func openAll(ctx context.Context, p snapshot.Plan) ([]snapshot.Source, error) {
	var chains []snapshot.Source
	for _, d := range p.Disks {
		c, err := OpenChain(ctx, d.Chain)
		if err != nil {
			return nil, errors.Join(unreachable(err), closeAll(chains))
		}
		chains = append(chains, c)
	}
	return chains, nil
}

func closeAll(chains []snapshot.Source) error {
	var errs []error
	for _, c := range chains {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}
