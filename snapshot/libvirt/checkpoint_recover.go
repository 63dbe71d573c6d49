package libvirt

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/checkpoint"
	"github.com/lull-backup/lull/snapshot/image"
	"github.com/lull-backup/lull/snapshot/libvirt/domainxml"
	"github.com/lull-backup/lull/snapshot/libvirt/rpc"
)

// recover ends what can only be ended, and takes back what can be:
//
//	create   taken back: where the disks have frozen, the checkpoint is folded away
//	apply    until the domain is defined as the checkpoint has it: taken back; then: ended
//	fold     ended
//
// libvirt lets a domain go on that it has stopped, so nothing is urgent.
func (c *checkpointing) Recover(ctx context.Context) (found bool, err error) {
	op := c.tree.Op
	if op == nil {
		return c.tidy(ctx)
	}
	c.opt.Log.Warn("recover interrupted operation on checkpoints", "vm", c.id.name, "operation", op.Kind, "checkpoint", op.Node)
	if err := c.there(); err != nil {
		return true, err
	}
	switch op.Kind {
	case checkpoint.Create:
		err = c.undoCreate(ctx)
	case checkpoint.Apply:
		err = c.applyAgain(ctx)
	case checkpoint.Fold:
		err = c.reduce(ctx)
	default:
		err = fmt.Errorf("operation %q is not known: %w", op.Kind, snapshot.ErrUnsupported)
	}
	return true, err
}

// there fails where an image is missing that the domain has, or goes back to: its file system is
// not mounted, as when a host has just started. What lies beside it is not gone then.
func (c *checkpointing) there() error {
	needed := slices.Clone(c.tree.Own)
	if op := c.tree.Op; op != nil && c.tree.Find(op.Node) != nil {
		needed = append(needed, c.tree.Find(op.Node).Images...)
	}
	for _, path := range needed {
		if _, err := os.Stat(path); err != nil {
			return snapshot.WithHint(fmt.Errorf("image of the domain: %w: %w", snapshot.ErrBusy, err),
				"mount the file system that it is on, or bring it back, and run lull again")
		}
	}
	return nil
}

// tidy does what is left to do about files and checkpoints that are gone. There is time for
// that until there is room, and nothing in the way: everything works without.
func (c *checkpointing) tidy(ctx context.Context) (found bool, err error) {
	_, more := c.tree.Next()
	if found = more || len(c.tree.Junk) > 0; !found {
		return false, nil
	}
	if err = c.sweep(ctx); err == nil {
		err = c.reduce(ctx)
	}
	if c.tree.Op == nil && (errors.Is(err, snapshot.ErrNoSpace) || errors.Is(err, snapshot.ErrBusy)) {
		c.opt.Log.Warn("deleted checkpoints are not merged yet", "vm", c.id.name, "error", err)
		return false, nil
	}
	return found, err
}

// undoCreate takes a checkpoint back that is not whole: where the disks have frozen it is
// folded away.
func (c *checkpointing) undoCreate(ctx context.Context) error {
	op := c.tree.Op
	s, err := c.undisturbed(ctx)
	if err != nil {
		return err
	}
	fresh := c.fresh(op.Run)
	if c.runs(s, c.tree.Own) {
		if err := c.moveBack(ctx, c.tree.Own, fresh); err != nil {
			return err
		}
		if err := c.define(ctx, s, c.tree.Own); err != nil {
			return err
		}
	}
	if !c.runs(s, fresh) && !(!s.on && c.starts(s, fresh)) {
		if s, err = c.look(ctx); err == nil {
			err = c.atHome(s)
		}
		if err == nil && !s.on {
			err = c.unwritten(ctx, fresh)
		}
		if err != nil {
			return err
		}
		return c.end(ctx, append(fresh, c.leftovers(op.Node)...)...)
	}
	if err := c.define(ctx, s, fresh); err != nil {
		return err
	}
	c.tree.Add(checkpoint.Node{ID: op.Node, Images: c.tree.Own, Gone: true})
	c.tree.Own = fresh
	if err := c.end(ctx, c.leftovers(op.Node)...); err != nil {
		return err
	}
	return c.reduce(ctx)
}

// unwritten fails where a domain that starts from what it had may have gone on in the new
// images: QEMU had moved there, libvirt's daemon died before it noted that, and QEMU ended.
func (c *checkpointing) unwritten(ctx context.Context, fresh []string) error {
	for i, path := range fresh {
		clean, err := image.Blank(ctx, path, snapshot.FormatQcow2)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil && !clean { // QEMU may have moved back
			clean, err = c.same(ctx, path, c.tree.Own[i])
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if clean {
			continue
		}
		var words []string
		for _, path := range fresh {
			words = append(words, snapshot.ShellWord(path))
		}
		return snapshot.WithHint(fmt.Errorf("%s may hold what the domain wrote last, and its definition names %s: %w", path, c.tree.Own[i], errors.Join(snapshot.ErrUncertain, err)),
			"to keep what it wrote there give the domain "+strings.Join(fresh, ", ")+" (virsh edit "+snapshot.ShellWord(c.id.name)+
				") and run lull again; to give that up: rm "+strings.Join(words, " "))
	}
	return nil
}

// undisturbed looks at the domain when libvirt does nothing with it any more: what another
// process ordered libvirt goes on with when that has died.
func (c *checkpointing) undisturbed(ctx context.Context) (sight, error) {
	again := time.NewTicker(tick)
	defer again.Stop()
	for {
		s, err := c.look(ctx)
		if err != nil || !s.on {
			return s, err
		}
		busy := false
		err = c.dom.link.ask(ctx, func(conn *rpc.Conn) (err error) {
			if busy, err = c.endSnapshot(ctx, conn, s.dom); busy || err != nil {
				return err
			}
			return settled(ctx, conn, s.dom)
		})
		switch {
		case rpc.HasCode(err, rpc.CodeOperationInvalid): // it went off
		case err != nil:
			return s, err
		case !busy:
			return c.look(ctx)
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return s, context.Cause(ctx)
		}
	}
}

// barrier is a namespace in which no domain has metadata.
const barrier = domainxml.Namespace + "/none"
