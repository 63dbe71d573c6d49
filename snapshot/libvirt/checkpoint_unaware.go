package libvirt

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/qemu"
	"github.com/lull-backup/lull/snapshot/qmp"
)

// libvirt's daemon may die after QEMU has moved a domain to new images, and before it has noted
// that. Its definitions name those of before then, and it would start the domain from these. Only
// QEMU itself can move it back.

// blockNode is a node of QEMU's.
type blockNode struct {
	Name   string `json:"node-name"`
	Driver string `json:"drv"`
	File   string `json:"file"`
}

// nodeOf is the node of an image; empty: QEMU does not have it open.
func nodeOf(nodes []blockNode, path string) string {
	i := slices.IndexFunc(nodes, func(n blockNode) bool { return n.Driver == "qcow2" && sameFile(n.File, path) })
	if i < 0 {
		return ""
	}
	return nodes[i].Name
}

// moveBack has QEMU go back to the images that libvirt takes for the domain's, with all that
// was written since, where it is on the new ones.
func (c *checkpointing) moveBack(ctx context.Context, own, fresh []string) error {
	moved := false
	for _, path := range fresh {
		used, err := qemu.InUse(path)
		if err != nil {
			return err
		}
		moved = moved || used
	}
	if !moved {
		return nil
	}
	m, err := c.dom.Dial(ctx)
	if err != nil {
		return err
	}
	defer m.Monitor.Close()
	for i, path := range fresh {
		if err := commitBack(ctx, m.Monitor, path, own[i]); err != nil {
			return fmt.Errorf("disk %s: %w", c.tree.Disks[i].Name, err)
		}
	}
	return nil
}

// commitBack commits one image, and waits until QEMU has left it.
func commitBack(ctx context.Context, m qmp.Monitor, upper, lower string) error {
	var nodes []blockNode
	if err := m.Execute(ctx, "query-named-block-nodes", map[string]any{"flat": true}, &nodes); err != nil {
		return err
	}
	top, base := nodeOf(nodes, upper), nodeOf(nodes, lower)
	if top == "" {
		return nil
	}
	const job = "lullcp-back"
	err := m.Execute(ctx, "block-commit", map[string]any{"job-id": job, "device": top, "base-node": base}, nil)
	if refused := (*qmp.Error)(nil); err != nil && !errors.As(err, &refused) { // else one that was cut off may be under way
		return err
	}
	again := time.NewTicker(tick)
	defer again.Stop()
	for there := true; there; {
		var jobs []struct{ ID, Status string }
		if err := m.Execute(ctx, "query-jobs", nil, &jobs); err != nil {
			return err
		}
		i := slices.IndexFunc(jobs, func(j struct{ ID, Status string }) bool { return j.ID == job })
		if there = i >= 0; there && jobs[i].Status == "ready" {
			_ = m.Execute(ctx, "job-complete", map[string]any{"id": job}, nil) // the next look tells
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	if used, err := qemu.InUse(upper); err != nil || !used {
		return err
	}
	// The node is libvirt's, which does not know of it: QEMU keeps it open, unused.
	var drives []struct {
		Inserted struct {
			Node string `json:"node-name"`
		} `json:"inserted"`
	}
	if err := m.Execute(ctx, "query-block", nil, &drives); err != nil {
		return err
	}
	for _, d := range drives {
		if d.Inserted.Node == top {
			return fmt.Errorf("QEMU is on %s still, of which libvirt does not know: %w", upper, snapshot.ErrBusy)
		}
	}
	if err := m.Execute(ctx, "blockdev-del", map[string]any{"node-name": top}, nil); err != nil {
		return err
	}
	for _, n := range nodes {
		if n.Driver == "file" && sameFile(n.File, upper) { // which is not there where it went with the other
			_ = m.Execute(ctx, "blockdev-del", map[string]any{"node-name": n.Name}, nil)
		}
	}
	return nil
}
