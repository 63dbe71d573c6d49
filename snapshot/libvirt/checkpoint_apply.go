package libvirt

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/checkpoint"
	"github.com/lull-backup/lull/snapshot/durable"
	"github.com/lull-backup/lull/snapshot/libvirt/domainxml"
	"github.com/lull-backup/lull/snapshot/libvirt/rpc"
)

// errLoad: libvirt did not take the memory, and what the domain had is gone. errStart: it does not
// even start the domain, which has gone back all the same.
var (
	errLoad  = errors.New("the memory could not be loaded, and the domain was started from its disks")
	errStart = errors.New("the domain has gone back, but does not start")
)

// apply takes the domain back.
func (c *checkpointing) apply(ctx context.Context, n checkpoint.Node, cold bool) error {
	s, err := c.look(ctx)
	if err == nil {
		err = c.atHome(s)
	}
	if err == nil {
		err = c.clear(ctx, s)
	}
	if err == nil {
		err = c.hasDisks(s)
	}
	cold = cold || n.Memory == nil
	if err == nil && !cold {
		err = c.whole(ctx, n)
	}
	if err != nil {
		return err
	}
	if err := c.begin(checkpoint.Op{Kind: checkpoint.Apply, Node: n.ID, Run: newID(), Running: s.on, Cold: cold}); err != nil {
		return err
	}
	c.step("apply-begun")
	err = errors.Join(durable.Put(c.before(), []byte(s.next.text), 0o600, true), c.makeImages(ctx, n.Images, c.fresh(c.tree.Op.Run)))
	after, cancel := owed(ctx)
	defer cancel()
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return errors.Join(err, c.takeBack(after))
	}
	c.step("apply-made")
	if err := c.reach(stepSwitch); err != nil {
		return err
	}
	c.step("apply-switching")
	return c.switchOver(after, n)
}

// before is where the definition is kept that the domain had.
func (c *checkpointing) before() string { return c.definitionPath(c.tree.Op.Run) }

// hasDisks fails where the domain has other disks than its checkpoints.
func (c *checkpointing) hasDisks(s sight) error {
	def, err := domainxml.Parse(s.next.text)
	if err != nil {
		return err
	}
	specs, _ := sortDisks(def)
	var names []string
	for _, d := range specs {
		names = append(names, d.Name)
	}
	return c.sameDisks(names)
}

// whole fails where libvirt would not take the memory of a checkpoint: before anything is
// done to the domain.
func (c *checkpointing) whole(ctx context.Context, n checkpoint.Node) error {
	text, err := c.ranAs(ctx, n)
	if err == nil {
		err = c.named(text)
	}
	if err == nil {
		var info os.FileInfo
		if info, err = os.Stat(n.Memory.Path); err == nil && info.Size() != n.Memory.Stream {
			err = fmt.Errorf("%s has %d bytes, and should have %d: %w", n.Memory.Path, info.Size(), n.Memory.Stream, snapshot.ErrCorrupt)
		}
	}
	if hinted := (*snapshot.Hinted)(nil); err != nil && !errors.As(err, &hinted) {
		err = snapshot.WithHint(err, "--cold goes back without it")
	}
	if err != nil {
		return fmt.Errorf("memory of the checkpoint: %w", err)
	}
	return nil
}

// named fails where the domain had another name: libvirt loads no memory of that.
func (c *checkpointing) named(text string) error {
	def, err := domainxml.Parse(text)
	if err != nil || def.Name() == c.id.name {
		return err
	}
	return snapshot.WithHint(fmt.Errorf("the domain was named %s: %w", def.Name(), snapshot.ErrUnsupported),
		"give it that name (shut it down; virsh domrename "+snapshot.ShellWord(c.id.name)+" "+snapshot.ShellWord(def.Name())+"), or go back without its memory (--cold)")
}

// ranAs is the definition that the domain ran with when its memory was kept, upon the new
// images.
func (c *checkpointing) ranAs(ctx context.Context, n checkpoint.Node) (text string, err error) {
	err = c.dom.link.ask(ctx, func(conn *rpc.Conn) (err error) {
		text, err = conn.SaveImageXML(ctx, n.Memory.Path)
		return err
	})
	if err == nil {
		err = c.asDefined(text, n)
	}
	if err != nil || c.tree.Op == nil {
		return text, err
	}
	return c.moved(text, c.fresh(c.tree.Op.Run))
}

// asDefined refuses what a memory says of the domain where it is of another one, or asks for more
// of the host than the definition of then does: it lies beside the disks, where others than root
// may be able to write.
func (c *checkpointing) asDefined(text string, n checkpoint.Node) error {
	ran, err := domainxml.Parse(text)
	if err != nil {
		return err
	}
	kept, err := readSmall(definitionOf(n))
	if err != nil {
		return err
	}
	next, err := domainxml.Parse(string(kept))
	if err != nil {
		return err
	}
	return errors.Join(sameDomain(ran, next), c.noMore(ran, next))
}

// noMore fails where a domain ran with a drive that its definition does not have. The disks of
// the tree are exchanged anyway.
func (c *checkpointing) noMore(ran, next *domainxml.Domain) error {
	for _, d := range ran.Disks() {
		known := slices.ContainsFunc(c.tree.Disks, func(x checkpoint.Disk) bool { return x.Name == d.Target }) ||
			slices.ContainsFunc(next.Disks(), func(x domainxml.Disk) bool {
				return x.Target == d.Target && x.Type == d.Type && (d.Path == "" || x.Path == d.Path) && x.Pool == d.Pool && x.Volume == d.Volume
			})
		if !known {
			return fmt.Errorf("the domain ran with %s at %s, which its definition does not have: %w", d.Path, d.Target, snapshot.ErrUnsupported)
		}
	}
	return nil
}

