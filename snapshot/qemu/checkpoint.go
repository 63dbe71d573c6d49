package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/checkpoint"
)

// Checkpoints are images upon images, as package checkpoint says. The image that the VM
// writes to is always at the path that the disk had at first, so that whatever starts the
// VM starts it from there. At no moment does that path name an image that others rest upon:
//
//	make     <image>.lull-<id>.own, an empty image upon <image>.lull-<id>.checkpoint
//	link     <image> to that second name
//	open     the new image, by its name, beside the running disk
//	stop     the VM, for as long as it takes, and to write its memory
//	freeze   the transaction of Take
//	place    rename the new image to <image>, beside the name that QEMU calls it
//	cont
//
// A checkpoint is applied in the QEMU that runs, which need not be started anew: the VM
// stands still, its disks move onto empty images upon those of the checkpoint, and
// snapshot-load brings the memory back (checkpoint_memory.go). Without memory the VM is
// reset instead. Then the empty images take their places, and the VM goes on.

var _ snapshot.Checkpointer = (*Host)(nil)

// checkpointing is an operation on the tree of a VM.
type checkpointing struct {
	*Host
	vm   string
	line *line
	path string // of the tree
	tree checkpoint.Tree

	urgent   bool // what does not keep the VM from going on is left to another
	standing bool // somebody stands by
	halted   bool // the VM stands still for the operation's sake
}

func (h *Host) checkpointing(vm string) (*checkpointing, error) {
	l, err := h.line(vm)
	if err != nil {
		return nil, err
	}
	if len(l.vm.Nodes) > 0 {
		return nil, fmt.Errorf("a storage daemon has no checkpoints: %w", snapshot.ErrUnsupported)
	}
	if l.vm.Manager != nil { // the manager's host makes them
		return nil, fmt.Errorf("QEMU alone has no checkpoints of a VM that another program manages: %w", snapshot.ErrUnsupported)
	}
	c := &checkpointing{Host: h, vm: vm, line: l, path: h.treePath(vm)}
	c.tree, err = h.load(vm)
	return c, err
}

// treePath is where the tree of a VM is kept.
func (h *Host) treePath(vm string) string {
	return filepath.Join(h.opt.CheckpointDir, fileWord(vm)+".json")
}

func (c *checkpointing) save() error { return checkpoint.Save(c.path, c.tree) }

// step tells what comes next; all that it needs to be taken back or ended is durable.
func (c *checkpointing) step(name string) {
	if c.opt.Observe != nil {
		c.opt.Observe(c.vm, name)
	}
}

// begin makes an operation the one under way.
func (c *checkpointing) begin(op checkpoint.Op) error {
	c.tree.Op = &op
	return c.save()
}

// reach notes how far the operation under way is.
func (c *checkpointing) reach(step string) error {
	c.tree.Op.Step = step
	return c.save()
}

// end forgets the operation under way.
func (c *checkpointing) end() error {
	c.tree.Op = nil
	return c.save()
}

// on is how operations get at a tree.
func (h *Host) on() checkpoint.On[*checkpointing] { return h.onTree }

// CreateCheckpoint takes a running VM as it is.
func (h *Host) CreateCheckpoint(ctx context.Context, vm string, n snapshot.NewCheckpoint) (snapshot.Checkpoint, error) {
	return h.on().Create(ctx, vm, n)
}

// ApplyCheckpoint takes a VM back.
func (h *Host) ApplyCheckpoint(ctx context.Context, vm, ref string, cold bool) (snapshot.Checkpoint, error) {
	return h.on().Apply(ctx, vm, ref, cold)
}

// DeleteCheckpoints removes some.
func (h *Host) DeleteCheckpoints(ctx context.Context, vm, ref string, subtree bool) error {
	return h.on().Delete(ctx, vm, ref, subtree)
}

// MergeCheckpoints removes all.
func (h *Host) MergeCheckpoints(ctx context.Context, vm string) error { return h.on().Merge(ctx, vm) }

// RecoverCheckpoints ends or takes back what was interrupted. Of a VM that cannot have
// checkpoints there is nothing.
func (h *Host) RecoverCheckpoints(ctx context.Context, vm string) (found bool, err error) {
	if l := h.lines[vm]; l != nil && (len(l.vm.Nodes) > 0 || l.vm.Manager != nil) {
		return false, nil
	}
	there, err := h.mayHave(vm)
	if err == nil && there {
		err = h.onTree(ctx, vm, func(c *checkpointing) error {
			found, err = c.Recover(ctx)
			return err
		})
	}
	if err != nil {
		return found, fmt.Errorf("recover checkpoints of %s: %w", vm, err)
	}
	return found, nil
}

// Checkpoints reads the tree and looks at its files.
func (h *Host) Checkpoints(_ context.Context, vm string) (snapshot.Checkpoints, error) {
	c, err := h.checkpointing(vm)
	if err != nil {
		return snapshot.Checkpoints{}, fmt.Errorf("checkpoints of %s: %w", vm, err)
	}
	list := checkpoint.List(c, vm, h.opt.Space)
	list.Missing = c.missing()
	list.Unowned, err = c.unowned()
	if err != nil {
		return list, fmt.Errorf("checkpoints of %s: %w", vm, err)
	}
	return list, nil
}

// Tree is the VM's.
func (c *checkpointing) Tree() *checkpoint.Tree { return &c.tree }

// Paths are all files of a checkpoint.
func (c *checkpointing) Paths(n *checkpoint.Node) (list []string) {
	for _, d := range c.tree.Disks {
		list = append(list, layerPath(d, n.ID))
	}
	return append(list, n.Paths()...)
}

// live runs fn with the VM's monitor; off where nothing answers. That ctx ends before there
// is an answer says nothing of the VM; nor does a monitor that is out of reach for a moment,
// of a process that is known and lives.
func (c *checkpointing) live(ctx context.Context, fn func(*monitor) error, off func() error) error {
	err := c.line.use(ctx, fn)
	if !errors.Is(err, snapshot.ErrUnreachable) || ctx.Err() != nil {
		return err
	}
	if pid := c.process(); pid != 0 {
		return fmt.Errorf("its QEMU runs, process %d: %w", pid, err)
	}
	return off()
}

// process is that of the VM, as far as its tree knows; 0: it is not there any more.
func (c *checkpointing) process() int {
	pid := instancePID(c.tree.Known.Instance)
	if op := c.tree.Op; pid == 0 && op != nil {
		pid = instancePID(op.Instance)
	}
	return pid
}

// unused fails where a process has an image of the VM open, which then runs somewhere.
func (c *checkpointing) unused() error {
	for _, d := range c.tree.Disks {
		if err := closed(d.Path); err != nil {
			return err
		}
	}
	return nil
}

// removeAll removes files, and makes that durable.
func removeAll(paths ...string) error {
	for _, path := range paths {
		err := os.Remove(path)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err == nil {
			err = syncDir(path)
		}
		if err != nil {
			return fmt.Errorf("remove file of checkpoint: %w", err)
		}
	}
	return nil
}
