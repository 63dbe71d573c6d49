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

// errLoad: libvirt did not take the memory, and the domain runs without. errStart: libvirt does
// not even start it; it has gone back all the same. errBoot: it starts no domain.
var (
	errLoad  = errors.New("the memory could not be loaded, and the domain was started from its disks")
	errStart = errors.New("the domain has gone back, but does not start")
	errBoot  = errors.New("libvirt refuses to start it")
)

// Apply takes the domain back.
func (c *checkpointing) Apply(ctx context.Context, n checkpoint.Node, cold bool) error {
	s, err := c.look(ctx)
	if err == nil {
		err = errors.Join(c.atHome(s), c.lasting(ctx, s)) // one that is not lasting is gone when it ends
	}
	if err == nil {
		err = c.clear(ctx, s)
	}
	if err == nil {
		err = c.hasDisks(s)
	}
	if err == nil {
		err = c.sound(n)
	}
	cold = cold || n.Memory == nil
	if err == nil && !cold {
		err = c.whole(ctx, n)
	}
	if err != nil {
		return err
	}
	if err := c.begin(checkpoint.Op{Kind: checkpoint.Apply, Node: n.ID, Run: checkpoint.NewID(), Running: s.on, Cold: cold}); err != nil {
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
	if err == nil {
		err = c.untouched(n)
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

// switchOver ends the domain, and starts it from the checkpoint.
func (c *checkpointing) switchOver(ctx context.Context, n checkpoint.Node) error {
	s, err := c.look(ctx)
	if err != nil {
		return err
	}
	ended := s.dom.ID >= 0 // also one that has crashed, and was left there
	if ended {
		err := c.dom.link.order(ctx, func(conn *rpc.Conn) error { return conn.Destroy(ctx, s.dom, false) })
		if ended = !rpc.HasCode(err, rpc.CodeOperationInvalid); err != nil && ended {
			return errors.Join(err, c.startAgain(ctx))
		}
		c.step("apply-ended")
	}
	if err := c.vacant(ctx); err != nil {
		if ended {
			return errors.Join(err, c.startAgain(ctx))
		}
		return errors.Join(err, c.takeBack(ctx)) // who ended it wants it to be off
	}
	err = c.become(ctx, n)
	if err != nil && !errors.Is(err, errLost) {
		return errors.Join(err, c.startAgain(ctx))
	}
	if err != nil {
		return err // the next start goes on
	}
	c.step("apply-defined")
	return c.enter(ctx, n)
}

// vacant fails where somebody has started the domain again, or it has not just ended: what was
// saved, or runs on another host, goes on with the images that it had.
func (c *checkpointing) vacant(ctx context.Context) error {
	s, err := c.look(ctx)
	if err == nil && s.on {
		err = fmt.Errorf("the domain was started while it went back: %w", snapshot.ErrBusy)
	}
	if err != nil {
		return err
	}
	return c.clear(ctx, s)
}

// become gives a domain that is off the files and the definition of the checkpoint.
func (c *checkpointing) become(ctx context.Context, n checkpoint.Node) error {
	text, err := readSmall(definitionOf(n))
	if err == nil {
		err = c.keepPresent(n)
	}
	if err == nil {
		err = putFiles(n)
	}
	if err != nil {
		return err
	}
	return twice(func() error { return c.defineAs(ctx, string(text), c.fresh(c.tree.Op.Run)) })
}

// twice has something done again of which nobody knows whether it was done: it makes no
// difference.
func twice(do func() error) error {
	err := do()
	if errors.Is(err, errLost) {
		err = do()
	}
	return err
}

// enter starts a domain that is defined as the checkpoint has it.
func (c *checkpointing) enter(ctx context.Context, n checkpoint.Node) error {
	err := c.startFrom(ctx, n)
	if err != nil && !errors.Is(err, errLoad) && !errors.Is(err, errStart) {
		return errors.Join(err, c.takeBackUnmoved(ctx))
	}
	c.step("apply-started")
	return errors.Join(err, c.applied(ctx))
}

// bootThere starts a domain that has gone back.
func (c *checkpointing) bootThere(ctx context.Context) error {
	err := c.boot(ctx)
	if errors.Is(err, errBoot) {
		err = fmt.Errorf("%w: %w", errStart, err)
	}
	return err
}

// boot starts the domain from its disks, where it is off.
func (c *checkpointing) boot(ctx context.Context) error {
	return twice(func() error {
		s, err := c.look(ctx)
		if err != nil || s.on {
			return err
		}
		err = c.dom.link.order(ctx, func(conn *rpc.Conn) error {
			_, err := conn.Create(ctx, s.dom, 0)
			return err
		})
		if err == nil || errors.Is(err, errLost) {
			return err
		}
		return snapshot.WithHint(fmt.Errorf("%w: %w", errBoot, err), "correct its definition (virsh edit "+snapshot.ShellWord(c.id.name)+") and start it")
	})
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
	old := append(slices.Clone(c.tree.Own), append(c.presents(), c.before())...)
	c.tree.Own, c.tree.Now = fresh, c.tree.Op.Node
	return c.end(ctx, old...)
}