// switchOver ends the domain, and starts it from the checkpoint. It can be repeated.
func (c *checkpointing) switchOver(ctx context.Context, n checkpoint.Node) error {
	s, err := c.look(ctx)
	if err != nil {
		return err
	}
	fresh := c.fresh(c.tree.Op.Run)
	if c.runs(s, fresh) {
		return c.applied(ctx)
	}
	if s.on {
		err := c.dom.link.order(ctx, func(conn *rpc.Conn) error { return conn.Destroy(ctx, s.dom, false) })
		if err != nil && !rpc.HasCode(err, rpc.CodeOperationInvalid) { // it has ended by itself
			return errors.Join(err, c.startAgain(ctx))
		}
		c.step("apply-ended")
	}
	text, err := readSmall(definitionOf(n))
	if err == nil {
		err = putFiles(n)
	}
	if err == nil {
		err = c.defineAs(ctx, string(text), fresh)
	}
	if err != nil && !errors.Is(err, errLost) {
		return errors.Join(err, c.startAgain(ctx))
	}
	if err != nil {
		return err // the next start goes on
	}
	c.step("apply-defined")
	err = c.startFrom(ctx, n)
	if err != nil && !errors.Is(err, errLoad) && !errors.Is(err, errStart) {
		return errors.Join(err, c.takeBackUnmoved(ctx))
	}
	c.step("apply-started")
	return errors.Join(err, c.applied(ctx))
}

// startFrom starts the domain as the checkpoint has it: with its memory; or from its disks,
// where it ran before.
func (c *checkpointing) startFrom(ctx context.Context, n checkpoint.Node) error {
	if c.tree.Op.Cold {
		if !c.tree.Op.Running {
			return nil
		}
		return c.boot(ctx)
	}
	text, err := c.ranAs(ctx, n)
	if err == nil {
		err = c.dom.link.order(ctx, func(conn *rpc.Conn) error { return conn.Restore(ctx, n.Memory.Path, text, 0) })
	}
	if err == nil {
		return nil
	}
	s, lookErr := c.look(ctx)
	if lookErr != nil || s.on { // it runs on them, or on others: takeBackUnmoved tells
		return errors.Join(err, lookErr)
	}
	if bootErr := c.boot(ctx); bootErr != nil {
		return errors.Join(bootErr, err)
	}
	return snapshot.WithHint(fmt.Errorf("%w: %w", errLoad, err), "see what libvirt's log of the domain says")
}

func (c *checkpointing) boot(ctx context.Context) error {
	s, err := c.look(ctx)
	if err != nil || s.on {
		return err
	}
	err = c.dom.link.order(ctx, func(conn *rpc.Conn) error {
		_, err := conn.Create(ctx, s.dom, 0)
		return err
	})
	if err != nil && !errors.Is(err, errLost) {
		err = snapshot.WithHint(fmt.Errorf("%w: %w", errStart, err), "correct its definition (virsh edit "+snapshot.ShellWord(c.id.name)+") and start it")
	}
	return err
}

// applied notes that the domain has gone back. What it had is needed no more.
func (c *checkpointing) applied(ctx context.Context) error {
	fresh := c.fresh(c.tree.Op.Run)
	s, err := c.look(ctx)
	if err != nil {
		return err
	}
	if s.on && !c.runs(s, fresh) {
		if err := c.takeBackUnmoved(ctx); err != nil {
			return err
		}
		return c.atHome(s)
	}
	if err := c.define(ctx, s, fresh); err != nil {
		return err
	}
	old := append(slices.Clone(c.tree.Own), c.before())
	c.tree.Own, c.tree.Now = fresh, c.tree.Op.Node
	return c.end(ctx, old...)
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

// startAgain takes an operation back that libvirt has refused: a domain that was ended for it is
// started again from what it had.
func (c *checkpointing) startAgain(ctx context.Context) error {
	running := c.tree.Op.Running
	if err := c.takeBack(ctx); err != nil || !running {
		return err
	}
	return c.boot(ctx)
}

// takeBack forgets an operation that has not moved the domain.
func (c *checkpointing) takeBack(ctx context.Context) error {
	s, err := c.look(ctx)
	if err != nil {
		return err
	}
	if !c.starts(s, c.tree.Own) { // it is that of the checkpoint
		text, err := readSmall(c.before())
		if err == nil {
			err = c.defineAs(ctx, string(text), c.tree.Own)
		}
		if err != nil {
			return err
		}
	}
	return c.end(ctx, append(c.fresh(c.tree.Op.Run), c.before())...)
}

// applyAgain goes on with an Apply that was cut off: a domain that runs as before keeps what
// it has; one that was ended goes back.
func (c *checkpointing) applyAgain(ctx context.Context) error {
	n := c.tree.Find(c.tree.Op.Node)
	if n == nil {
		return c.strange(fmt.Errorf("no checkpoint %s", c.tree.Op.Node))
	}
	s, err := c.look(ctx)
	if err != nil {
		return err
	}
	fresh := c.fresh(c.tree.Op.Run)
	switch {
	case c.runs(s, fresh):
		return c.applied(ctx)
	case c.tree.Op.Step != stepSwitch, c.runs(s, c.tree.Own):
		return c.takeBack(ctx)
	case s.on:
		return c.atHome(s)
	case !c.starts(s, fresh) && !c.starts(s, c.tree.Own):
		return c.atHome(s)
	}
	if err := c.clear(ctx, s); err != nil {
		return err
	}
	return c.switchOver(ctx, *n)
}
