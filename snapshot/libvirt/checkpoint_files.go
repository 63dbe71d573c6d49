package libvirt

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/checkpoint"
	"github.com/lull-backup/lull/snapshot/durable"
	"github.com/lull-backup/lull/snapshot/qemu"
	"github.com/lull-backup/lull/snapshot/space"
	"github.com/lull-backup/lull/snapshot/wipe"
)

// ownedFile is what the files of checkpoints are called, after the name that the image of a
// disk had at first.
var ownedFile = regexp.MustCompile(`^(.+)\.lull-([0-9a-f]{8})\.(layer|memory|file[0-9]+)$`)

// beside is a file of a checkpoint, beside the first image of a disk.
func beside(image, id, ending string) string { return image + ".lull-" + id + ending }

// fresh are the images that an operation makes.
func (c *checkpointing) fresh(run string) (list []string) {
	for _, d := range c.tree.Disks {
		list = append(list, beside(d.Path, run, layerEnding))
	}
	return list
}

// leftovers are the files of a checkpoint that are no images.
func (c *checkpointing) leftovers(id string) (list []string) {
	first := c.tree.Disks[0].Path
	list = []string{beside(first, id, memoryEnding), c.definitionPath(id)}
	for i := range maxFiles {
		list = append(list, beside(first, id, fmt.Sprintf("%s%d", fileEnding, i)))
	}
	return list
}

// definitionPath is where a definition is kept: beside the tree, where root alone can write. The
// domain is defined by it later.
func (c *checkpointing) definitionPath(id string) string {
	return strings.TrimSuffix(c.path, ".json") + "." + id + ".xml"
}

// maxFiles bounds the small files of a domain: its NVRAM, and the state of its TPM.
const maxFiles = maxTPMFiles + 4

// sweep removes what nothing needs any more. Where a definition has one, or a layer upon one,
// all stay, as somebody has put it there.
func (c *checkpointing) sweep(ctx context.Context) error {
	if len(c.tree.Junk) == 0 {
		return nil
	}
	if len(c.tree.Nodes) > 0 {
		if err := c.there(); err != nil {
			return err
		}
	}
	s, err := c.look(ctx)
	if err != nil {
		return err
	}
	if err := c.unneeded(ctx, s, c.tree.Junk); err != nil {
		return err
	}
	for _, path := range c.tree.Junk {
		if err := closed(ctx, path); err != nil {
			return err
		}
	}
	if err := noted(); err != nil {
		return err
	}
	c.step("sweep")
	for _, path := range c.tree.Junk {
		if err := c.drop(ctx, path); err != nil {
			return fmt.Errorf("remove file of checkpoint: %w", err)
		}
	}
	c.tree.Junk = nil
	return c.save()
}

// definitions is where libvirt's daemon of the host keeps them.
const definitions = "/etc/libvirt/qemu"

// noted makes durable which images libvirt's definitions name: libvirt puts a new one in the place
// of the old one, and does not insist that it stays there. After a loss of power the domain would
// start from images that are gone, or are a checkpoint's.
func noted() error {
	err := durable.SyncFolder(definitions)
	if errors.Is(err, os.ErrNotExist) { // it has its own place for them
		return nil
	}
	return err
}

