package qemu

import (
	"context"
	"fmt"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/checkpoint"
)

// blockGraph is which node has which below it. Filenames do not tell that: QEMU goes on to
// call a file as it opened it, whatever it is now.
type blockGraph struct {
	Nodes []struct {
		ID   int64  `json:"id"`
		Type string `json:"type"`
		Name string `json:"name"`
	} `json:"nodes"`
	Edges []struct {
		Parent int64  `json:"parent"`
		Child  int64  `json:"child"`
		Name   string `json:"name"`
	} `json:"edges"`
}

// graph asks for the block graph. The command has been called experimental since QEMU 4.0,
// and has stayed the same.
func (m *monitor) graph(ctx context.Context) (g blockGraph, err error) {
	err = m.Execute(ctx, "x-debug-query-block-graph", nil, &g)
	return g, err
}

// child is the node that a node has below it as "file" or "backing"; empty: none.
func (g blockGraph) child(node, role string) string {
	names := map[int64]string{}
	parent := int64(-1)
	for _, n := range g.Nodes {
		if n.Type == "block-driver" {
			names[n.ID] = n.Name
			if n.Name == node {
				parent = n.ID
			}
		}
	}
	for _, e := range g.Edges {
		if e.Parent == parent && e.Name == role {
			return names[e.Child]
		}
	}
	return ""
}

// chain are the nodes of a backing chain, top first.
func (g blockGraph) chain(top string) (list []string) {
	for node := top; node != "" && len(list) < maxLayers; node = g.child(node, "backing") {
		list = append(list, node)
	}
	return list
}

// stack is how a disk of the tree lies in QEMU.
type stack struct {
	disk  checkpoint.Disk
	drive block
	nodes []string          // of all images of the chain, top first
	of    map[string]string // the node of each file that the tree knows and the chain has
}

// node is that of a file; empty: it is not in the chain.
func (s stack) node(file string) string { return s.of[file] }

// stack looks at a disk of the tree. Which file a node has open is told by its name, which
// stays that of the file as long as the process lives.
func (c *checkpointing) stack(ctx context.Context, m *monitor, d checkpoint.Disk) (stack, error) {
	s := stack{disk: d, of: map[string]string{}}
	drives, err := m.drives(ctx)
	if err != nil {
		return s, err
	}
	taken := map[string]bool{}
	for i, b := range drives {
		if b.Inserted == nil {
			continue
		}
		path, _ := m.path(b.Inserted.Image.Filename)
		if diskName(b, i, taken) == d.Name || realPath(path) == d.Path {
			s.drive = b
		}
	}
	if s.drive.Inserted == nil {
		return s, fmt.Errorf("the VM has no disk %s: %w", d.Path, snapshot.ErrDiverged)
	}
	g, err := m.graph(ctx)
	if err != nil {
		return s, err
	}
	nodes, err := m.nodes(ctx, true)
	if err != nil {
		return s, err
	}
	s.nodes = g.chain(s.drive.Inserted.Node)
	files, err := c.images(d)
	if err != nil {
		return s, err
	}
	for _, node := range s.nodes {
		below := findNode(nodes, g.child(node, "file"))
		if below == nil {
			continue
		}
		name, ok := m.proc.find(below.File)
		if !ok {
			continue
		}
		for _, file := range files {
			if same, err := sameFile(name, file); err != nil {
				return s, err
			} else if same {
				s.of[file] = node
			}
		}
	}
	return s, nil
}

// closeChain closes the nodes of a chain that nothing uses any more, from its top down.
// Those that were not opened by name went away by themselves.
func (m *monitor) closeChain(ctx context.Context, g blockGraph, nodes []string) error {
	for _, node := range nodes {
		for _, name := range []string{node, g.child(node, "file")} {
			if name == "" {
				continue
			}
			err := m.Execute(ctx, "blockdev-del", args{"node-name": name}, nil)
			if err != nil && !refused(err) {
				return err
			}
		}
	}
	return nil
}

// learn reads what files are called by now that the process opened by another name. A tree
// that cannot be read is reported by whoever needs it.
func (m *monitor) learn(tree string) {
	t, err := checkpoint.Load(tree, m.vm.Name)
	if err == nil && t.Known.Instance != "" && t.Known.Instance == m.proc.instance {
		m.renamed.Store(&t.Known.Files)
	}
}

// find is the path of a file that the process calls so.
func (m *monitor) find(filename string) (string, bool) {
	path, ok := m.proc.find(filename)
	if files := m.renamed.Load(); ok && files != nil {
		if now, renamed := (*files)[path]; renamed {
			return now, true
		}
	}
	return path, ok
}
