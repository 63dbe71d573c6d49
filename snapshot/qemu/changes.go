package qemu

import (
	"context"
	"fmt"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/nbd"
)

// bitmapContext names a bitmap among an export's meta contexts; its flag for what is
// dirty: https://www.qemu.org/docs/master/interop/nbd.html
const (
	bitmapContext = "qemu:dirty-bitmap:"
	bitmapDirty   = 1
)

// bitmapSpan is how much of a disk is asked for at a time, in bytes: it bounds the
// answer.
const bitmapSpan = 16 << 30

var _ snapshot.FrozenChanges = (*frozen)(nil)

// Changes looks at the records of a frozen disk.
func (f *frozen) Changes(ctx context.Context, disk string) (snapshot.Changes, error) {
	d, err := f.planned(disk)
	if err != nil {
		return snapshot.Changes{}, err
	}
	c := snapshot.Changes{Reason: d.Track.Reason}
	if d.Track.Record == "" {
		return c, nil
	}
	in, err := f.frozenNode(ctx, d)
	if err != nil {
		return snapshot.Changes{}, fmt.Errorf("look for records of changes: %w", err)
	}
	if untrue(findBitmap(in, d.Track.Record), d.Track) == "" {
		c.Record = d.Track.Record
	}
	if d.Track.Since == "" {
		return c, nil
	}
	if c.Reason = untrue(findBitmap(in, d.Track.Since), d.Track); c.Reason != "" {
		return c, nil
	}
	if c.Since, err = f.changeSet(ctx, d); err != nil {
		c.Reason = fmt.Sprintf("the record cannot be read: %v", err)
	}
	return c, ctx.Err()
}

func (f *frozen) frozenNode(ctx context.Context, d snapshot.DiskPlan) (*inserted, error) {
	var in *inserted
	err := f.host.during(ctx, f.plan, func(m *monitor) error {
		nodes, err := m.nodes(ctx, true)
		in = findNode(nodes, d.Node)
		return err
	})
	if err == nil && in == nil {
		err = fmt.Errorf("no node %s", d.Node)
	}
	return in, err
}

// changeSet reads what a record says.
func (f *frozen) changeSet(ctx context.Context, d snapshot.DiskPlan) (*snapshot.ChangeSet, error) {
	if d.Export == "" {
		return nil, snapshot.ErrUnsupported
	}
	return f.servedBitmap(ctx, d.Size, d.Export, d.Track)
}

// servedBitmap reads a bitmap from QEMU's NBD server.
func (f *frozen) servedBitmap(ctx context.Context, size int64, export string, t snapshot.TrackPlan) (*snapshot.ChangeSet, error) {
	set, err := snapshot.NewChangeSet(size, t.Grain)
	if err != nil {
		return nil, err
	}
	name := bitmapContext + t.Since
	c, err := nbd.Dial(ctx, "unix", f.host.socketPath(f.plan), export, nbd.Options{Contexts: []string{name}, Connections: 1})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	for off := int64(0); off < size; off += bitmapSpan {
		ranges, err := c.Status(ctx, name, off, min(bitmapSpan, size-off))
		if err != nil {
			return nil, err
		}
		at := off
		for _, r := range ranges {
			if r.Flags&bitmapDirty != 0 {
				set.Add(r.Offset, r.Length)
			}
			at = r.Offset + r.Length
		}
		set.Add(at, min(bitmapSpan, size-off)-(at-off)) // behind the end of an export that is shorter than the disk
	}
	return set, nil
}
