package libvirt

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/libvirt/rpc"
	"github.com/lull-backup/lull/snapshot/qemu"
)

// Kind is what Plan.Host says.
const Kind = "libvirt"

// Options of a Host. The zero value is good.
type Options struct {
	RPC  rpc.Options
	QEMU qemu.Options // its Monitor and Agent are not used
	// TPMDir is where libvirt keeps the state of emulated TPMs. Default: DefaultTPMDir.
	TPMDir string
	// DeltaDir holds the deltas of all domains; empty: each lies beside its image.
	DeltaDir string
	Wipe     func(vm string) bool // whose deltas are wiped; nil: nobody's
}

// Host serves the domains of a daemon. It implements snapshot.Host, Tracker and Saver.
type Host struct {
	link *link
	opt  qemu.Options
	tpm  string // Options.TPMDir

	deltas string // Options.DeltaDir
	wipe   func(vm string) bool

	mu    sync.Mutex
	hosts map[string]*qemu.Host // by domain; each has one VM
	still map[string]*still     // domains that are off, from Prepare to Merge, by keyOf
	docs  map[string]docs       // from Prepare to Merge, by keyOf
}

var (
	_ snapshot.Tracker    = (*Host)(nil)
	_ snapshot.Discoverer = (*Host)(nil)
	_ snapshot.Saver      = (*Host)(nil)
)

// NewHost makes a host of the daemon at an address. It does not connect yet.
func NewHost(address rpc.Address, opt Options) *Host {
	opt.QEMU.Kind = Kind
	return &Host{link: newLink(address, opt.RPC), opt: opt.QEMU, tpm: cmp.Or(opt.TPMDir, DefaultTPMDir), deltas: opt.DeltaDir, wipe: opt.Wipe,
		hosts: map[string]*qemu.Host{}, still: map[string]*still{}, docs: map[string]docs{}}
}

// Close lets go of all that this process holds: readers and connections. In libvirt it
// changes nothing. The Host can be used on.
func (h *Host) Close() error {
	h.mu.Lock()
	hosts := h.hosts
	h.hosts = map[string]*qemu.Host{}
	h.mu.Unlock()
	var errs []error
	for _, q := range hosts {
		errs = append(errs, q.Close())
	}
	return errors.Join(append(errs, h.link.close())...)
}

// of is the host of one domain, which need not be there.
func (h *Host) of(domain string) *qemu.Host {
	h.mu.Lock()
	defer h.mu.Unlock()
	q := h.hosts[domain]
	if q == nil {
		q = qemu.NewHost([]qemu.VM{{Name: domain, Manager: h.domain(domain), DeltaDir: h.deltas, Wipe: h.wipe != nil && h.wipe(domain)}}, h.opt)
		h.hosts[domain] = q
	}
	return q
}

func (h *Host) domain(name string) *domain { return &domain{link: h.link, name: name} }

// Plan looks at a domain, running or not.
func (h *Host) Plan(ctx context.Context, vm, run string) (snapshot.Plan, error) {
	p, err := h.of(vm).Plan(ctx, vm, run)
	if errors.Is(err, qemu.ErrOff) && !errors.Is(err, snapshot.ErrNotFound) {
		return h.planOff(ctx, vm, run)
	}
	if err != nil {
		return p, err
	}
	d, err := h.domain(vm).running(ctx)
	if err != nil {
		return p, fmt.Errorf("plan %s: %w", vm, err)
	}
	def, err := h.definition(ctx, d, 0)
	if err != nil {
		return p, fmt.Errorf("plan %s: %w", vm, err)
	}
	h.addFiles(&p, def)
	return p, nil
}

// Prepare makes the deltas, or takes the locks of a domain that is off.
func (h *Host) Prepare(ctx context.Context, p snapshot.Plan) error {
	if err := h.note(ctx, p); err != nil {
		return err
	}
	if p.State == snapshot.StateOff {
		return h.prepareOff(ctx, p)
	}
	return h.of(p.VM).Prepare(ctx, p)
}

// Take is one external snapshot.
func (h *Host) Take(ctx context.Context, p snapshot.Plan) error {
	if p.State == snapshot.StateOff {
		return h.takeOff(ctx, p)
	}
	return h.of(p.VM).Take(ctx, p)
}

// Open opens the frozen disks.
func (h *Host) Open(ctx context.Context, p snapshot.Plan) (snapshot.Frozen, error) {
	if p.State == snapshot.StateOff {
		return h.openOff(ctx, p)
	}
	f, err := h.of(p.VM).Open(ctx, p)
	if err != nil {
		return nil, err
	}
	if all, ok := f.(whole); ok {
		return &frozenOn{all, h.docsOf(p)}, nil
	}
	return f, nil
}

// Merge looks at QEMU, libvirt and the files, and does what is left to do.
func (h *Host) Merge(ctx context.Context, p snapshot.Plan) error {
	defer h.forget(p)
	if p.State == snapshot.StateOff {
		return h.mergeOff(ctx, p)
	}
	return h.of(p.VM).Merge(ctx, p)
}

// Instance is the start of the domain's QEMU.
func (h *Host) Instance(ctx context.Context, vm string) (string, error) {
	instance, err := h.of(vm).Instance(ctx, vm)
	if errors.Is(err, qemu.ErrOff) && !errors.Is(err, snapshot.ErrNotFound) {
		return "", nil
	}
	return instance, err
}

// Guest is the agent's channel, which libvirt holds.
func (h *Host) Guest(ctx context.Context, vm string) (snapshot.Guest, error) {
	return h.of(vm).Guest(ctx, vm)
}

// Track names records of changes. Of a domain that is off there are none: its QEMU is who
// keeps them.
func (h *Host) Track(ctx context.Context, p snapshot.Plan, series string, since map[string]string) (snapshot.Plan, error) {
	if p.State == snapshot.StateOff {
		p.Disks = slices.Clone(p.Disks)
		for i := range p.Disks {
			p.Disks[i].Track.Reason = "the domain is off"
		}
		return p, nil
	}
	return h.of(p.VM).Track(ctx, p, series, since)
}

// Settle removes records.
func (h *Host) Settle(ctx context.Context, p snapshot.Plan, keep map[string]string) error {
	if p.State == snapshot.StateOff {
		return nil // the next run of the domain, when it is on
	}
	return h.of(p.VM).Settle(ctx, p, keep)
}

// CanSave says why TakeSaved would not do.
func (h *Host) CanSave(ctx context.Context, p snapshot.Plan) error {
	if p.State == snapshot.StateOff {
		return fmt.Errorf("domain %s is off: %w", p.VM, snapshot.ErrUnsupported)
	}
	return h.of(p.VM).CanSave(ctx, p)
}

// TakeSaved takes the domain's memory too.
func (h *Host) TakeSaved(ctx context.Context, p snapshot.Plan, frozen func()) error {
	return h.of(p.VM).TakeSaved(ctx, p, frozen)
}

// Resume lets a domain go on whose memory was being saved.
func (h *Host) Resume(ctx context.Context, p snapshot.Plan) error {
	if p.State == snapshot.StateOff {
		return nil
	}
	return h.of(p.VM).Resume(ctx, p)
}
