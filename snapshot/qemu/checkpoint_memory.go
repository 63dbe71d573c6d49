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
	"github.com/lull-backup/lull/snapshot/vmstate"
)

// The memory of a checkpoint is taken as TakeSaved takes it, in the order that save.go
// says: QEMU migrates into a pipe, bounded, while the VM stands still. What comes out is
// laid as an image that has it as the state of an internal snapshot (vmstate.Image), for
// that is what a running QEMU loads, by snapshot-load: the disks are no part of it. Room
// is reserved for all that may come before the VM is stopped.

// errLoad: the memory was not loaded, and that which the VM had is gone.
var errLoad = errors.New("the memory could not be loaded, and the VM was reset")

// takeMemory freezes the disks and keeps the memory.
func (c *checkpointing) takeMemory(ctx context.Context, p snapshot.Plan) (*checkpoint.Memory, error) {
	var length int64
	s := &saving{reserve: true, frozen: func() error { return c.settleFrozen(ctx, p) }, resumed: func() {}, settled: func() {}}
	s.lay = func(f io.WriterAt, r io.ReadCloser, limit int64) (err error) {
		length, err = vmstate.WriteImage(f, r, limit)
		if errors.Is(err, vmstate.ErrTooLarge) {
			err = errors.Join(err, r.Close()) // QEMU's next write fails
		}
		if err != nil {
			return fmt.Errorf("write memory: %w", spaceOr(err))
		}
		return nil
	}
	if err := c.saveInto(ctx, p, s); err != nil {
		return nil, err
	}
	if err := errors.Join(trim(p.Saved.Path), syncFile(p.Saved.Path), syncDir(p.Saved.Path)); err != nil {
		return nil, fmt.Errorf("keep memory: %w", err)
	}
	return &checkpoint.Memory{Path: p.Saved.Path, Stream: length, Limit: p.Saved.Limit}, nil
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

// loadMemory brings the memory of a checkpoint back. The image is sealed anew before, so
// that whatever an earlier load has done to its tables is undone.
func (c *checkpointing) loadMemory(ctx context.Context, m *monitor, n checkpoint.Node) error {
	f, err := os.OpenFile(n.Memory.Path, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("open memory: %w", err)
	}
	err = errors.Join(vmstate.SealImage(f, n.Memory.Stream, n.Memory.Limit), f.Close())
	if err != nil {
		return fmt.Errorf("open memory: %w", err)
	}
	node := checkpointNode(c.tree.Op.Run, 0) + "-mem"
	if err := m.closeChain(ctx, blockGraph{}, []string{node}); err != nil {
		return err
	}
	err = m.Execute(ctx, "blockdev-add", args{"driver": "qcow2", "node-name": node,
		"file": args{"driver": "file", "filename": n.Memory.Path}}, nil)
	if err != nil {
		return deltaRefused(err)
	}
	job := node + "-load"
	err = m.Execute(ctx, "snapshot-load", args{"job-id": job, "tag": vmstate.ImageTag, "vmstate": node, "devices": []string{node}}, nil)
	if err == nil {
		err = m.finish(ctx, job)
	}
	if refused(err) || errors.Is(err, errJob) {
		// The disks are the checkpoint's, so it starts as after a loss of power.
		err = errors.Join(fmt.Errorf("%w: %w", errLoad, err), m.Execute(ctx, "system_reset", nil, nil))
	}
	return errors.Join(err, ignoreRefused(m.closeChain(ctx, blockGraph{}, []string{node})))
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
