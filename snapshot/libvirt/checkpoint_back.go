package libvirt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/checkpoint"
	"github.com/lull-backup/lull/snapshot/durable"
	"github.com/lull-backup/lull/snapshot/image"
	"github.com/lull-backup/lull/snapshot/libvirt/rpc"
)

// An Apply that was cut off. What the domain has written since, to whichever images, stays: who
// reads its memory again would put that upon disks that have moved on.

// shutoffShutdown is libvirt's reason of a domain that its guest, or its user through the guest,
// has shut down.
const shutoffShutdown = 1

// applyAgain goes on with an Apply that was cut off. A domain that runs keeps what it has, and
// so does one that has run from the new images; one that is defined as the checkpoint has it
// starts from there, and any other from what it had.
func (c *checkpointing) applyAgain(ctx context.Context) error {
	n := c.tree.Find(c.tree.Op.Node)
	if n == nil {
		return c.strange(fmt.Errorf("no checkpoint %s", c.tree.Op.Node))
	}
	s, err := c.arrived(ctx)
	if err != nil {
		return err
	}
	fresh := c.fresh(c.tree.Op.Run)
	switch {
	case c.runs(s, fresh):
		return c.applied(ctx)
	case c.tree.Op.Step != stepSwitch, c.runs(s, c.tree.Own):
		return c.takeBack(ctx)
	case s.on, !c.starts(s, fresh) && !c.starts(s, c.tree.Own):
		return c.astray(ctx, s)
	}
	used, err := c.used(ctx)
	if err != nil {
		return err
	}
	if used && c.starts(s, fresh) { // it ran, and has ended
		return c.applied(ctx)
	}
	if err := c.clear(ctx, s); err != nil {
		return err
	}
	if c.starts(s, fresh) {
		return c.goOn(ctx, *n)
	}
	return c.stayedOff(ctx, s)
}

// astray fails where a domain is on neither the images that it had nor the new ones. Where it has
// used these they are its own.
func (c *checkpointing) astray(ctx context.Context, s sight) error {
	at := *c
	used, err := c.used(ctx)
	if used || errors.Is(err, snapshot.ErrBusy) {
		at.tree.Own = c.fresh(c.tree.Op.Run)
	} else if err != nil {
		return err
	}
	return at.atHome(s)
}

// goOn starts a domain that is defined as the checkpoint has it, and that has written nothing yet.
func (c *checkpointing) goOn(ctx context.Context, n checkpoint.Node) error {
	if !c.tree.Op.Cold { // its memory fits to the files of then
		if err := putFiles(n); err != nil {
			return err
		}
	}
	return c.enter(ctx, n)
}

// stayedOff takes an operation back in which the domain went off. Whoever shut it down meanwhile
// wants it to be off; else it was the operation.
func (c *checkpointing) stayedOff(ctx context.Context, s sight) error {
	var why int
	err := c.dom.link.ask(ctx, func(conn *rpc.Conn) (err error) {
		_, why, err = conn.State(ctx, s.dom)
		return err
	})
	if err != nil {
		return err
	}
	if why == shutoffShutdown {
		return c.takeBack(ctx)
	}
	return c.startAgain(ctx)
}

// used tells whether an image that the operation made holds something of its own.
func (c *checkpointing) used(ctx context.Context) (bool, error) {
	for _, path := range c.fresh(c.tree.Op.Run) {
		blank, err := image.Blank(ctx, path, snapshot.FormatQcow2)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil || !blank {
			return err == nil, err
		}
	}
	return false, nil
}

// takeBackUnmoved takes an operation back where the domain is on the images that it had, as
// somebody has started it meanwhile.
func (c *checkpointing) takeBackUnmoved(ctx context.Context) error {
	s, err := c.look(ctx)
	if err != nil || !c.runs(s, c.tree.Own) {
		return err
	}
	return errors.Join(fmt.Errorf("the domain was started from what it had: %w", snapshot.ErrBusy), c.takeBack(ctx))
}

// startAgain takes an operation back that libvirt has refused, or in which lull ended: a domain
// that was ended for it is started again from what it had, even where its files cannot be removed.
func (c *checkpointing) startAgain(ctx context.Context) error {
	running := c.tree.Op.Running
	if err := c.putBack(ctx); err != nil {
		return err
	}
	err := c.undone(ctx)
	if !running {
		return err
	}
	if bootErr := c.boot(ctx); bootErr != nil {
		err = errors.Join(fmt.Errorf("the domain was ended, and does not start again from what it had: %w", bootErr), err)
	}
	return err
}

// takeBack forgets an operation that has not moved the domain.
func (c *checkpointing) takeBack(ctx context.Context) error {
	if err := c.putBack(ctx); err != nil {
		return err
	}
	return c.undone(ctx)
}

// undone removes what an operation made that was taken back.
func (c *checkpointing) undone(ctx context.Context) error {
	return c.end(ctx, append(c.fresh(c.tree.Op.Run), c.before())...)
}

