package libvirt

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/checkpoint"
	"github.com/lull-backup/lull/snapshot/libvirt/rpc"
	"github.com/lull-backup/lull/snapshot/qemu"
)

// Checkpoints of a domain are images upon images, as package checkpoint says, and libvirt's
// definitions name the one that the domain writes to: nothing is ever renamed. An image
// keeps its path for life, and the tree says whose it is (Tree.Own, Node.Images).
//
//	create   virDomainSnapshotCreateXML: external, no-metadata, with memory or without: what the
//	         domain wrote to becomes the checkpoint's, and it goes on in a new image. libvirt
//	         lets it go on itself, whatever becomes of lull
//	apply    new images upon those of the checkpoint; the domain is ended, defined as it was
//	         then, upon the new images, and started with its memory by virDomainRestore
//	fold     an image is committed into the one below: by libvirt where the domain has both
//	         open, which moves the domain if it writes to the upper one; else by qemu-img,
//	         and then the definition, or the images upon it, are pointed to the lower one
//
// A tree is kept by the domain's UUID, so that it follows a domain that is renamed. It is
// written before and after each step, and no image is removed before the tree, and both
// definitions, are without it.

var _ snapshot.Checkpointer = (*Host)(nil)

// Steps of operations, as Op.Step has them.
const (
	stepSwitch = "switch" // of Apply: the domain is being ended
	stepPivot  = "pivot " // of Fold, and a disk: libvirt was told to move the domain
)

// Endings of the files of a checkpoint, after ".lull-<id>".
const (
	layerEnding  = ".layer" // an image that a domain writes to, or wrote to
	memoryEnding = ".memory"
	fileEnding   = ".file" // and a number: NVRAM and the like
)

// usualStop is the usual qemu.Options.CheckpointStop, and workLimit bounds what an operation
// owes to a domain whatever became of its caller.
const (
	usualStop = time.Minute
	workLimit = 2 * time.Hour
)

// checkpointing is an operation on the tree of a domain.
type checkpointing struct {
	*Host
	id   identity
	dom  *domain
	path string // of the tree
	tree checkpoint.Tree
}

// treePath is where the tree of a domain is kept.
func (h *Host) treePath(id rpc.UUID) string {
	return filepath.Join(cmp.Or(h.opt.CheckpointDir, "/var/lib/lull/checkpoints"), id.String()+".json")
}

// onTree does fn with the tree of a domain, while no other process works on it. That a run or a
// command has the domain to itself goes by its name, which it may change while it is off.
func (h *Host) onTree(ctx context.Context, vm string, fn func(*checkpointing) error) error {
	d, err := h.lookUp(ctx, vm)
	if err != nil {
		return err
	}
	unlock, err := checkpoint.Lock(h.treePath(d.UUID))
	if err != nil {
		return err
	}
	defer unlock()
	return h.withTree(d, fn)
}

// seeTree does fn with the tree of a domain as it is, whoever works on it.
func (h *Host) seeTree(ctx context.Context, vm string, fn func(*checkpointing) error) error {
	d, err := h.lookUp(ctx, vm)
	if err != nil {
		return err
	}
	return h.withTree(d, fn)
}

func (h *Host) withTree(d rpc.Domain, fn func(*checkpointing) error) error {
	c := &checkpointing{Host: h, id: identity{d.UUID, d.Name}, path: h.treePath(d.UUID)}
	if err := c.load(); err != nil {
		return err
	}
	c.dom = h.domain(c.id)
	defer c.dom.link.end()
	return fn(c)
}

// load reads the tree. Every checkpoint has an image of every disk, and so has the domain.
func (c *checkpointing) load() (err error) {
	if c.tree, err = checkpoint.Load(c.path, c.id.uuid.String()); err != nil {
		return err
	}
	whole := len(c.tree.Own) == len(c.tree.Disks) && (len(c.tree.Disks) > 0 || len(c.tree.Nodes) == 0 && c.tree.Op == nil)
	for _, n := range c.tree.Nodes {
		whole = whole && len(n.Images) == len(c.tree.Disks)
	}
	if !whole {
		return fmt.Errorf("read tree of checkpoints %s: it lacks images: %w", c.path, snapshot.ErrCorrupt)
	}
	return nil
}

// on is how operations get at a tree.
func (h *Host) on() checkpoint.On[*checkpointing] { return h.onTree }

// CreateCheckpoint takes a running domain as it is.
func (h *Host) CreateCheckpoint(ctx context.Context, vm string, n snapshot.NewCheckpoint) (snapshot.Checkpoint, error) {
	return h.on().Create(ctx, vm, n)
}

