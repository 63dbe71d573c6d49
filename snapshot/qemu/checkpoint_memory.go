package qemu

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/checkpoint"
	"github.com/lull-backup/lull/snapshot/qmp"
	"github.com/lull-backup/lull/snapshot/vmstate"
)

// The memory of a checkpoint is taken as TakeSaved takes it, in the order that save.go
// says: QEMU migrates into a pipe, bounded, while the VM stands still. What comes out is
// laid as an image that has it as the state of an internal snapshot (vmstate.Image), for
// that is what a running QEMU loads, by snapshot-load: the disks are no part of it. Room
// is reserved for all that may come before the VM is stopped.

// errLoad: the memory was not loaded, and that which the VM had is gone.
var errLoad = errors.New("the memory could not be loaded, and the VM was reset")

// errNotBegun: QEMU has refused to load the memory, and the VM has that which it had.
var errNotBegun = errors.New("QEMU does not load the memory")

// takeMemory freezes the disks and keeps the memory.
func (c *checkpointing) takeMemory(ctx context.Context, p snapshot.Plan) (*checkpoint.Memory, error) {
	var length int64
	named := false // the images have their names
	s := &saving{leave: true, resumed: func() {}, settled: func() {}}
	s.frozen = func() error {
		after, cancel := owed(ctx)
		defer cancel()
		err := c.settleFrozen(after, p)
		named = err == nil
		return err
	}
	s.mayGoOn = func() error {
		if named {
			return nil
		}
		after, cancel := owed(ctx)
		defer cancel()
		return c.settleAsked(after, p)
	}
	s.lay = func(f io.WriterAt, in io.Reader, limit int64) (err error) {
		if length, err = vmstate.WriteImage(f, in, limit); err != nil {
			return fmt.Errorf("write memory: %w", spaceOr(err))
		}
		return nil
	}
	c.halted = true
	if err := c.saveInto(ctx, p, s); err != nil {
		return nil, err // undoCreate sees to it that the VM goes on
	}
	c.halted = false
	if err := errors.Join(trim(p.Saved.Path), syncFile(p.Saved.Path), syncDir(p.Saved.Path)); err != nil {
		return nil, fmt.Errorf("keep memory: %w", err)
	}
	return &checkpoint.Memory{Path: p.Saved.Path, Stream: length, Limit: p.Saved.Limit}, nil
}

// settleAsked is settleFrozen where nobody knows whether the disks have frozen.
func (c *checkpointing) settleAsked(ctx context.Context, p snapshot.Plan) error {
	frozen := false
	err := c.during(ctx, p, func(m *monitor) (err error) {
		frozen, err = c.frozenBy(ctx, m)
		return err
	})
	if err != nil || !frozen {
		return err
	}
	return c.settleFrozen(ctx, p)
}

// reserve makes sure of the room for a file before there is anything to be written.
func reserve(f *os.File, bytes int64) error {
	err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, 0, bytes)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return nil // the room was looked for
	}
	if err != nil {
		return fmt.Errorf("reserve room for memory: %w", spaceOr(err))
	}
	return nil
}

// trim gives back what was reserved behind the end of a file.
func trim(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	return os.Truncate(path, info.Size())
}

// memoryNode is the node of the memory that is loaded, and loadJob the job that does it.
func (c *checkpointing) memoryNode() string { return checkpointNode(c.tree.Op.Run, 0) + "-mem" }
func (c *checkpointing) loadJob() string    { return c.memoryNode() + "-load" }

// openMemory makes the memory of a checkpoint ready to be loaded, while the VM still runs.
// The image is sealed anew, so that whatever an earlier load has done to its tables is
// undone.
func (c *checkpointing) openMemory(ctx context.Context, m *monitor, n checkpoint.Node) error {
	if c.tree.Op.Cold {
		return nil
	}
	if err := sealMemory(*n.Memory); err != nil {
		return fmt.Errorf("open memory: %w", err)
	}
	node := c.memoryNode()
	return deltaRefused(m.Execute(ctx, "blockdev-add", args{"driver": "qcow2", "node-name": node,
		"file": args{"driver": "file", "filename": n.Memory.Path}}, nil))
}

