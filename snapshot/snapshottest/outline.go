package snapshottest

import (
	"slices"
	"strings"

	"github.com/lull-backup/lull/snapshot"
)

// outline is a tree of checkpoints as the kit expects it: what it does not know beforehand is
// left out.
type outline snapshot.Checkpoints

func outlineOf(t snapshot.Checkpoints) outline {
	o := outline{VM: t.VM, Now: t.Now, Newest: t.Newest, Depth: t.Depth}
	for _, c := range t.List {
		c.Size = 0
		o.List = append(o.List, c)
	}
	return o
}

// created is a tree with one more, where the VM is.
func created(o outline, c snapshot.Checkpoint) outline {
	c.Size, c.Parent, c.Deleted = 0, o.Now, false
	o.List, o.Now = append(slices.Clone(o.List), c), c.ID
	return o.reduced()
}

// applied is a tree whose VM has gone elsewhere.
func applied(o outline, id string) outline {
	o.Now = id
	return o.reduced()
}

// deleted is a tree without some of its checkpoints.
func deleted(o outline, ids ...string) outline {
	o.List = slices.Clone(o.List)
	for i := range o.List {
		o.List[i].Deleted = o.List[i].Deleted || slices.Contains(ids, o.List[i].ID)
	}
	return o.reduced()
}

// reduced is a tree without what was deleted and is not shared.
func (o outline) reduced() outline {
	o.List = slices.Clone(o.List)
	for i := 0; i < len(o.List); i++ {
		o.List[i].Memory = o.List[i].Memory && !o.List[i].Deleted
		gone := o.List[i]
		if !gone.Deleted || o.users(gone.ID) > 1 {
			continue
		}
		if o.Now == gone.ID {
			o.Now = gone.Parent
		}
		for j := range o.List {
			if o.List[j].Parent == gone.ID {
				o.List[j].Parent = gone.Parent
			}
		}
		o.List, i = slices.Delete(o.List, i, i+1), -1 // its parent may go with it
	}
	if len(o.List) == 0 {
		o.List = nil // as of a tree that never had any
	}
	o.Depth, o.Newest = len(o.path()), ""
	if shown := o.shown(); len(shown) > 0 {
		o.Newest = shown[0].ID
	}
	return o
}

// users is how many rest upon a checkpoint, the VM among them.
func (o outline) users(id string) (n int) {
	for _, c := range o.List {
		if c.Parent == id {
			n++
		}
	}
	if o.Now == id {
		n++
	}
	return n
}

// path are the checkpoints that the VM rests upon, the newest first.
func (o outline) path() (list []snapshot.Checkpoint) {
	at := o.Now
	for _, c := range slices.Backward(o.List) { // what rests upon another was made later
		if c.ID == at {
			list, at = append(list, c), c.Parent
		}
	}
	return list
}

// shown are those of the path that were not deleted.
func (o outline) shown() []snapshot.Checkpoint {
	return slices.DeleteFunc(o.path(), func(c snapshot.Checkpoint) bool { return c.Deleted })
}

// below are a checkpoint and all that were made upon it.
func (o outline) below(id string) []string {
	ids := []string{id}
	for _, c := range o.List {
		if slices.Contains(ids, c.Parent) {
			ids = append(ids, c.ID)
		}
	}
	return ids
}

// find is the ID of a checkpoint by its name, or the start of its ID.
func (o outline) find(ref string) string {
	for _, c := range o.List {
		if !c.Deleted && (c.Name == ref || strings.HasPrefix(c.ID, ref)) {
			return c.ID
		}
	}
	return ""
}