// ApplyCheckpoint takes a domain back.
func (h *Host) ApplyCheckpoint(ctx context.Context, vm, ref string, cold bool) (snapshot.Checkpoint, error) {
	return h.on().Apply(ctx, vm, ref, cold)
}

// DeleteCheckpoints removes some.
func (h *Host) DeleteCheckpoints(ctx context.Context, vm, ref string, subtree bool) error {
	return h.on().Delete(ctx, vm, ref, subtree)
}

// MergeCheckpoints removes all.
func (h *Host) MergeCheckpoints(ctx context.Context, vm string) error { return h.on().Merge(ctx, vm) }

// RecoverCheckpoints ends or takes back what was interrupted. A domain that is there no more
// has nothing to be brought to an end.
func (h *Host) RecoverCheckpoints(ctx context.Context, vm string) (found bool, err error) {
	trees, err := filepath.Glob(filepath.Join(filepath.Dir(h.treePath(rpc.UUID{})), "*.json"))
	if err != nil || len(trees) == 0 { // nobody needs to be asked for a UUID
		return false, err
	}
	owes := false
	err = h.seeTree(ctx, vm, func(c *checkpointing) error {
		owes = c.owes()
		return nil
	})
	if err == nil && owes {
		err = h.onTree(ctx, vm, func(c *checkpointing) (err error) {
			found, err = c.Recover(ctx)
			return err
		})
	}
	if errors.Is(err, snapshot.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return found, fmt.Errorf("recover checkpoints of %s: %w", vm, err)
	}
	return found, nil
}

// owes tells whether anything is to be brought to an end.
func (c *checkpointing) owes() bool {
	_, more := c.tree.Next()
	return c.tree.Op != nil || more || len(c.tree.Junk) > 0
}

// Checkpoints reads the tree, whoever works on it, and looks at its files. Of the domain it asks
// for its disks.
func (h *Host) Checkpoints(ctx context.Context, vm string) (list snapshot.Checkpoints, err error) {
	err = h.seeTree(ctx, vm, func(c *checkpointing) (err error) {
		list, err = c.list(ctx)
		return err
	})
	if err != nil {
		return list, fmt.Errorf("checkpoints of %s: %w", vm, err)
	}
	return list, nil
}

func (c *checkpointing) list(ctx context.Context) (snapshot.Checkpoints, error) {
	list := checkpoint.List(c, c.id.name, c.opt.Space)
	list.Missing = c.missing()
	err := c.strays(ctx, &list)
	return list, err
}

// Tree is the domain's.
func (c *checkpointing) Tree() *checkpoint.Tree { return &c.tree }

// Paths are all files of a checkpoint.
func (c *checkpointing) Paths(n *checkpoint.Node) []string { return n.Paths() }

func (c *checkpointing) save() error { return checkpoint.Save(c.path, c.tree) }

// step tells what comes next; all that it needs to be taken back or ended is durable.
func (c *checkpointing) step(name string) {
	if c.opt.Observe != nil {
		c.opt.Observe(c.id.name, name)
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

// end forgets the operation under way, and removes files that nothing needs any more. They
// are on record until they are gone: one that a process has open still makes no failure of what
// is done.
func (c *checkpointing) end(ctx context.Context, junk ...string) error {
	c.tree.Op = nil
	c.tree.Junk = append(c.tree.Junk, junk...)
	if err := c.save(); err != nil {
		return err
	}
	return c.later(c.sweep(ctx))
}

// later leaves it to the next operation to remove files that are in use.
func (c *checkpointing) later(err error) error {
	if !errors.Is(err, snapshot.ErrBusy) {
		return err
	}
	c.opt.Log.Warn("files that no checkpoint needs any more are left for the next time", "vm", c.id.name, "files", c.tree.Junk, "error", err)
	return nil
}

// reduceMarked does what can be done about checkpoints that have just gone.
func (c *checkpointing) reduceMarked(ctx context.Context) error {
	if _, more := c.tree.Next(); more {
		return c.reduce(ctx)
	}
	after, cancel := owed(ctx)
	defer cancel()
	return c.end(after)
}

// using does fn with the host of the domain's QEMU and images.
func (c *checkpointing) using(fn func(*qemu.Host) error) error { return c.use(c.id, fn) }

// owed is a context for what has to be done whatever became of ctx.
func owed(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), workLimit)
}

// layerOf is an image of a tree.
func layerOf(path string) snapshot.Layer {
	return snapshot.Layer{Path: path, Format: snapshot.FormatQcow2}
}

// targets are images by their disks' targets.
func (c *checkpointing) targets(images []string) map[string]string {
	by := map[string]string{}
	for i, d := range c.tree.Disks {
		by[d.Name] = images[i]
	}
	return by
}
