package qemu

import (
	"context"
	"maps"
	"slices"

	"github.com/lull-backup/lull/snapshot/checkpoint"
)

// QEMU goes on to call a file as it opened it, and opens it again by that name when it wants
// to write to it, or no more. So a name that a QEMU process uses stays that of the very same
// file for as long as the process lives, beside any other names that the file is given; the
// tree notes which file each of them is (checkpoint.Known). Afterwards they are removed.

// owned are the files that the tree names.
func (c *checkpointing) owned() map[string]bool {
	owned := map[string]bool{}
	for i := range c.tree.Nodes {
		for _, path := range c.Paths(&c.tree.Nodes[i]) {
			owned[path] = true
		}
	}
	for _, d := range c.tree.Disks {
		owned[d.Path] = true
	}
	return owned
}

// settleNames notes what files that QEMU calls otherwise are by now. Names that are of none of
// the tree's files any more are junk, as is what is needed no more.
func (c *checkpointing) settleNames(ctx context.Context, m *monitor, unneeded ...string) error {
	nodes, err := m.nodes(ctx, true)
	if err != nil {
		return err
	}
	owned := c.owned()
	known := checkpoint.Known{Instance: m.proc.instance, Files: map[string]string{}}
	for _, n := range nodes {
		name, ok := m.proc.find(n.File)
		if !ok || owned[name] || ownedFile.FindStringSubmatch(name) == nil {
			continue
		}
		for path := range owned {
			if same, err := sameFile(name, path); err != nil {
				return err
			} else if same {
				known.Files[name] = path
			}
		}
	}
	unneeded = slices.AppendSeq(unneeded, maps.Keys(c.tree.Known.Files))
	c.tree.Known = known
	m.renamed.Store(&known.Files)
	return c.junk(unneeded...)
}

// dropNames gives up all names that a process used which is gone, and files that are needed
// no more.
func (c *checkpointing) dropNames(unneeded ...string) error {
	unneeded = slices.AppendSeq(unneeded, maps.Keys(c.tree.Known.Files))
	c.tree.Known = checkpoint.Known{}
	return c.junk(unneeded...)
}

// tidyNames is settleNames or dropNames, as it is.
func (c *checkpointing) tidyNames(ctx context.Context, unneeded ...string) error {
	return c.live(ctx, func(m *monitor) error { return c.settleNames(ctx, m, unneeded...) },
		func() error { return c.dropNames(unneeded...) })
}

// endLive ends an operation: what files are called is noted with it, and what is to be removed.
func (c *checkpointing) endLive(ctx context.Context, unneeded ...string) error {
	if err := c.tidyNames(ctx, unneeded...); err != nil {
		return err
	}
	return c.end()
}
