package libvirt

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/libvirt/rpc"
	"github.com/lull-backup/lull/snapshot/qemu"
	"github.com/lull-backup/lull/snapshot/space"
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

// Host serves the domains of a daemon. It implements snapshot.Host, Tracker, Saver, Comparer,
// Reserver, Merger and Checkpointer.
type Host struct {
	link *link
	opt  qemu.Options
	tpm  string // Options.TPMDir

	deltas string // Options.DeltaDir
	wipe   func(vm string) bool

	mu    sync.Mutex
	hosts map[identity]*served // those that are in use
	still map[string]*still    // domains that are off, from Prepare to Merge, by keyOf
	docs  map[string]docs      // from Prepare to Merge, by keyOf
}

var (
	_ snapshot.Tracker    = (*Host)(nil)
	_ snapshot.Discoverer = (*Host)(nil)
	_ snapshot.Saver      = (*Host)(nil)
	_ snapshot.Reserver   = (*Host)(nil)
	_ snapshot.Merger     = (*Host)(nil)
)

// NewHost makes a host of the daemon at an address. It does not connect yet.
func NewHost(address rpc.Address, opt Options) *Host {
	opt.QEMU.Kind = Kind
	if opt.QEMU.Log == nil {
		opt.QEMU.Log = slog.New(slog.DiscardHandler)
	}
	if opt.QEMU.Ledger == nil { // one of all domains
		opt.QEMU.Ledger = &space.Ledger{}
	}
	return &Host{link: newLink(address, opt.RPC), opt: opt.QEMU, tpm: cmp.Or(opt.TPMDir, DefaultTPMDir), deltas: opt.DeltaDir, wipe: opt.Wipe,
		hosts: map[identity]*served{}, still: map[string]*still{}, docs: map[string]docs{}}
}

// Close lets go of all that this process holds: readers and connections. In libvirt it
// changes nothing. The Host can be used on.
func (h *Host) Close() error {
	h.mu.Lock()
	hosts := h.hosts
	h.hosts = map[identity]*served{}
	h.mu.Unlock()
	var errs []error
	for _, s := range hosts {
		errs = append(errs, s.close())
	}
	return errors.Join(append(errs, h.link.close())...)
}

