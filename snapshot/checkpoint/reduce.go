package checkpoint

import "slices"

// Own stands for the VM's own images, where a checkpoint's ID would.
const Own = ""

// Step is what is to be done about the images of a checkpoint that is gone.
type Step struct {
	Node string // the checkpoint
	// Drop: nothing rests upon it. Its files are removed.
	Drop bool
	// Into is the only one that rests upon it, a checkpoint or Own. What it shows stays
	// as it is; the images of Node are needed no more afterwards.
	Into string
	// First: Node rests upon no other checkpoint. Then what Into has is written down
	// into Node's image, which takes the name of Into's. Else what Node has is
	// written up into Into's image, where that has nothing of its own.
	First bool
}

// dependents is how many rest upon a checkpoint, and the last of them.
func (t *Tree) dependents(id string) (n int, last string) {
	for _, c := range t.Children(id) {
		n, last = n+1, c
	}
	if t.Now == id {
		n, last = n+1, Own
	}
	return n, last
}

// Next is a step that can be done now; false: there is none. The newest come first, so
// that nothing is written twice.
func (t *Tree) Next() (Step, bool) {
	for _, n := range slices.Backward(t.Nodes) {
		if !n.Gone {
			continue
		}
		switch count, only := t.dependents(n.ID); count {
		case 0:
			return Step{Node: n.ID, Drop: true}, true
		case 1:
			return Step{Node: n.ID, Into: only, First: n.Parent == ""}, true
		}
	}
	return Step{}, false
}

// Done takes a checkpoint out of the tree whose step was done.
func (t *Tree) Done(s Step) {
	n := t.Find(s.Node)
	if n == nil {
		return
	}
	parent := n.Parent
	for i := range t.Nodes {
		if t.Nodes[i].Parent == s.Node {
			t.Nodes[i].Parent = parent
		}
	}
	if t.Now == s.Node {
		t.Now = parent
	}
	t.Nodes = slices.DeleteFunc(t.Nodes, func(n Node) bool { return n.ID == s.Node })
}

// Strip makes junk of all that checkpoints which are gone have of their own, and tells whether
// there was anything: what rests upon them needs their images alone.
func (t *Tree) Strip() (found bool) {
	for i := range t.Nodes {
		n := &t.Nodes[i]
		if files := n.Paths()[len(n.Images):]; n.Gone && len(files) > 0 {
			t.Junk = append(t.Junk, files...)
			n.Memory, n.Files, found = nil, nil, true
		}
	}
	return found
}
