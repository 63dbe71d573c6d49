package qemu

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/qmp"
	"github.com/lull-backup/lull/snapshot/space"
)

// Kind is what Plan.Host says.
const Kind = "qemu"

// VM is one QEMU process, by its sockets.
type VM struct {
	Name       string
	QMP        string // path of the monitor's unix socket
	GuestAgent string // path of the agent's unix socket; empty: none
	// DeltaDir holds the deltas of its disks. Empty: each is beside its image.
	DeltaDir string
	// Wipe has deltas and saved memory overwritten before they are removed.
	Wipe bool

	// Nodes are the block nodes that are this VM's disks, for a process without
	// devices: a qemu-storage-daemon. Empty for a VM.
	Nodes []string

	// Manager has started the VM and keeps a record of it; then QMP and GuestAgent are
	// empty. Nil: nobody does.
	Manager Manager
}

// Options of a Host. The zero value is good.
type Options struct {
	// Kind is what Plan.Host says. Default: Kind.
	Kind string
	// Name of the host is part of the names of deltas in folders that hosts may share.
	Name string
	// RuntimeDir holds the sockets over which frozen disks are read. It must
	// be the same after a restart, and nobody else's. Default: /run/lull, or
	// lull-UID in the folder for temporary files when not root.
	RuntimeDir string
	// DeltaDir holds the deltas of disks that are no regular file and so have
	// no folder of their own. Default: /var/lib/lull/deltas.
	DeltaDir string
	// CheckpointDir holds the trees of checkpoints, a small file for each VM. Default:
	// /var/lib/lull/checkpoints.
	CheckpointDir string
	// Whole: no other VM of this host is configured. A tree of checkpoints that is of another
	// name is that of a VM which has got another name since.
	Whole bool
	// Observe hears each step of an operation on checkpoints before it is done, when all
	// that is needed to end it or to take it back is durable. May be nil.
	Observe func(vm, step string)
	// Guard puts somebody in force who outlives this process: where it dies before off is
	// called, or runs is false then, ReleaseCheckpoint is called for the VM in another
	// process. Nil: nobody.
	Guard func(ctx context.Context, vm string) (off func(ctx context.Context, runs bool) error, err error)
	// CheckpointStop is how long an operation on checkpoints may keep a VM stopped. What
	// QEMU cannot give up, the loading of memory, takes its time. Default: a minute.
	CheckpointStop time.Duration
	// Space are the lines that deltas must not cross.
	Space space.Limits
	// Ledger is the account of the room that runs take, shared by the hosts of a process.
	// Default: one of its own.
	Ledger *space.Ledger
	// Served reads every disk from QEMU, over its NBD server, also those whose files
	// could be read, which is several times faster.
	Served bool
	// QemuImg is the program that merges after QEMU has gone. Default: qemu-img.
	QemuImg string
	Monitor qmp.Options
	Agent   qmp.AgentOptions
	Log     *slog.Logger // nil: none
}

// Host serves the VMs that it was given. It implements snapshot.Host.
type Host struct {
	opt   Options
	lines map[string]*line
	names []string

	mu        sync.Mutex
	opened    map[*frozen]struct{} // sets of frozen disks that are not closed yet
	variables map[string]held      // of the firmware, by run; from Take to Merge
}

var _ snapshot.Host = (*Host)(nil)

// NewHost makes a host of these VMs, whose names differ.
func NewHost(vms []VM, opt Options) *Host {
	if opt.RuntimeDir == "" {
		opt.RuntimeDir = "/run/lull"
		if os.Geteuid() != 0 {
			opt.RuntimeDir = filepath.Join(os.TempDir(), fmt.Sprintf("lull-%d", os.Geteuid()))
		}
	}
	opt.Kind = cmp.Or(opt.Kind, Kind)
	opt.DeltaDir = cmp.Or(opt.DeltaDir, "/var/lib/lull/deltas")
	opt.CheckpointDir = cmp.Or(opt.CheckpointDir, "/var/lib/lull/checkpoints")
	opt.QemuImg = cmp.Or(opt.QemuImg, "qemu-img")
	opt.CheckpointStop = cmp.Or(opt.CheckpointStop, defaultStop)
	if opt.Ledger == nil {
		opt.Ledger = &space.Ledger{}
	}
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	h := &Host{opt: opt, lines: map[string]*line{}, opened: map[*frozen]struct{}{}, variables: map[string]held{}}
	for _, v := range vms {
		h.lines[v.Name] = newLine(v, opt.Monitor)
		h.lines[v.Name].tree = h.treePath(v.Name)
		h.names = append(h.names, v.Name)
	}
	slices.Sort(h.names)
	return h
}