// closed waits until no QEMU has an image open: what libvirt says may be behind it.
func closed(ctx context.Context, path string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, settle, snapshot.WithHint(fmt.Errorf("%s is needed no more, but a process has it open: %w", path, snapshot.ErrBusy),
		"find it with lsof; once it has ended, lull removes the file"))
	defer cancel()
	again := time.NewTicker(tick)
	defer again.Stop()
	for {
		used, err := qemu.InUse(path)
		if err != nil || !used {
			return err
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// drop removes a file durably, wiped where the domain's are.
func (c *checkpointing) drop(ctx context.Context, path string) error {
	if c.wiped() {
		return wipe.Remove(ctx, path, wipe.Dense)
	}
	err := os.Remove(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return durable.SyncFolder(filepath.Dir(path))
}

func (c *checkpointing) wiped() bool { return c.wipe != nil && c.wipe(c.id.name) }

// keepFiles keeps the small files as they are when the domain goes on, right after the instant of
// its disks and memory: libvirt does not hold them. They are read until they stand still.
func (c *checkpointing) keepFiles(p snapshot.Plan, id string) (list []checkpoint.File, err error) {
	for _, f := range p.Files {
		if f.Role != snapshot.RoleNVRAM && f.Role != snapshot.RoleTPM || len(list) == maxFiles {
			continue
		}
		b, err := readSmall(f.Path)
		if err != nil {
			return list, fmt.Errorf("keep file of domain: %w", err)
		}
		kept := beside(c.tree.Disks[0].Path, id, fmt.Sprintf("%s%d", fileEnding, len(list)))
		if err := durable.Put(kept, b, 0o600, true); err != nil {
			return list, fmt.Errorf("keep file of domain: %w", err)
		}
		list = append(list, checkpoint.File{File: f, Kept: kept})
	}
	return list, nil
}

// putFiles makes the small files of a domain that is off what they were, with the owners and
// modes that they have.
func putFiles(n checkpoint.Node) error {
	for _, f := range n.Files {
		if f.Role == snapshot.RoleDefinition {
			continue
		}
		if err := putFile(f); err != nil {
			return fmt.Errorf("bring back %s: %w", f.Path, err)
		}
	}
	return nil
}

func putFile(f checkpoint.File) error {
	content, err := readSmall(f.Kept)
	if err != nil {
		return err
	}
	as, statErr := os.Stat(f.Path)
	staged, err := durable.Stage(f.Path, func(file *os.File) error {
		if _, err := file.Write(content); err != nil || statErr != nil {
			return err
		}
		return ownAs(file, as)
	})
	if err != nil {
		return err
	}
	return staged.Put(true)
}

// definitionOf is where a checkpoint keeps its definition; empty: it has none.
func definitionOf(n checkpoint.Node) string {
	for _, f := range n.Files {
		if f.Role == snapshot.RoleDefinition {
			return f.Kept
		}
	}
	return ""
}

// enough makes sure that there is as much room as a backup would begin with, and beyond
// that for bytes.
func (c *checkpointing) enough(bytes int64) error {
	for _, d := range c.tree.Disks {
		r, err := c.opt.Space.At(filepath.Dir(d.Path))
		if err != nil {
			return fmt.Errorf("look for room: %w", err)
		}
		if r.Free < r.Soft+bytes+c.opt.Ledger.Due("", r.Device) { // others have begun what they need room for
			return snapshot.WithHint(fmt.Errorf("%s: %s are free, %s stay free, and the checkpoint takes up to %s: %w",
				r.Dir, space.Bytes(r.Free), space.Bytes(r.Soft), space.Bytes(bytes), snapshot.ErrNoSpace),
				"make room there; --no-memory makes a checkpoint of the disks alone")
		}
	}
	return nil
}

// roomToFold makes sure that images have room in those that they are written into. None of them
// goes before all are.
func (c *checkpointing) roomToFold(upper []string) error {
	var takes []int64
	for _, path := range upper {
		takes = append(takes, space.FileTakes(path))
	}
	return c.tree.RoomFor(c.opt.Space, func(device uint64) int64 { return c.opt.Ledger.Due("", device) }, takes)
}

// strange: the domain runs, or would start, from other images than its tree says.
func (c *checkpointing) strange(err error) error {
	return snapshot.WithHint(fmt.Errorf("the domain is not as its checkpoints say: %w: %w", err, snapshot.ErrDiverged),
		"give it the images that it had ("+strings.Join(c.tree.Own, ", ")+") with virsh edit and start it anew, or move "+snapshot.ShellWord(c.path)+" away if its checkpoints are given up")
}

// strayed is strange of a domain that is on an image: of a checkpoint's it may have made its own.
func (c *checkpointing) strayed(on string, err error) error {
	i := slices.IndexFunc(c.tree.Nodes, func(n checkpoint.Node) bool {
		return slices.ContainsFunc(n.Images, func(path string) bool { return sameFile(path, on) })
	})
	if i < 0 {
		return c.strange(err)
	}
	return snapshot.WithHint(fmt.Errorf("the domain has the image of its checkpoint %s: %w: %w", c.tree.Nodes[i].ID, err, snapshot.ErrDiverged),
		"if it has run from there, as after virsh blockcommit, what it has written is in that image alone, and the checkpoint is lost: to keep that, leave it there, and move "+
			snapshot.ShellWord(c.path)+" away, which gives its checkpoints up. If it has not, give it the images that it had ("+strings.Join(c.tree.Own, ", ")+") with virsh edit")
}

// ownAs gives a file the owner and the mode that another has.
func ownAs(file *os.File, as os.FileInfo) error {
	if owner, ok := as.Sys().(*syscall.Stat_t); ok {
		if err := file.Chown(int(owner.Uid), int(owner.Gid)); err != nil {
			return err
		}
	}
	return file.Chmod(as.Mode().Perm())
}
