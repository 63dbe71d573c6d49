package qemu

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/lull-backup/lull/snapshot"
)

// standsBy puts somebody in force, and tells what those were told in the end: whether the
// guest runs.
func (c *counter) standsBy() (told *[]bool) {
	told = new([]bool)
	c.host.opt.Guard = func(context.Context, string) (func(context.Context, bool) error, error) {
		return func(_ context.Context, runs bool) error { *told = append(*told, runs); return nil }, nil
	}
	return told
}

// pending proves that the operation is not forgotten.
func (c *counter) pending(when string) {
	c.t.Helper()
	if c.tree().Pending == "" {
		c.t.Errorf("%s: nothing is pending", when)
	}
}

// A create that is taken back does not keep the guest waiting for images that it has not
// moved to, and that QEMU does not close.
func TestCheckpointNotClosed(t *testing.T) {
	t.Parallel()
	c := newCounter(t)
	told := c.standsBy()
	ctx, cancel := context.WithCancel(c.ctx)
	defer cancel()
	c.host.opt.Observe = func(_, step string) {
		switch step {
		case "create-opened":
			c.ask("blockdev-add", args{"driver": "raw", "node-name": "user", "read-only": true, "file": checkpointNode(c.under(""), 0)}, nil)
		case "create-stopped":
			cancel()
		}
	}
	if _, err := c.host.CreateCheckpoint(ctx, "web", snapshot.NewCheckpoint{}); !errors.Is(err, snapshot.ErrBusy) {
		t.Errorf("create: %v", err)
	}
	c.host.opt.Observe = nil
	c.sound("with an image that is not closed")
	if !slices.Equal(*told, []bool{true}) {
		t.Errorf("whoever stands by was told %v", *told)
	}
	c.pending("with an image that is not closed")
	c.ask("blockdev-del", args{"node-name": "user"}, nil)
	c.ask("stop", nil, nil)
	if _, err := c.host.RecoverCheckpoints(c.ctx, "web"); err != nil {
		t.Fatal(err)
	}
	if s := c.state(); s != "paused" {
		t.Errorf("stopped by its user, the VM is %s", s)
	}
	c.ask("cont", nil, nil)
	c.sound("recovered")
	c.tidied("recovered")
	if n := len(c.tree().List); n > 0 {
		t.Errorf("%d checkpoints", n)
	}
}
