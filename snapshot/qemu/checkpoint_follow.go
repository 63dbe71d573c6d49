package qemu

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/lull-backup/lull/snapshot/checkpoint"
)

// A tree is kept under the name that its VM has in the configuration. A VM that gets another
// name there takes its tree along: the only one that is of its very disks, and of a name that
// is in the configuration no more.
//
//	write   the tree under the new name, which says what the VM was called (Tree.Was)
//	remove  the one under the old name: as long as that is there, it is the one that counts
//	write   the tree once more, which stands for itself now

// blank tells whether there is nothing in a tree.
func blank(t checkpoint.Tree) bool { return len(t.Nodes)+len(t.Junk) == 0 && t.Op == nil }

// load reads the tree of a VM, from where it counts.
func (h *Host) load(vm string) (checkpoint.Tree, error) {
	t, err := checkpoint.Load(h.treePath(vm), vm)
	if err != nil || t.Was == "" {
		return t, err
	}
	there, err := exists(h.treePath(t.Was))
	if err != nil || !there {
		return t, err
	}
	if h.lines[t.Was] != nil { // which has its name back
		return checkpoint.Tree{VM: vm}, nil
	}
	was, err := checkpoint.Load(h.treePath(t.Was), t.Was)
	was.VM, was.Was = vm, t.Was
	return was, err
}

// follow takes the tree along that the VM had under another name. The caller holds the lock of
// the VM's own.
func (c *checkpointing) follow(ctx context.Context) error {
	was := c.tree.Was
	if was == "" && blank(c.tree) {
		var err error
		if was, err = c.leftBehind(ctx); err != nil {
			return err
		}
	}
	if was == "" {
		return nil
	}
	unlock, err := checkpoint.Lock(c.treePath(was))
	if err == nil {
		defer unlock()
		err = c.take(was)
	}
	if err != nil {
		return fmt.Errorf("take over the checkpoints that it has as %s: %w", was, err)
	}
	c.line.relearn()
	return nil
}

// take makes the tree of a name the VM's. The caller holds both locks.
func (c *checkpointing) take(was string) error {
	there, err := exists(c.treePath(was))
	if err != nil {
		return err
	}
	if there {
		if c.tree, err = checkpoint.Load(c.treePath(was), was); err != nil {
			return err
		}
		c.tree.VM, c.tree.Was = c.vm, was
		if err := c.save(); err != nil {
			return err
		}
		c.step("follow-copied")
		if err := c.forgetCopies(was); err != nil {
			return err
		}
		if err := removeAll(c.treePath(was)); err != nil {
			return err
		}
		c.step("follow-removed")
		c.opt.Log.Info("the VM has another name, and its checkpoints follow", "vm", c.vm, "was", was)
	}
	c.tree.Was = ""
	return c.save()
}

// forgetCopies removes what others were to follow from a name and did not come to: once the
// tree of that is gone, they would count.
func (c *checkpointing) forgetCopies(was string) error {
	paths, err := filepath.Glob(filepath.Join(c.opt.CheckpointDir, "*.json"))
	if err != nil {
		return err
	}
	for _, path := range paths {
		if t, err := checkpoint.Read(path); err == nil && t.Was == was && path != c.path && path == c.treePath(t.VM) && slices.Equal(t.Disks, c.tree.Disks) {
			if err := removeAll(path); err != nil {
				return err
			}
		}
	}
	return nil
}

// leftBehind is the name under which the only tree is kept that is of the disks of this VM,
// and of no VM of the configuration. Empty: there is none, or the VM is off, and nobody can
// tell.
func (c *checkpointing) leftBehind(ctx context.Context) (name string, err error) {
	trees := c.orphans()
	if len(trees) == 0 {
		return "", nil
	}
	found := 0
	err = c.live(ctx, func(m *monitor) error {
		for _, t := range trees {
			same, err := m.hasDisks(ctx, t)
			if err != nil {
				return err
			}
			if same {
				name, found = t.VM, found+1
			}
		}
		return nil
	}, func() error { return nil })
	if found > 1 {
		name = ""
	}
	return name, err
}

// orphans are the trees of names that are in the configuration no more.
func (h *Host) orphans() (list []checkpoint.Tree) {
	if !h.opt.Whole {
		return nil
	}
	paths, err := filepath.Glob(filepath.Join(h.opt.CheckpointDir, "*.json"))
	if err != nil {
		return nil
	}
	for _, path := range paths {
		t, err := checkpoint.Read(path)
		if err != nil || blank(t) || h.lines[t.VM] != nil || path != h.treePath(t.VM) {
			continue
		}
		if t.Was != "" {
			if counts, err := exists(h.treePath(t.Was)); err != nil || counts {
				continue // it is the copy of one
			}
		}
		list = append(list, t)
	}
	return list
}

// hasDisks tells whether the VM runs from the disks of a tree.
func (m *monitor) hasDisks(ctx context.Context, t checkpoint.Tree) (bool, error) {
	drives, err := m.drives(ctx)
	if err != nil {
		return false, err
	}
	for _, d := range t.Disks {
		if _, err := os.Stat(d.Path); err != nil {
			return false, nil // of storage that is no more, perhaps: no VM that can be worked on runs from it
		}
		found := false
		for _, b := range drives {
			if b.Inserted == nil || found {
				continue
			}
			if path, ok := m.path(b.Inserted.Image.Filename); ok {
				if found, err = sameFile(path, d.Path); err != nil {
					return false, err
				}
			}
		}
		if !found {
			return false, nil
		}
	}
	return len(t.Disks) > 0, nil
}

// mayHave tells whether the VM has a tree, or may have one under another name.
func (h *Host) mayHave(vm string) (bool, error) {
	there, err := exists(h.treePath(vm))
	return there || len(h.orphans()) > 0, err
}
