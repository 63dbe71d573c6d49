package libvirt

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
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
}

// Host serves the domains of a daemon. It implements snapshot.Host, Tracker and Saver.
type Host struct {
	link *link
	opt  qemu.Options

	mu    sync.Mutex
	hosts map[string]*qemu.Host // by domain; each has one VM
}

var (
	_ snapshot.Tracker = (*Host)(nil)
	_ snapshot.Saver   = (*Host)(nil)
)

// NewHost makes a host of the daemon at an address. It does not connect yet.
func NewHost(address rpc.Address, opt Options) *Host {
	opt.QEMU.Kind = Kind
	return &Host{link: newLink(address, opt.RPC), opt: opt.QEMU, hosts: map[string]*qemu.Host{}}
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
		q = qemu.NewHost([]qemu.VM{{Name: domain, Manager: h.domain(domain)}}, h.opt)
		h.hosts[domain] = q
	}
	return q
}

func (h *Host) domain(name string) *domain { return &domain{link: h.link, name: name} }

// VMs lists all domains.
func (h *Host) VMs(ctx context.Context) ([]snapshot.VM, error) {
	var all []rpc.Domain
	err := h.link.ask(ctx, func(c *rpc.Conn) (err error) {
		all, err = c.Domains(ctx)
		return err
	})
	if err != nil {
		return nil, err
	}
	list := make([]snapshot.VM, len(all))
	var work sync.WaitGroup
	for i, d := range all {
		work.Go(func() { list[i] = h.describe(ctx, d) })
	}
	work.Wait()
	slices.SortFunc(list, func(a, b snapshot.VM) int { return strings.Compare(a.Name, b.Name) })
	return list, ctx.Err()
}

func (h *Host) describe(ctx context.Context, d rpc.Domain) snapshot.VM {
	vm := snapshot.VM{Name: d.Name, State: snapshot.StateOff}
	def, err := h.domain(d.Name).xml(ctx, d, 0)
	if err == nil && d.ID >= 0 {
		var list []snapshot.VM
		if list, err = h.of(d.Name).VMs(ctx); err == nil {
			vm = list[0]
		}
	}
	if err != nil {
		vm.State, vm.Problem = snapshot.StateUnreachable, err.Error()
	}
	vm.Guest = def.agent
	return vm
}

// Plan looks at a domain that runs.
func (h *Host) Plan(ctx context.Context, vm, run string) (snapshot.Plan, error) {
	p, err := h.of(vm).Plan(ctx, vm, run)
	if errors.Is(err, qemu.ErrOff) && !errors.Is(err, snapshot.ErrNotFound) {
		err = fmt.Errorf("%w: %w", snapshot.ErrUnsupported, err)
	}
	return p, err
}

// Prepare makes the deltas.
func (h *Host) Prepare(ctx context.Context, p snapshot.Plan) error { return h.of(p.VM).Prepare(ctx, p) }

// Take is one external snapshot.
func (h *Host) Take(ctx context.Context, p snapshot.Plan) error { return h.of(p.VM).Take(ctx, p) }

// Open opens the frozen disks.
func (h *Host) Open(ctx context.Context, p snapshot.Plan) (snapshot.Frozen, error) {
	return h.of(p.VM).Open(ctx, p)
}

// Merge looks at QEMU, libvirt and the files, and does what is left to do.
func (h *Host) Merge(ctx context.Context, p snapshot.Plan) error { return h.of(p.VM).Merge(ctx, p) }

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

// Track names records of changes.
func (h *Host) Track(ctx context.Context, p snapshot.Plan, series string, since map[string]string) (snapshot.Plan, error) {
	return h.of(p.VM).Track(ctx, p, series, since)
}

// Settle removes records.
func (h *Host) Settle(ctx context.Context, p snapshot.Plan, keep map[string]string) error {
	return h.of(p.VM).Settle(ctx, p, keep)
}

// CanSave says why TakeSaved would not do.
func (h *Host) CanSave(ctx context.Context, p snapshot.Plan) error { return h.of(p.VM).CanSave(ctx, p) }

// TakeSaved takes the domain's memory too.
func (h *Host) TakeSaved(ctx context.Context, p snapshot.Plan, frozen func()) error {
	return h.of(p.VM).TakeSaved(ctx, p, frozen)
}

// Resume lets a domain go on whose memory was being saved.
func (h *Host) Resume(ctx context.Context, p snapshot.Plan) error { return h.of(p.VM).Resume(ctx, p) }
