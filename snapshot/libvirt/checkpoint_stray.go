package libvirt

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/checkpoint"
	"github.com/lull-backup/lull/snapshot/libvirt/rpc"
)

// A tree can be lost, and so can its domain: state_dir was exchanged, the domain was defined anew
// under another UUID, or its host was given another name in the configuration. Then files lie
// about that nobody lists, or the domain is on images of which nobody knows.

// missing are files that the tree lacks.
func (c *checkpointing) missing() (list []string) {
	var needed []string
	for i := range c.tree.Nodes {
		needed = append(needed, c.tree.Nodes[i].Paths()...)
	}
	if len(c.tree.Nodes) > 0 {
		needed = append(needed, c.tree.Own...)
	}
	for _, path := range needed {
		if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
			list = append(list, path)
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// claims tells whether a file is of a tree: it needs it, or makes it, or is about to remove it.
func claims(t *checkpoint.Tree, path string) bool {
	if m := ownedFile.FindStringSubmatch(filepath.Base(path)); t.Op != nil && m != nil && (t.Op.Run == m[2] || t.Op.Node == m[2]) {
		return true
	}
	return slices.Contains(t.Own, path) || slices.Contains(t.Junk, path) ||
		slices.ContainsFunc(t.Nodes, func(n checkpoint.Node) bool { return slices.Contains(n.Paths(), path) })
}

// strays adds the files that look like a checkpoint's, beside the disks of the tree and those
// that the domain has now, and that are not of the tree.
func (c *checkpointing) strays(ctx context.Context, list *snapshot.Checkpoints) error {
	s, err := c.look(ctx)
	if err != nil {
		return err
	}
	paths, err := c.lookalikes(c.firstImages(s))
	paths = slices.DeleteFunc(paths, func(path string) bool { return claims(&c.tree, path) })
	if err != nil || len(paths) == 0 {
		return err
	}
	others, whole := c.otherTrees()
	for _, path := range paths {
		switch {
		case s.needs(path):
			list.Astray = append(list.Astray, path)
		case whole && !slices.ContainsFunc(others, func(t checkpoint.Tree) bool { return claims(&t, path) }):
			list.Unowned = append(list.Unowned, path)
		}
	}
	return nil
}

// needs tells whether the domain is on an image, or would start from it, or whether nobody can
// tell.
func (s sight) needs(path string) bool {
	return slices.ContainsFunc(slices.Concat(s.now.disks, s.next.disks), func(d listed) bool {
		over, err := d.over(path)
		return over || err != nil || sameFile(d.source, path)
	})
}

// firstImages are what the names of checkpoints' files begin with: the first images of the disks
// that the tree has, and that the domain has now.
func (c *checkpointing) firstImages(s sight) (list []string) {
	for _, d := range c.tree.Disks {
		list = append(list, d.Path)
	}
	for _, d := range slices.Concat(s.now.disks, s.next.disks) {
		if !filepath.IsAbs(d.source) {
			continue
		}
		path, err := filepath.EvalSymlinks(d.source) // files lie beside no link
		if err != nil {
			path = d.source
		}
		if m := ownedFile.FindStringSubmatch(filepath.Base(path)); m != nil {
			path = filepath.Join(filepath.Dir(path), m[1])
		}
		list = append(list, path)
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// lookalikes are files beside images that are named like those of their checkpoints, sorted.
func (c *checkpointing) lookalikes(images []string) (list []string, err error) {
	folders := map[string][]os.DirEntry{}
	for _, image := range images {
		dir := filepath.Dir(image)
		entries, read := folders[dir]
		if !read {
			if entries, err = os.ReadDir(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
				return nil, err
			}
			folders[dir] = entries
		}
		for _, e := range entries {
			if m := ownedFile.FindStringSubmatch(e.Name()); m != nil && m[1] == filepath.Base(image) {
				list = append(list, filepath.Join(dir, e.Name()))
			}
		}
	}
	slices.Sort(list)
	return list, nil
}

// otherTrees are those of other domains; whole: all of them can be read.
func (c *checkpointing) otherTrees() (list []checkpoint.Tree, whole bool) {
	paths, err := filepath.Glob(filepath.Join(filepath.Dir(c.path), "*.json"))
	whole = err == nil
	for _, path := range paths {
		if path == c.path {
			continue
		}
		t, err := checkpoint.Load(path, ofDomain(path))
		whole, list = whole && err == nil, append(list, t)
	}
	return list, whole
}

// ofDomain is the UUID of the domain whose tree is at a path.
func ofDomain(path string) string { return strings.TrimSuffix(filepath.Base(path), ".json") }

var _ snapshot.TreeLoser = (*Host)(nil)

// LostTrees are those whose domains libvirt does not have any more.
func (h *Host) LostTrees(ctx context.Context) (list []snapshot.LostTree, err error) {
	paths, err := filepath.Glob(filepath.Join(filepath.Dir(h.treePath(rpc.UUID{})), "*.json"))
	if err != nil || len(paths) == 0 {
		return nil, err
	}
	all, err := h.domains(ctx)
	if err != nil {
		return nil, fmt.Errorf("look for the domains of checkpoints: %w", err)
	}
	for _, path := range paths {
		id, err := rpc.ParseUUID(ofDomain(path))
		if err != nil || slices.ContainsFunc(all, func(d rpc.Domain) bool { return d.UUID == id }) {
			continue
		}
		t, err := checkpoint.Load(path, id.String())
		if err == nil && len(t.Nodes)+len(t.Junk) == 0 && t.Op == nil {
			continue // it has none
		}
		lost := snapshot.LostTree{Path: path, Files: slices.Concat(t.Own, t.Junk), Err: err}
		for i := range t.Nodes {
			lost.Files = append(lost.Files, t.Nodes[i].Paths()...)
		}
		slices.Sort(lost.Files)
		lost.Files = slices.Compact(lost.Files)
		list = append(list, lost)
	}
	return list, nil
}
