package checkpoint

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/lull-backup/lull/snapshot"
)

// Bounds of a tree, against files that nobody but a mistake makes.
const (
	MaxNodes = 4096
	MaxName  = 64 // bytes of a checkpoint's name
)

// errBroken: a tree that breaks an invariant.
var errBroken = errors.New("the tree of checkpoints contradicts itself")

// idForm is what hosts make IDs like.
var idForm = regexp.MustCompile(`^[0-9a-f]{8}$`)

// Tree is all checkpoints of a VM. The zero value has none.
type Tree struct {
	VM string `json:"vm"`
	// Was is what the VM was called, while its tree is being moved to its new name; empty: it
	// is not.
	Was   string `json:"was,omitempty"`
	Disks []Disk `json:"disks,omitempty"` // those that go into every checkpoint
	Nodes []Node `json:"nodes,omitempty"` // in the order in which they were made
	Now   string `json:"now,omitempty"`   // the checkpoint that the VM's own images rest upon
	// Op is what is under way; it is written before it begins.
	Op *Op `json:"op,omitempty"`
	// Known says what a process calls files that were renamed since it opened them.
	Known Known `json:"known,omitzero"`

	// Own are the images that the VM writes to, disk by disk, where the host lets each have
	// a path of its own; empty: those of Disks.
	Own []string `json:"own,omitempty"`
	// Junk are files that nothing needs any more, about to be removed.
	Junk []string `json:"junk,omitempty"`
}

// Disk is a disk of the tree.
type Disk struct {
	Name string `json:"name"`
	Path string `json:"path"` // of the image that the VM writes to, or wrote to at first; no link
}

// Node is a checkpoint.
type Node struct {
	ID      string    `json:"id"`
	Name    string    `json:"name,omitempty"`
	Parent  string    `json:"parent,omitempty"` // empty: the first of its tree
	Created time.Time `json:"created"`
	// Gone: it was deleted, and its images are there for those that rest upon them.
	Gone bool `json:"gone,omitempty"`

	Memory   *Memory           `json:"memory,omitempty"`  // nil: the disks alone
	Images   []string          `json:"images,omitempty"`  // of its disks, where the tree has Own
	Written  []time.Time       `json:"written,omitempty"` // when each of Images was written to last, by whoever may do so
	Files    []File            `json:"files,omitempty"`
	Hardware snapshot.Hardware `json:"hardware,omitzero"`
}

// Memory is where the memory and device state of a checkpoint are.
type Memory struct {
	Path   string `json:"path"`
	Stream int64  `json:"stream"` // bytes of the hypervisor's own stream within the file
	Limit  int64  `json:"limit"`  // what that was bounded by, which the layout follows from
}

// File is a small file of the VM, such as its NVRAM, as it was.
type File struct {
	snapshot.File
	Kept string `json:"kept"` // where it is kept
}

// Kinds of operations.
const (
	Create = "create"
	Apply  = "apply"
	Fold   = "fold"
)

// Op is an operation under way.
type Op struct {
	Kind string `json:"kind"`
	Node string `json:"node"`          // that is made, applied, or goes
	Run  string `json:"run,omitempty"` // names what the operation makes
	// Instance is the hypervisor's process when it began; empty: none ran.
	Instance string `json:"instance,omitempty"`
	Running  bool   `json:"running,omitempty"` // the VM did
	Cold     bool   `json:"cold,omitempty"`    // of Apply: the memory stays away
	Step     string `json:"step,omitempty"`    // that was reached, in the host's words
	// Into is what a Fold makes one with Node; empty: the VM's own images.
	Into string `json:"into,omitempty"`
	// Nodes are what the hypervisor calls the images of Node, disk by disk, where a Fold
	// moves the VM onto them.
	Nodes []string `json:"nodes,omitempty"`
	// Saved is where a Create puts the VM's memory.
	Saved snapshot.SavedPlan `json:"saved,omitzero"`
}

// Known says what one process calls files: by the name it knows, what it is now.
type Known struct {
	Instance string            `json:"instance,omitempty"`
	Files    map[string]string `json:"files,omitempty"`
}

// Find returns the checkpoint of an ID, or nil.
func (t *Tree) Find(id string) *Node {
	i := slices.IndexFunc(t.Nodes, func(n Node) bool { return n.ID == id })
	if i < 0 {
		return nil
	}
	return &t.Nodes[i]
}

// Resolve finds a checkpoint that is not gone, by its name, its ID, or the start of an
// ID that no other has.
func (t *Tree) Resolve(ref string) (*Node, error) {
	var found, begin []*Node
	for i := range t.Nodes {
		switch n := &t.Nodes[i]; {
		case n.Gone || ref == "":
		case n.Name == ref || n.ID == ref:
			found = append(found, n)
		case strings.HasPrefix(n.ID, ref):
			begin = append(begin, n)
		}
	}
	if len(found) == 0 {
		found = begin
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return nil, fmt.Errorf("checkpoint %q: %w", ref, snapshot.ErrNoCheckpoint)
	}
	return nil, snapshot.WithHint(fmt.Errorf("checkpoint %q: that may be any of %d: %w", ref, len(found), snapshot.ErrNoCheckpoint),
		"give as much of its ID as no other begins with")
}

