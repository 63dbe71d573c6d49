package snapshottest

import (
	"bytes"
	"context"
	"fmt"
	"hash/fnv"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lull-backup/lull/snapshot"
)

// CheckpointFixture is a VM of a snapshot.Checkpointer, which its Host is. It has no
// checkpoints at first. Content is also that of a VM that is off; Files are those that
// checkpoints may leave behind.
type CheckpointFixture struct {
	Fixture

	// Observe has fn told of each step of the Host before it is done; nil: nobody.
	Observe func(fn func(step string))

	// Layer is the image that a checkpoint holds of a disk: a qcow2 file.
	Layer func(disk, id string) string

	// Runs tells whether the VM does. Start starts it when it has crashed, from wherever
	// whoever starts it would.
	Runs  func() bool
	Start func(t testing.TB)

	// Monitor has a command carried out that is meant for the person at QEMU's monitor.
	Monitor func(command string) (said string, err error)

	// Lock has the VM's checkpoints as another process would, until unlock.
	Lock func() (unlock func(), err error)

	// Right fails the test where something is not as it has to be that only the host knows
	// of. Nil: there is nothing.
	Right func()

	// Died is what comes when lull has died at a step, the nth at which it was cut off, and
	// was started anew. Nil: it recovers.
	Died func(step string, nth int)
}

// Lifeline is a VM with checkpoints, and what all of them have to hold.
type Lifeline struct {
	*kit
	f      *CheckpointFixture
	Want   map[string][]byte            // of the VM now, by disk
	Kept   map[string]map[string][]byte // of its checkpoints, by ID
	State  *byte                        // of the machine; nil: any
	states map[string]byte              // of checkpoints with memory
	On     bool                         // it runs
	fill   byte
}

// lifetime bounds a case.
const lifetime = 5 * time.Minute

// NewLifeline is that of a VM as it is.
func NewLifeline(t *testing.T, f *CheckpointFixture) *Lifeline {
	t.Helper()
	l := &Lifeline{kit: newKit(t, &f.Fixture), f: f, Kept: map[string]map[string][]byte{}, states: map[string]byte{}}
	ctx, cancel := context.WithTimeout(t.Context(), lifetime)
	t.Cleanup(cancel)
	l.ctx, l.Want, l.On, l.fill = ctx, l.model, f.Runs(), byte(seed(t))
	return l
}

// seed is that of a test, the same each time.
func seed(t *testing.T) uint64 {
	h := fnv.New64a()
	h.Write([]byte(t.Name())) // never fails
	return h.Sum64()
}

func (l *Lifeline) host() snapshot.Checkpointer { return l.Host.(snapshot.Checkpointer) }

// Restart is another process of lull's.
func (l *Lifeline) Restart() { l.Host = l.Reopen(l.t) }

// Writes lets the guest write something new to every disk, elsewhere than the last time.
func (l *Lifeline) Writes() {
	l.t.Helper()
	l.fill++
	for disk, holds := range l.Want {
		off := l.Last()
		if err := l.Write(disk, off, 300<<10, l.fill); err != nil {
			l.t.Fatalf("write as the guest: %v", err)
		}
		copy(holds[off:], bytes.Repeat([]byte{l.fill}, 300<<10))
	}
	if _, err := l.f.Monitor(fmt.Sprintf("o /b %#x %#x", scratch, l.fill)); err != nil {
		l.t.Fatalf("change the machine's state: %v", err)
	}
	l.State = new(l.fill)
}

// scratch is a port of the machine that keeps what is written to it, and that nobody uses: the
// page of a channel of the DMA controller. It is saved and loaded with the memory.
const scratch = 0x83

// Last is where on the disks that began.
func (l *Lifeline) Last() int64 { return int64(l.fill%7) << 18 }

