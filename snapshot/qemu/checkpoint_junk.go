package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/checkpoint"
	"github.com/lull-backup/lull/snapshot/wipe"
)

// A file that nothing needs any more is junk. It is on record (checkpoint.Tree.Junk) before
// the last that needs it is gone, and until it is gone itself, so that whatever ends the
// process, the next one removes it; and wipes it before, where the VM's files are wiped.
//
// A file goes with the last of its names: as long as it has another, only the name is
// removed. So an image in whose place another is put gets one more name before, that of
// junk: by that it is wiped when QEMU has let go of it.
//
// What a process has open is not wiped, nor is a name removed that the VM's QEMU goes by.
// Both stay on record for the next operation.

// replacedEnding is of an image in whose place another was put, or will be at once.
const replacedEnding = ".replaced"

// wiped tells whether the VM's files are overwritten before they are removed.
func (c *checkpointing) wiped() bool { return c.line.vm.Wipe }

// junk puts files on record that are there and are needed no more; not those that the tree
// names, nor the names by which QEMU knows one of them.
func (c *checkpointing) junk(paths ...string) error {
	list, owned := slices.Concat(c.tree.Junk, paths), c.owned()
	slices.Sort(list)
	var there []string
	for _, path := range slices.Compact(list) {
		is, err := exists(path)
		if err != nil {
			return fmt.Errorf("look for files of checkpoints: %w", err)
		}
		if is && !owned[path] && c.tree.Known.Files[path] == "" {
			there = append(there, path)
		}
	}
	c.tree.Junk = there
	return nil
}

// replacedBy is the name that an image gets in whose place another is put.
func replacedBy(image string) string {
	return strings.TrimSuffix(strings.TrimSuffix(image, layerEnding), ownEnding) + replacedEnding
}

// setAside gives a file in whose place another is put the name by which it is wiped. It can be
// repeated. What a new checkpoint replaces keeps the name of that.
func (c *checkpointing) setAside(path, name string) error {
	if !c.wiped() || c.tree.Op == nil || c.tree.Op.Kind == checkpoint.Create {
		return nil
	}
	if !slices.Contains(c.tree.Junk, name) {
		c.tree.Junk = append(c.tree.Junk, name)
		if err := c.save(); err != nil {
			return err
		}
	}
	same, err := sameFile(path, name)
	if err == nil && !same {
		err = os.Link(path, name)
	}
	if err == nil && !same {
		err = syncDir(name)
	}
	if err != nil {
		return fmt.Errorf("set aside what is replaced: %w", spaceOr(err))
	}
	return nil
}

// sweep removes what nothing needs any more, but for what is in use. That it takes long to
// wipe is no reason to give up before ctx ends.
func (c *checkpointing) sweep(ctx context.Context) error {
	if len(c.tree.Junk) == 0 || c.tree.Op != nil || c.urgent {
		return nil
	}
	after, cancel := owed(ctx)
	defer cancel()
	if err := c.whole(); err != nil { // no reason to keep the VM from being backed up: the list of checkpoints tells of it
		c.opt.Log.Warn("files that no checkpoint needs any more are left until no image is missing", "vm", c.vm, "files", c.tree.Junk, "error", err)
		return nil
	}
	known, err := c.callsItSo(after)
	if err != nil {
		return err
	}
	c.step("sweep")
	var errs []error
	var left []string
	for _, path := range c.tree.Junk {
		err := c.drop(ctx, path, known)
		if err == nil {
			continue
		}
		left = append(left, path)
		if errors.Is(err, snapshot.ErrBusy) {
			c.opt.Log.Warn("a file that no checkpoint needs any more is left for the next time", "vm", c.vm, "file", path, "error", err)
			continue
		}
		errs = append(errs, snapshot.WithHint(fmt.Errorf("remove %s, which no checkpoint needs any more: %w", path, err), "run lull again: it goes on where it was"))
	}
	c.tree.Junk = left
	return errors.Join(append(errs, c.save())...)
}

// whole fails where an image of the tree is not there: it may be one of the files that look
// as if nothing needed them, or their file system is elsewhere.
func (c *checkpointing) whole() error {
	var images []string
	for _, d := range c.tree.Disks {
		images = append(images, d.Path)
		for i := range c.tree.Nodes {
			images = append(images, layerPath(d, c.tree.Nodes[i].ID))
		}
	}
	for _, path := range images {
		there, err := exists(path)
		if err == nil && !there {
			err = snapshot.WithHint(fmt.Errorf("%s is missing: %w", path, snapshot.ErrDiverged), "bring it back: nothing beside the VM's disks is removed before")
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// callsItSo tells of a name whether the VM's QEMU goes by it.
func (c *checkpointing) callsItSo(ctx context.Context) (func(path string) bool, error) {
	names := map[string]bool{}
	err := c.live(ctx, func(m *monitor) error {
		nodes, err := m.nodes(ctx, true)
		for _, n := range nodes {
			if name, ok := m.proc.find(n.File); ok {
				names[name] = true
			}
		}
		return err
	}, func() error { return nil })
	return func(path string) bool { return names[path] }, err
}

// drop removes a name, and wipes the file before if it has no other.
func (c *checkpointing) drop(ctx context.Context, path string, known func(string) bool) error {
	if known(path) {
		return fmt.Errorf("QEMU knows a file by that name: %w", snapshot.ErrBusy)
	}
	info, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if s, ok := info.Sys().(*syscall.Stat_t); !c.wiped() || !info.Mode().IsRegular() || ok && s.Nlink > 1 {
		return removeAll(path)
	}
	if err := unopened(path, info); err != nil {
		return err
	}
	kind := wipe.Sparse
	if strings.HasSuffix(path, layerEnding) || strings.HasSuffix(path, ownEnding) || strings.HasSuffix(path, replacedEnding) {
		kind = wipe.Dense // QEMU wrote it
	}
	return wipe.Remove(ctx, path, kind)
}

// unopened fails where a process has a file open, on this host, or a QEMU on another.
func unopened(path string, info os.FileInfo) error {
	if err := closed(path); err != nil {
		return err
	}
	stem := path
	if m := ownedFile.FindStringSubmatch(path); m != nil {
		stem = m[1]
	}
	if pid := opener(info, filepath.Base(stem)); pid != "" {
		return fmt.Errorf("process %s has it open: %w", pid, snapshot.ErrBusy)
	}
	return nil
}
