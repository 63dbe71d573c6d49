package qemu

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

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
			return crowded(d.Room, "merging takes up to "+space.Bytes(d.Merge)+" until it is done")
		}
	}
	return nil
}

func crowded(r space.Room, why string) error {
	return snapshot.WithHint(fmt.Errorf("%s: %s are free, %s stay free, and %s: %w", r.Dir, space.Bytes(r.Free), space.Bytes(r.Hard), why, snapshot.ErrNoSpace),
		"make room there, or delete a checkpoint that nothing was made upon: its images go at once")
}

// tight is a file system of the VM's images in which there is too little room for a backup to
// begin.
func (c *checkpointing) tight() string {
	for _, d := range c.tree.Disks {
		if r, err := c.opt.Space.At(filepath.Dir(d.Path)); err == nil && r.Free < r.Soft {
			return fmt.Sprintf("%s are free in %s", space.Bytes(r.Free), r.Dir)
		}
	}
	return ""
}

// roomy fails where what is being merged leaves less than it has to.
func (c *checkpointing) roomy(*job) error {
	for _, d := range c.tree.Disks {
		r, err := c.opt.Space.At(filepath.Dir(d.Path))
		if err != nil {
			return fmt.Errorf("look for room: %w", err)
		}
		if r.Free < r.Hard {
			return crowded(r, "others write there, too")
		}
	}
	return nil
}

// roomTick is how often it is looked at while qemu-img writes.
const roomTick = time.Second

// writing runs qemu-img, and ends it where it leaves too little room.
func (c *checkpointing) writing(ctx context.Context, arg ...string) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	done := make(chan error, 1)
	go func() { done <- c.qemuImg(ctx, arg...) }()
	tick := time.NewTicker(roomTick)
	defer tick.Stop()
	for {
		select {
		case err := <-done:
			if cause := context.Cause(ctx); err != nil && errors.Is(cause, snapshot.ErrNoSpace) {
				err = errors.Join(cause, err)
			}
			return err
		case <-tick.C:
			if err := c.roomy(nil); err != nil {
				cancel(err)
			}
		}
	}
}