// Create makes a checkpoint.
func (l *Lifeline) Create(n snapshot.NewCheckpoint) (id string) {
	l.t.Helper()
	before, began := l.outline(), time.Now()
	c, err := l.host().CreateCheckpoint(l.ctx, l.VM, n)
	if err != nil {
		l.t.Fatalf("CreateCheckpoint: %v", err)
	}
	if c.Name != n.Name || c.Memory != n.Memory || c.Size == 0 || c.Created.Before(began.Truncate(time.Second)) || c.Created.After(time.Now()) {
		l.t.Errorf("CreateCheckpoint: %+v at %v, of %+v", c, began, n)
	}
	l.follows("create", created(before, c))
	l.Keep(c)
	return c.ID
}

// Keep notes what a checkpoint holds that was made just now.
func (l *Lifeline) Keep(c snapshot.Checkpoint) {
	l.Kept[c.ID] = l.Copy()
	if c.Memory && l.State != nil {
		l.states[c.ID] = *l.State
	}
}

// Grow makes checkpoints, with something new in each.
func (l *Lifeline) Grow(names ...string) (ids []string) {
	l.t.Helper()
	for _, name := range names {
		l.Writes()
		ids = append(ids, l.Create(snapshot.NewCheckpoint{Name: name}))
	}
	l.Writes()
	return ids
}

// Apply goes back to a checkpoint, by its name or ID.
func (l *Lifeline) Apply(ref string, cold bool) {
	l.t.Helper()
	before := l.outline()
	c, err := l.host().ApplyCheckpoint(l.ctx, l.VM, ref, cold)
	if err != nil {
		l.t.Fatalf("ApplyCheckpoint: %v", err)
	}
	l.follows("apply", applied(before, c.ID))
	l.Went(c.ID)
	if known, ok := l.states[c.ID]; ok && !cold {
		l.On, l.State = true, &known
	}
}

// Went: the VM has gone back to a checkpoint. What else than disks it has is unknown.
func (l *Lifeline) Went(id string) {
	for disk, kept := range l.Kept[id] {
		copy(l.Want[disk], kept)
	}
	l.State = nil
}

// Delete removes a checkpoint, or it and all that were made upon it.
func (l *Lifeline) Delete(ref string, subtree bool) {
	l.t.Helper()
	before := l.outline()
	id := before.find(ref)
	gone := []string{id}
	if subtree {
		gone = before.below(id)
	}
	if err := l.host().DeleteCheckpoints(l.ctx, l.VM, ref, subtree); err != nil {
		l.t.Fatalf("DeleteCheckpoints: %v", err)
	}
	l.follows("delete", deleted(before, gone...))
	l.Forget()
}

// Merge removes all checkpoints.
func (l *Lifeline) Merge() {
	l.t.Helper()
	if err := l.host().MergeCheckpoints(l.ctx, l.VM); err != nil {
		l.t.Fatalf("MergeCheckpoints: %v", err)
	}
	l.follows("merge", outline{VM: l.VM})
	l.Forget()
}

// Forget drops what is in the tree no more.
func (l *Lifeline) Forget() {
	l.t.Helper()
	there := map[string]bool{}
	for _, c := range l.Tree().List {
		there[c.ID] = !c.Deleted
	}
	for id := range l.Kept {
		if !there[id] {
			delete(l.Kept, id)
			delete(l.states, id)
		}
	}
}

// Tree is what the host says of the checkpoints.
func (l *Lifeline) Tree() snapshot.Checkpoints {
	l.t.Helper()
	tree, err := l.host().Checkpoints(l.ctx, l.VM)
	if err != nil {
		l.t.Fatalf("Checkpoints: %v", err)
	}
	return tree
}

func (l *Lifeline) outline() outline { return outlineOf(l.Tree()).reduced() }

// follows proves that the tree is what comes of the one before.
func (l *Lifeline) follows(what string, want outline) {
	l.t.Helper()
	if d := cmp.Diff(want, l.outline()); d != "" {
		l.t.Errorf("the tree after %s (-want +got):\n%s", what, d)
	}
}

// Off kills the VM.
func (l *Lifeline) Off() {
	l.t.Helper()
	l.Crash(l.t)
	l.On, l.State = false, nil
}

