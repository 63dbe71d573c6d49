package qemu

import (
	"context"
	"fmt"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/checkpoint"
	"github.com/lull-backup/lull/snapshot/image"
	"github.com/lull-backup/lull/snapshot/space"
)

// To merge two images one of them grows by what the other has, and only then the other goes.
// It does not begin where that would not leave what backups leave free, and ends where it
// does not.

// roomToFold makes sure that a step fits.
func (c *checkpointing) roomToFold(s checkpoint.Step) error {
	p := snapshot.Plan{VM: c.vm, Run: "checkpoint-" + s.Node}
	for _, d := range c.tree.Disks {
		if done, err := c.folded(d, s); err != nil || done || c.written(d, s) {
			if err != nil {
				return err
			}
			continue
		}
		from, into := layerPath(d, s.Node), c.upper(d, s)
		if s.First {
			from, into = into, from
		}
		info, err := image.Inspect(into, snapshot.FormatQcow2)
		if err != nil {
			return fmt.Errorf("disk %s: %w", d.Name, err)
		}
		p.Disks = append(p.Disks, snapshot.DiskPlan{Disk: snapshot.Disk{Name: d.Name, Path: into, Size: info.Size}, Delta: from})
	}
	demands, err := c.opt.Space.Demands(p, snapshot.Want{})
	if err != nil {
		return err
	}
	for _, d := range demands {
		if d.Free < d.Hard+d.Merge+c.opt.Ledger.Due(runName(p.VM, p.Run), d.Device) {
			return checkpoint.Crowded(d.Room, "merging takes up to "+space.Bytes(d.Merge)+" until it is done")
		}
	}
	return nil
}

// roomy fails where what a job merges leaves less than it has to.
func (c *checkpointing) roomy(*job) error { return c.tree.Roomy(c.opt.Space) }

// writing runs qemu-img, and ends it where it leaves too little room.
func (c *checkpointing) writing(ctx context.Context, arg ...string) error {
	return c.tree.WhileRoomy(ctx, c.opt.Space, func(ctx context.Context) error { return c.qemuImg(ctx, arg...) })
}