// Children are the IDs of those that rest upon a checkpoint.
func (t *Tree) Children(id string) (list []string) {
	for _, n := range t.Nodes {
		if n.Parent == id {
			list = append(list, n.ID)
		}
	}
	return list
}

// Path is a checkpoint and all below it, up to the first: the frozen images of a disk,
// top first. Empty for the empty ID.
func (t *Tree) Path(id string) (list []string) {
	for n := t.Find(id); n != nil && len(list) <= len(t.Nodes); n = t.Find(n.Parent) {
		list = append(list, n.ID)
	}
	return list
}

// Newest is the checkpoint that the VM went on from: the nearest one below it that is
// not gone; nil: there is none.
func (t *Tree) Newest() *Node {
	for _, id := range t.Path(t.Now) {
		if n := t.Find(id); !n.Gone {
			return n
		}
	}
	return nil
}

// Shown are the checkpoints that are not gone.
func (t *Tree) Shown() (list []Node) {
	for _, n := range t.Nodes {
		if !n.Gone {
			list = append(list, n)
		}
	}
	return list
}

// Add puts a checkpoint where the VM runs, which goes on from it.
func (t *Tree) Add(n Node) {
	n.Parent = t.Now
	t.Nodes = append(t.Nodes, n)
	t.Now = n.ID
}

// Below are a checkpoint and all that were made upon it.
func (t *Tree) Below(id string) []string {
	list := []string{id}
	for i := 0; i < len(list) && len(list) <= len(t.Nodes); i++ {
		list = append(list, t.Children(list[i])...)
	}
	return list
}

// Chosen are the IDs of a checkpoint, found as by Resolve, and of all that were made upon it
// where they are wanted.
func (t *Tree) Chosen(ref string, subtree bool) ([]string, error) {
	n, err := t.Resolve(ref)
	if err != nil {
		return nil, err
	}
	if subtree {
		return t.Below(n.ID), nil
	}
	return []string{n.ID}, nil
}

// All are the IDs of all checkpoints.
func (t *Tree) All() (list []string) {
	for _, n := range t.Nodes {
		list = append(list, n.ID)
	}
	return list
}

// MayAdd fails where a new checkpoint cannot be one of the tree.
func (t *Tree) MayAdd(n snapshot.NewCheckpoint) error {
	if len(n.Name) > MaxName || strings.ContainsFunc(n.Name, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return fmt.Errorf("the name is longer than %d bytes, or holds control characters: %w", MaxName, snapshot.ErrUnsupported)
	}
	if slices.ContainsFunc(t.Nodes, func(x Node) bool { return !x.Gone && n.Name != "" && x.Name == n.Name }) {
		return fmt.Errorf("a checkpoint %q is there already: %w", n.Name, snapshot.ErrExists)
	}
	if idForm.MatchString(n.Name) || n.Name != "" && t.Find(n.Name) != nil {
		return snapshot.WithHint(fmt.Errorf("the name %q looks like a checkpoint's ID, and could be mistaken for that: %w", n.Name, snapshot.ErrUnsupported),
			"choose another name, such as "+snapshot.ShellWord("at-"+n.Name))
	}
	if depth := len(t.Path(t.Now)); n.MaxDepth > 0 && depth >= n.MaxDepth || len(t.Nodes) >= MaxNodes {
		return snapshot.WithHint(fmt.Errorf("the VM rests upon %d checkpoints already: %w", depth, snapshot.ErrUnsupported),
			"delete some of them: each makes the guest's disks slower to read")
	}
	return nil
}

// Delete marks checkpoints as gone.
func (t *Tree) Delete(ids ...string) {
	for _, id := range ids {
		if n := t.Find(id); n != nil {
			n.Gone = true
		}
	}
}

// Check fails where an invariant is broken.
func (t *Tree) Check() error {
	if len(t.Nodes) > MaxNodes {
		return fmt.Errorf("%w: %d checkpoints", errBroken, len(t.Nodes))
	}
	ids, names := map[string]bool{}, map[string]bool{}
	for _, n := range t.Nodes {
		switch {
		case n.ID == "" || ids[n.ID]:
			return fmt.Errorf("%w: two checkpoints %q", errBroken, n.ID)
		case n.Name != "" && !n.Gone && names[n.Name]:
			return fmt.Errorf("%w: two checkpoints are named %q", errBroken, n.Name)
		case n.Parent != "" && !ids[n.Parent]:
			// A checkpoint is made later than its parent, so there are no circles.
			return fmt.Errorf("%w: %s rests upon %q, which is not before it", errBroken, n.ID, n.Parent)
		}
		ids[n.ID], names[n.Name] = true, names[n.Name] || !n.Gone
	}
	if t.Now != "" && !ids[t.Now] {
		return fmt.Errorf("%w: the VM runs upon %q", errBroken, t.Now)
	}
	return nil
}