// Plan looks at a domain, running or not.
func (h *Host) Plan(ctx context.Context, vm, run string) (snapshot.Plan, error) {
	d, err := h.lookUp(ctx, vm)
	if err != nil {
		return snapshot.Plan{}, fmt.Errorf("plan %s: %w", vm, err)
	}
	id := identity{d.UUID, vm}
	var p snapshot.Plan
	err = h.use(id, func(q *qemu.Host) (err error) {
		p, err = q.Plan(ctx, vm, run)
		return err
	})
	if errors.Is(err, qemu.ErrOff) && !errors.Is(err, snapshot.ErrNotFound) {
		return h.planOff(ctx, id, run)
	}
	if err != nil {
		return p, err
	}
	p.Hardware.UUID = d.UUID.String() // which domain it is, whatever happens to its name
	if err := h.fits(d, p); err != nil {
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
	return h.hold(identityOf(p), func(q *qemu.Host) error { return q.Prepare(ctx, p) })
}

// Take is one external snapshot.
func (h *Host) Take(ctx context.Context, p snapshot.Plan) error {
	if p.State == snapshot.StateOff {
		return h.takeOff(ctx, p)
	}
	return h.hold(identityOf(p), func(q *qemu.Host) error { return q.Take(ctx, p) })
}

// Open opens the frozen disks.
func (h *Host) Open(ctx context.Context, p snapshot.Plan) (f snapshot.Frozen, err error) {
	if p.State == snapshot.StateOff {
		return h.openOff(ctx, p)
	}
	err = h.hold(identityOf(p), func(q *qemu.Host) (err error) {
		f, err = q.Open(ctx, p)
		return err
	})
	if err != nil {
		return nil, err
	}
	if all, ok := f.(whole); ok {
		return &frozenOn{all, h.docsOf(p)}, nil
	}
	return f, nil
}

// Merge looks at QEMU, libvirt and the files, and does what is left to do.
func (h *Host) Merge(ctx context.Context, p snapshot.Plan) error { return h.MergeTelling(ctx, p, nil) }

// MergeTelling is Merge that says how far it is.
func (h *Host) MergeTelling(ctx context.Context, p snapshot.Plan, tell func(snapshot.Merging)) error {
	defer h.forget(p)
	if p.State == snapshot.StateOff {
		return h.mergeOff(ctx, p)
	}
	id := identityOf(p)
	defer h.letGo(id)
	return h.use(id, func(q *qemu.Host) error { return q.MergeTelling(ctx, p, tell) })
}

// Instance is the start of the domain's QEMU.
func (h *Host) Instance(ctx context.Context, vm string) (instance string, err error) {
	d, err := h.lookUp(ctx, vm)
	if err != nil {
		return "", fmt.Errorf("VM %q: %w", vm, err)
	}
	err = h.use(identity{d.UUID, vm}, func(q *qemu.Host) (err error) {
		instance, err = q.Instance(ctx, vm)
		return err
	})
	if errors.Is(err, qemu.ErrOff) && !errors.Is(err, snapshot.ErrNotFound) {
		return "", nil
	}
	return instance, err
}

// Guest is the agent's channel, which libvirt holds.
func (h *Host) Guest(ctx context.Context, vm string) (snapshot.Guest, error) {
	d, err := h.lookUp(ctx, vm)
	if errors.Is(err, snapshot.ErrNotFound) {
		err = fmt.Errorf("%w: %w", snapshot.ErrNoGuest, err)
	}
	if err != nil {
		return nil, err
	}
	return h.domain(identity{d.UUID, vm}).Guest(ctx)
}

// Track names records of changes. Of a domain that is off there are none: its QEMU is who
// keeps them.
func (h *Host) Track(ctx context.Context, p snapshot.Plan, series string, since map[string]string) (next snapshot.Plan, err error) {
	if p.State == snapshot.StateOff {
		p.Disks = slices.Clone(p.Disks)
		for i := range p.Disks {
			p.Disks[i].Track.Reason = "the domain is off"
		}
		return p, nil
	}
	err = h.use(identityOf(p), func(q *qemu.Host) (err error) {
		next, err = q.Track(ctx, p, series, since)
		return err
	})
	return next, err
}

// Settle removes records.
func (h *Host) Settle(ctx context.Context, p snapshot.Plan, keep map[string]string) error {
	if p.State == snapshot.StateOff {
		return nil // the next run of the domain, when it is on
	}
	return h.use(identityOf(p), func(q *qemu.Host) error { return q.Settle(ctx, p, keep) })
}

// CanSave says why TakeSaved would not do.
func (h *Host) CanSave(ctx context.Context, p snapshot.Plan) error {
	if p.State == snapshot.StateOff {
		return fmt.Errorf("domain %s is off: %w", p.VM, snapshot.ErrUnsupported)
	}
	return h.use(identityOf(p), func(q *qemu.Host) error { return q.CanSave(ctx, p) })
}

// TakeSaved takes the domain's memory too.
func (h *Host) TakeSaved(ctx context.Context, p snapshot.Plan, reached func(snapshot.Moment)) (how snapshot.Saving, err error) {
	err = h.hold(identityOf(p), func(q *qemu.Host) error {
		how, err = q.TakeSaved(ctx, p, reached)
		return err
	})
	return how, err
}

// Resume lets a domain go on whose memory was being saved.
func (h *Host) Resume(ctx context.Context, p snapshot.Plan) error {
	if p.State == snapshot.StateOff {
		return nil
	}
	return h.use(identityOf(p), func(q *qemu.Host) error { return q.Resume(ctx, p) })
}

// Reserve sets the room for deltas aside, in the ledger that all hosts of a process share. A
// domain that is off has none.
func (h *Host) Reserve(ctx context.Context, p snapshot.Plan, want snapshot.Want, waiting func(string)) (waited bool, err error) {
	if p.State == snapshot.StateOff {
		return false, nil
	}
	err = h.use(identityOf(p), func(q *qemu.Host) (err error) {
		waited, err = q.Reserve(ctx, p, want, waiting)
		return err
	})
	return waited, err
}

// Release is the end of the run in the ledger.
func (h *Host) Release(p snapshot.Plan) {
	_ = h.use(identityOf(p), func(q *qemu.Host) error { // it does not fail
		q.Release(p)
		return nil
	})
}

// Deltas looks at the files.
func (h *Host) Deltas(p snapshot.Plan) (takes map[string]int64) {
	_ = h.use(identityOf(p), func(q *qemu.Host) error { // it does not fail
		takes = q.Deltas(p)
		return nil
	})
	return takes
}

// Written asks QEMU; a domain that is off writes nothing.
func (h *Host) Written(ctx context.Context, p snapshot.Plan) (bytes map[string]int64, over time.Duration, err error) {
	if p.State == snapshot.StateOff {
		return nil, 0, nil
	}
	err = h.use(identityOf(p), func(q *qemu.Host) (err error) {
		bytes, over, err = q.Written(ctx, p)
		return err
	})
	return bytes, over, err
}