// Boot starts it from its disks.
func (l *Lifeline) Boot() {
	l.t.Helper()
	l.f.Start(l.t)
	l.On, l.State = true, nil
}

// Right proves that the VM and all checkpoints hold what they have to, that nothing is
// pending, and that no file is there which the tree does not own.
func (l *Lifeline) Right() {
	l.t.Helper()
	l.now()
	tree := l.Tree()
	for _, c := range tree.List {
		if kept, ok := l.Kept[c.ID]; !ok && !c.Deleted {
			l.t.Errorf("checkpoint %s is there", c.ID)
		} else if !c.Deleted {
			l.holds(c, kept)
		}
	}
	if len(tree.List) == 0 {
		if d := cmp.Diff(l.files, slices.Sorted(slices.Values(l.Files(l.t)))); d != "" {
			l.t.Errorf("without checkpoints the files are (-before +now):\n%s", d)
		}
	}
	if l.f.Right != nil {
		l.f.Right()
	}
}

// now is what of Right is about the VM.
func (l *Lifeline) now() {
	l.t.Helper()
	l.Tidy("afterwards")
	for disk, want := range l.Want {
		same(l.t, "disk "+disk+", for the guest", want, l.Content(l.t, disk))
	}
	l.machine()
}

// Tidy proves that no operation is pending, and that the tree owns every file.
func (l *Lifeline) Tidy(when string) {
	l.t.Helper()
	tree := l.Tree()
	if tree.Pending != "" || len(tree.Missing)+len(tree.Unowned)+len(tree.Astray) > 0 {
		l.t.Errorf("%s pending %q, missing %v, unowned %v, astray %v", when, tree.Pending, tree.Missing, tree.Unowned, tree.Astray)
	}
	if (tree.Now == "") != (tree.Growth == 0) || slices.ContainsFunc(tree.List, func(c snapshot.Checkpoint) bool { return c.Size <= 0 }) {
		l.t.Errorf("%s the sizes are %+v", when, tree)
	}
}

// machine proves that the VM runs, or does not, and that it has not lost its state.
func (l *Lifeline) machine() {
	l.t.Helper()
	if on := l.f.Runs(); on != l.On {
		l.t.Errorf("the VM runs: %v", on)
	}
	if l.State == nil || !l.On {
		return
	}
	said, err := l.f.Monitor(fmt.Sprintf("i /b %#x", scratch))
	if err != nil || !strings.Contains(said, fmt.Sprintf("= 0x%02x", *l.State)) {
		l.t.Errorf("the machine has %q in its memory, %v; want %#x", said, err, *l.State)
	}
}

func (l *Lifeline) holds(c snapshot.Checkpoint, kept map[string][]byte) {
	l.t.Helper()
	for disk, want := range kept {
		same(l.t, "disk "+disk+" of checkpoint "+c.ID+" ("+c.Name+")", want, Flat(l.t, l.f.Layer(disk, c.ID)))
	}
}

// Flat is what a qcow2 image shows, whoever has it open, by the names that the images say.
func Flat(t testing.TB, path string) []byte {
	t.Helper()
	out := filepath.Join(t.TempDir(), "flat")
	if said, err := exec.CommandContext(context.WithoutCancel(t.Context()), "qemu-img", "convert", "-U", "-f", "qcow2", "-O", "raw", path, out).CombinedOutput(); err != nil {
		t.Fatalf("qemu-img, of qemu-utils: %v\n%s", err, said)
	}
	defer os.Remove(out)
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Recovers is the next start of lull.
func (l *Lifeline) Recovers(step string) {
	l.t.Helper()
	if _, err := l.host().RecoverCheckpoints(l.ctx, l.VM); err != nil {
		l.t.Fatalf("recovery after death at %s: %v", step, err)
	}
	if found, err := l.host().RecoverCheckpoints(l.ctx, l.VM); err != nil || found {
		l.t.Fatalf("the second recovery after death at %s: %v, %v", step, found, err)
	}
}