// Close lets go of all that this process holds: readers, and the connections that
// a run keeps between Prepare and Merge. In QEMU it changes nothing. The Host can
// be used on.
func (h *Host) Close() error {
	h.mu.Lock()
	opened := slices.Collect(maps.Keys(h.opened))
	h.mu.Unlock()
	for _, f := range opened {
		f.mu.Lock()
		f.closeReaders()
		f.mu.Unlock()
	}
	for _, l := range h.lines {
		l.hold(false)
	}
	return nil
}

// track notes a set of frozen disks, or that it is closed.
func (h *Host) track(f *frozen, open bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if open {
		h.opened[f] = struct{}{}
	} else {
		delete(h.opened, f)
	}
}

func (h *Host) line(vm string) (*line, error) {
	if l := h.lines[vm]; l != nil {
		return l, nil
	}
	return nil, snapshot.WithHint(fmt.Errorf("VM %q: %w", vm, snapshot.ErrNotFound), "see lull vms for the names")
}

// VMs asks all processes at once.
func (h *Host) VMs(ctx context.Context) ([]snapshot.VM, error) {
	list := make([]snapshot.VM, len(h.names))
	var all sync.WaitGroup
	for i, name := range h.names {
		all.Go(func() { list[i] = h.describe(ctx, h.lines[name]) })
	}
	all.Wait()
	return list, ctx.Err()
}

// listTimeout is how long a list waits for one QEMU that does not answer.
const listTimeout = 15 * time.Second

func (h *Host) describe(ctx context.Context, l *line) snapshot.VM {
	ctx, cancel := context.WithTimeoutCause(ctx, listTimeout, qmp.ErrSilent)
	defer cancel()
	vm := snapshot.VM{Name: l.vm.Name, Guest: l.vm.GuestAgent != ""}
	err := l.use(ctx, func(m *monitor) error {
		var err error
		if vm.State, err = m.state(ctx); err != nil {
			return err
		}
		found, err := m.inspect(ctx)
		if err != nil {
			return err
		}
		for _, d := range found.disks {
			vm.Disks = append(vm.Disks, d.Disk)
		}
		for _, x := range found.excluded {
			if !x.Expected {
				vm.Disks = append(vm.Disks, x.Disk)
			}
		}
		return nil
	})
	if err != nil {
		return snapshot.VM{Name: l.vm.Name, Guest: vm.Guest, State: snapshot.StateUnreachable, Problem: err.Error()}
	}
	return vm
}

// Instance is the start of the process that serves the monitor now.
func (h *Host) Instance(ctx context.Context, vm string) (string, error) {
	l, err := h.line(vm)
	if err != nil {
		return "", err
	}
	instance := ""
	err = l.use(ctx, func(m *monitor) error {
		instance = m.proc.instance
		return nil
	})
	if err != nil {
		return "", fmt.Errorf("VM %q: %w", vm, err)
	}
	return instance, nil
}

// Guest connects to the agent. That nobody answers shows with the first call.
func (h *Host) Guest(ctx context.Context, vm string) (snapshot.Guest, error) {
	l, err := h.line(vm)
	if err != nil {
		return nil, err
	}
	if l.vm.Manager != nil {
		return l.vm.Manager.Guest(ctx)
	}
	if l.vm.GuestAgent == "" {
		return nil, snapshot.WithHint(fmt.Errorf("VM %q: %w", vm, snapshot.ErrNoGuest),
			"give the VM a guest_agent socket in the configuration")
	}
	a := qmp.NewAgent(l.vm.GuestAgent, h.opt.Agent)
	err = a.Connect(ctx)
	if errors.Is(err, snapshot.ErrUnreachable) {
		return nil, fmt.Errorf("VM %q: %w: %w", vm, snapshot.ErrNoGuest, err)
	}
	if err != nil {
		return nil, fmt.Errorf("VM %q: %w", vm, err)
	}
	return a, nil
}
