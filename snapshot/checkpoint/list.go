package checkpoint

import (
	"fmt"
	"os"
	"slices"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/space"
)

// List describes the tree of a VM, and what its files take; what is amiss with those the host
// adds.
func List(w Work, vm string, l space.Limits) snapshot.Checkpoints {
	t := w.Tree()
	list := snapshot.Checkpoints{VM: vm, Now: t.Now, Depth: len(t.Path(t.Now)), List: []snapshot.Checkpoint{}}
	for i := range t.Nodes {
		list.List = append(list.List, describe(w, &t.Nodes[i]))
	}
	if n := t.Newest(); n != nil {
		list.Newest = n.ID
	}
	if t.Now != "" {
		for _, path := range t.Images() {
			list.Growth += space.FileTakes(path)
		}
		list.Tight = t.Tight(l)
	}
	if t.Op != nil {
		list.Pending = t.Op.Kind + " " + t.Op.Node
	}
	return list
}

func describe(w Work, n *Node) snapshot.Checkpoint {
	d := snapshot.Checkpoint{ID: n.ID, Name: n.Name, Parent: n.Parent, Created: n.Created, Memory: n.Memory != nil, Deleted: n.Gone}
	for _, path := range w.Paths(n) {
		d.Size += space.FileTakes(path)
	}
	return d
}

// Images are what the VM writes to, disk by disk.
func (t *Tree) Images() []string {
	if len(t.Own) > 0 {
		return slices.Clone(t.Own)
	}
	list := make([]string, 0, len(t.Disks))
	for _, d := range t.Disks {
		list = append(list, d.Path)
	}
	return list
}

// Paths are the files of a checkpoint that the tree names.
func (n *Node) Paths() []string {
	list := slices.Clone(n.Images)
	if n.Memory != nil {
		list = append(list, n.Memory.Path)
	}
	for _, f := range n.Files {
		list = append(list, f.Kept)
	}
	return list
}

// Suits fails where a disk of a VM could not go back with the others. convert says how its
// image becomes one of qcow2.
func Suits(p snapshot.Plan, convert string) error {
	for _, x := range p.Excluded {
		if !x.Expected {
			return fmt.Errorf("disk %s cannot be part of a checkpoint: %s: %w", x.Disk.Name, x.Reason, snapshot.ErrUnsupported)
		}
	}
	for _, d := range p.Disks {
		info, err := os.Stat(d.Path)
		switch {
		case d.Format != snapshot.FormatQcow2:
			return snapshot.WithHint(fmt.Errorf("disk %s is %s, and checkpoints need qcow2: %w", d.Name, d.Format, snapshot.ErrUnsupported), convert)
		case d.Key != "":
			return fmt.Errorf("disk %s is encrypted, and what is written upon a checkpoint would not be: %w", d.Name, snapshot.ErrUnsupported)
		case err != nil:
			return fmt.Errorf("disk %s: %w", d.Name, err)
		case !info.Mode().IsRegular():
			return fmt.Errorf("disk %s is no file but a device: %w", d.Name, snapshot.ErrUnsupported)
		}
	}
	return nil
}