func sealMemory(mem checkpoint.Memory) (err error) {
	f, err := os.OpenFile(mem.Path, os.O_RDWR|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if least := vmstate.ImageSize(mem.Stream, mem.Limit); info.Size() < least {
		return fmt.Errorf("%s has %d bytes, and should have %d: %w", mem.Path, info.Size(), least, snapshot.ErrCorrupt)
	}
	// QEMU reads all of it while the VM waits: best effort.
	_ = unix.Fadvise(int(f.Fd()), 0, info.Size(), unix.FADV_WILLNEED)
	return vmstate.SealImage(f, mem.Stream, mem.Limit)
}

// loadMemory has QEMU load the memory, unless it does already, and waits for the end, which
// it cannot be kept from: as long as QEMU lives, and holds the connection, however long that
// takes (ctx has no end). The job is there until closeMemory: as long as it is, the memory
// that the VM had is gone; and what was loaded is never loaded again.
func (c *checkpointing) loadMemory(ctx context.Context, m *monitor, n checkpoint.Node) error {
	j, err := m.findJob(ctx, c.loadJob())
	if err != nil {
		return err
	}
	if j == nil {
		node := c.memoryNode()
		err = m.Execute(ctx, "snapshot-load", args{"job-id": c.loadJob(), "tag": vmstate.ImageTag, "vmstate": node, "devices": []string{node}}, nil)
		if refused(err) {
			return fmt.Errorf("%w: %w", errNotBegun, err)
		}
	}
	for err == nil || errors.Is(err, qmp.ErrSilent) { // QEMU answers nobody while it loads
		if j, err = m.awaitJob(ctx, c.loadJob()); err == nil {
			break
		}
	}
	switch {
	case err != nil:
		return err
	case j == nil:
		err = errors.New("its job is gone")
	case j.Error != "":
		err = jobError(j)
	default:
		return nil
	}
	// The disks are the checkpoint's, so it starts as after a loss of power.
	return errors.Join(fmt.Errorf("%w: %w", errLoad, err), m.Execute(ctx, "system_reset", nil, nil))
}

// closeMemory forgets the load and closes the memory.
func (c *checkpointing) closeMemory(ctx context.Context, m *monitor) error {
	if c.tree.Op.Cold {
		return nil
	}
	err := m.Execute(ctx, "job-dismiss", args{"id": c.loadJob()}, nil)
	if err != nil && !refused(err) {
		return err
	}
	return m.closeChain(ctx, blockGraph{}, []string{c.memoryNode()})
}

// fitsMemory fails where a VM is not the one that the memory is of.
func fitsMemory(was, is snapshot.Hardware) error {
	differs := func(what string, a, b any) error {
		return snapshot.WithHint(fmt.Errorf("the memory is of a VM with %s %v, and it has %v: %w", what, a, b, snapshot.ErrUnsupported),
			"give the VM what it had, or --cold to start it from the disks alone")
	}
	switch {
	case older(mainVersion(is.Version), mainVersion(was.Version)):
		return differs("QEMU", was.Version, is.Version)
	case was.Machine != is.Machine:
		return differs("the machine", was.Machine, is.Machine)
	case was.CPU != is.CPU || was.HostCPU != is.HostCPU:
		return differs("the CPU", was.CPU, is.CPU)
	case was.VCPUs != is.VCPUs:
		return differs("processors", was.VCPUs, is.VCPUs)
	case was.Memory != is.Memory:
		return differs("bytes of memory", was.Memory, is.Memory)
	case was.Accelerator != is.Accelerator:
		return differs("the accelerator", was.Accelerator, is.Accelerator)
	}
	key := func(d snapshot.Device) string { return d.Driver + " " + d.Path }
	for _, d := range was.Devices {
		if !slices.ContainsFunc(is.Devices, func(x snapshot.Device) bool { return key(x) == key(d) }) {
			return differs("the device", key(d), "none such")
		}
	}
	if len(was.Devices) != len(is.Devices) {
		return differs("devices", len(was.Devices), len(is.Devices))
	}
	return nil
}