// putBack gives the domain what it had before an operation: its definition, where that is the
// operation's, and its small files.
func (c *checkpointing) putBack(ctx context.Context) error {
	s, err := c.look(ctx)
	if err != nil {
		return err
	}
	fresh := c.fresh(c.tree.Op.Run)
	if c.tree.Op.Step == stepSwitch {
		if err := c.unused(ctx); err != nil {
			return err
		}
		if err := c.filesBack(ctx, s.on); err != nil {
			return err
		}
	}
	switch {
	case c.starts(s, c.tree.Own):
		return nil
	case !c.starts(s, fresh): // nor has an operation defined it so
		return c.atHome(s)
	}
	text, err := readSmall(c.before())
	if err != nil {
		return fmt.Errorf("definition that the domain had: %w", err)
	}
	return c.defineAs(ctx, string(text), c.tree.Own)
}

// unused fails where new images hold something, which would be lost with them.
func (c *checkpointing) unused(ctx context.Context) error {
	used, err := c.used(ctx)
	if err != nil || !used {
		return err
	}
	fresh := c.fresh(c.tree.Op.Run)
	var words []string
	for _, path := range fresh {
		words = append(words, snapshot.ShellWord(path))
	}
	return snapshot.WithHint(fmt.Errorf("the domain is on what it had before it went back, and has written to %s since: %w", strings.Join(fresh, ", "), snapshot.ErrUncertain),
		"shut it down and give it these with virsh edit "+snapshot.ShellWord(c.id.name)+"; or, to give up what it wrote there: rm "+strings.Join(words, " ")+"; then run lull again")
}

// present is where a small file is kept that the domain has when a checkpoint's takes its place.
func (c *checkpointing) present(i int) string {
	return strings.TrimSuffix(c.before(), ".xml") + fmt.Sprintf("%s%d", fileEnding, i)
}

// keepPresent keeps those of a domain that is off. Those that are not there cannot come back.
func (c *checkpointing) keepPresent(n checkpoint.Node) error {
	for i, f := range n.Files {
		if f.Role == snapshot.RoleDefinition {
			continue
		}
		content, err := readSmall(f.Path)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err == nil {
			err = durable.Put(c.present(i), content, 0o600, true)
		}
		if err != nil {
			return fmt.Errorf("keep file of domain: %w", err)
		}
	}
	return nil
}

// presents are all such files.
func (c *checkpointing) presents() (list []string) {
	n := c.tree.Find(c.tree.Op.Node)
	for i := range n.Files {
		list = append(list, c.present(i))
	}
	return list
}

// filesBack puts those back that were kept. on: the domain has them open.
func (c *checkpointing) filesBack(ctx context.Context, on bool) error {
	for i, f := range c.tree.Find(c.tree.Op.Node).Files {
		if err := fileBack(f, c.present(i), on); err != nil {
			return fmt.Errorf("give back %s: %w", f.Path, err)
		}
		if err := c.drop(ctx, c.present(i)); err != nil {
			return err
		}
	}
	return nil
}

// fileBack puts a file back whose content was kept, where a checkpoint's is in its place. One
// that the domain has written to since nobody but its user can tell what to do about.
func fileBack(f checkpoint.File, kept string, on bool) error {
	had, err := readSmall(kept)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	then, err := readSmall(f.Kept)
	if err != nil {
		return err
	}
	has, err := readSmall(f.Path)
	gone := errors.Is(err, os.ErrNotExist)
	switch {
	case err != nil && !gone:
		return err
	case !gone && bytes.Equal(has, had):
		return nil
	case !on && (gone || bytes.Equal(has, then)):
		return putFile(checkpoint.File{File: f.File, Kept: kept})
	}
	from, to := snapshot.ShellWord(kept), snapshot.ShellWord(f.Path)
	return snapshot.WithHint(fmt.Errorf("the domain was started with that of the checkpoint; its own is kept: %w", snapshot.ErrUncertain),
		"shut the domain down and give it its own (cp "+from+" "+to+"); or, to leave it what it has: rm "+from+"; then run lull again")
}

// sound fails where what a checkpoint keeps of a domain could not be given to it: before it is
// ended.
func (c *checkpointing) sound(n checkpoint.Node) error {
	if !slices.ContainsFunc(n.Files, func(f checkpoint.File) bool { return f.Role == snapshot.RoleDefinition }) {
		return fmt.Errorf("the checkpoint has no definition: %w", snapshot.ErrCorrupt)
	}
	for _, f := range n.Files {
		content, err := readSmall(f.Kept)
		if err == nil && f.Role == snapshot.RoleDefinition {
			_, err = c.moved(string(content), c.tree.Own)
		} else if err == nil {
			if _, err = readSmall(f.Path); errors.Is(err, os.ErrNotExist) {
				err = nil // it is made
			}
		}
		if err != nil {
			return fmt.Errorf("file of the checkpoint: %w", err)
		}
	}
	return nil
}
