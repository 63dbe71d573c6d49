package qemu

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/image"
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

// changeSet reads what a record says: from QEMU's NBD server, where that may serve the
// disk. A persistent record is in the image too, since QEMU has written it there as the
// image froze. One that is not is merged into another image, whose file is read.
func (f *frozen) changeSet(ctx context.Context, d snapshot.DiskPlan) (*snapshot.ChangeSet, error) {
	switch {
	case f.served[d.Name]:
		return f.servedBitmap(ctx, d.Size, d.Export, d.Track)
	case d.Track.Map != "":
		return f.mappedBitmap(ctx, d)
	}
	set, err := image.ReadBitmap(ctx, d.Chain[0].Path, d.Track.Since, d.Size)
	if err == nil && f.plan.Instance != "" && instanceOf(f.pid) != f.plan.Instance {
		return nil, snapshot.ErrGone // and another may have written to it since
	}
	return set, err
}

// mappedBitmap reads a record by way of an empty image that has nothing else.
func (f *frozen) mappedBitmap(ctx context.Context, d snapshot.DiskPlan) (_ *snapshot.ChangeSet, err error) {
	file := deltaFile{path: d.Track.Map}
	if err := os.Remove(file.path); err != nil && !errors.Is(err, fs.ErrNotExist) { // left by a process that died
		return nil, err
	}
	if err := file.create(d.Path); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.Remove(file.path)) }()
	err = f.host.during(ctx, f.plan, func(m *monitor) error {
		if err := m.closeMap(ctx, d); err != nil {
			return err
		}
		return m.copyRecord(ctx, d)
	})
	if err != nil {
		return nil, err
	}
	return image.ReadBitmap(ctx, file.path, d.Track.Since, d.Size)
}

// copyRecord merges a record into a bitmap of the image of that file. It is closed
// then, which writes the bitmap.
func (m *monitor) copyRecord(ctx context.Context, d snapshot.DiskPlan) (err error) {
	node := mapNode(d.DeltaNode)
	err = m.Execute(ctx, "blockdev-add", args{"driver": "file", "node-name": fileNode(node), "filename": d.Track.Map}, nil)
	if err != nil {
		return deltaRefused(err)
	}
	defer func() { err = errors.Join(err, m.closeMap(context.WithoutCancel(ctx), d)) }()
	err = m.create(ctx, createJob(node), args{"driver": "qcow2", "file": fileNode(node), "size": d.Size})
	if err != nil {
		return err
	}
	if err := m.Execute(ctx, "blockdev-add", args{"driver": "qcow2", "node-name": node, "file": fileNode(node)}, nil); err != nil {
		return err
	}
	err = m.Execute(ctx, "block-dirty-bitmap-add", args{"node": node, "name": d.Track.Since, "granularity": d.Track.Grain, "persistent": true}, nil)
	if err != nil {
		return err
	}
	return m.Execute(ctx, "block-dirty-bitmap-merge", args{"node": node, "target": d.Track.Since,
		"bitmaps": []args{{"node": d.Node, "name": d.Track.Since}}}, nil)
}

// closeMap closes the nodes of a map, if they are open, once the job that makes it has
// ended.
func (m *monitor) closeMap(ctx context.Context, d snapshot.DiskPlan) error {
	if d.Track.Map == "" {
		return nil
	}
	node := mapNode(d.DeltaNode)
	if err := ignoreRefused(m.finish(ctx, createJob(node))); err != nil {
		return err
	}
	nodes, err := m.nodes(ctx, true)
	if err != nil {
		return err
	}
	for _, name := range []string{node, fileNode(node)} {
		if findNode(nodes, name) == nil {
			continue
		}
		if err := m.Execute(ctx, "blockdev-del", args{"node-name": name}, nil); err != nil {
			return fmt.Errorf("close map of changes: %w", err)
		}
	}
	return nil
}

// servedBitmap reads a bitmap from QEMU's NBD server.
func (f *frozen) servedBitmap(ctx context.Context, size int64, export string, t snapshot.TrackPlan) (*snapshot.ChangeSet, error) {
	set, err := snapshot.NewChangeSet(size, t.Grain)
	if err != nil {
		return nil, err
	}
	name := bitmapContext + t.Since
	c, err := f.bitmapServer(ctx, export, name)
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

// bitmapServer connects to an export for its bitmap, as Disk does for its data.
func (f *frozen) bitmapServer(ctx context.Context, export, name string) (*nbd.Client, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil, errClosed
	}
	return nbd.Dial(ctx, "unix", f.host.socketPath(f.plan), export, nbd.Options{Contexts: []string{name}, Connections: 1})
}
