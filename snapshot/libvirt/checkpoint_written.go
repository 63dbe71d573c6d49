package libvirt

import (
	"fmt"
	"os"
	"time"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/checkpoint"
)

// Nobody writes to the images of a checkpoint but lull, when it merges. A domain that was started
// from one, or that its user has had commit its changes into one, has done so all the same, and
// the files do not say. A memory that is loaded upon such disks ruins what is on them.

// written tells when each of some files was written to last.
func written(paths []string) (list []time.Time, err error) {
	for _, path := range paths {
		info, err := os.Stat(path)
		if err != nil {
			return nil, err
		}
		list = append(list, info.ModTime())
	}
	return list, nil
}

// rewritten notes that a merge has written to the images of a checkpoint, and to those that were
// made upon it.
func (c *checkpointing) rewritten(id string) (err error) {
	for _, id := range append([]string{id}, c.tree.Children(id)...) {
		n := c.tree.Find(id)
		if n.Written, err = written(n.Images); err != nil {
			return err
		}
	}
	return nil
}

// untouched fails where the disks of a checkpoint are not what they were when its memory was
// kept: an image, or one below, was written to. A time that is older is one that a loss of power
// has set back.
func (c *checkpointing) untouched(n checkpoint.Node) error {
	for _, id := range c.tree.Path(n.ID) {
		x := c.tree.Find(id)
		if x.Gone || len(x.Written) != len(x.Images) { // it is being merged, or is of a lull that did not note it
			continue
		}
		now, err := written(x.Images)
		if err != nil {
			return err
		}
		for i, t := range now {
			if t.After(x.Written[i]) {
				return fmt.Errorf("%s was written to at %s, after the checkpoint %s was made: the memory does not fit to it any more: %w",
					x.Images[i], t.Format(time.DateTime), x.ID, snapshot.ErrCorrupt)
			}
		}
	}
	return nil
}
