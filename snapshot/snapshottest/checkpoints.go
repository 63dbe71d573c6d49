package snapshottest

import (
	"context"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lull-backup/lull/snapshot"
)

// RunCheckpointer takes a snapshot.Checkpointer through what it promises beyond a Host. open
// makes the lifeline of a VM that runs, has no checkpoints, and whose guest writes nothing
// but what the kit writes.
func RunCheckpointer(t *testing.T, open func(t *testing.T) *Lifeline) {
	t.Helper()
	for _, c := range []struct {
		name string
		run  func(*Lifeline)
	}{
		{"Names", (*Lifeline).names},
		{"Deletes", (*Lifeline).deletes},
		{"Walk", (*Lifeline).walk},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(open(t)) })
	}
}

// names: what a checkpoint may be called, and goes by. Nothing that is refused leaves a trace.
func (l *Lifeline) names() {
	l.unknown("no-such-vm", "none", snapshot.ErrNotFound)
	l.unknown(l.VM, "none", snapshot.ErrNoCheckpoint)
	l.unknown(l.VM, "", snapshot.ErrNoCheckpoint)
	ids := l.Grow("one", "")
	before := l.outline()
	for n, want := range map[snapshot.NewCheckpoint]error{
		{Name: "one"}:                   snapshot.ErrExists,
		{Name: ids[0]}:                  snapshot.ErrUnsupported,
		{Name: "00c0ffee"}:              snapshot.ErrUnsupported, // it looks like an ID
		{Name: "a\nb"}:                  snapshot.ErrUnsupported,
		{Name: strings.Repeat("n", 65)}: snapshot.ErrUnsupported,
		{MaxDepth: 2}:                   snapshot.ErrUnsupported,
	} {
		wantErr(l.t, "CreateCheckpoint", l.TryCreate(l.ctx, n), want)
	}
	l.locked()
	l.missing(ids[0])
	l.pending()
	l.follows("what was refused", before)
	l.Apply("one", true)
	l.Right()
	l.Delete(ids[1][:7], false)
	l.Delete("one", false)
	l.Create(snapshot.NewCheckpoint{Name: "one", MaxDepth: 1})
	l.Merge()
	l.Right()
}

// unknown is refused by all that is about one checkpoint.
func (l *Lifeline) unknown(vm, ref string, want error) {
	l.t.Helper()
	_, err := l.host().ApplyCheckpoint(l.ctx, vm, ref, true)
	wantErr(l.t, "ApplyCheckpoint", err, want)
	wantErr(l.t, "DeleteCheckpoints", l.host().DeleteCheckpoints(l.ctx, vm, ref, true), want)
}

// locked: what another process works on is listed, and not worked on.
func (l *Lifeline) locked() {
	l.t.Helper()
	unlock, err := l.f.Lock()
	if err != nil {
		l.t.Fatalf("lock the tree: %v", err)
	}
	defer unlock()
	ctx, cancel := context.WithTimeout(l.ctx, 50*time.Millisecond) // a host may wait
	defer cancel()
	wantErr(l.t, "CreateCheckpoint", l.TryCreate(ctx, snapshot.NewCheckpoint{}), snapshot.ErrBusy)
	wantErr(l.t, "ApplyCheckpoint", l.TryApply(ctx, "one", true), snapshot.ErrBusy)
	wantErr(l.t, "DeleteCheckpoints", l.host().DeleteCheckpoints(ctx, l.VM, "one", true), snapshot.ErrBusy)
	wantErr(l.t, "MergeCheckpoints", l.TryMerge(ctx), snapshot.ErrBusy)
	l.Tree()
}

// missing: an image that is not there is told of.
func (l *Lifeline) missing(id string) {
	l.t.Helper()
	for disk := range l.Want {
		path := l.f.Layer(disk, id)
		if err := os.Rename(path, path+".moved"); err != nil {
			l.t.Fatal(err)
		}
		if tree := l.Tree(); !slices.Contains(tree.Missing, path) {
			l.t.Errorf("missing are %v, and not %s", tree.Missing, path)
		}
		if err := os.Rename(path+".moved", path); err != nil {
			l.t.Fatal(err)
		}
	}
}

// pending: what is cut off is told of, and whatever comes next brings it to an end.
func (l *Lifeline) pending() {
	l.t.Helper()
	l.Dies(func(string) bool { return true }, operations()[0].on(l, ""))
	if l.Tree().Pending == "" {
		l.t.Error("nothing is pending")
	}
	l.unknown(l.VM, "none", snapshot.ErrNoCheckpoint)
	l.now()
}

// deletes: what is deleted leaves what the VM and the others hold, wherever the VM is.
func (l *Lifeline) deletes() {
	l.Grow("one", "two", "three", "four")
	l.Delete("three", false)
	l.Apply("one", true)
	l.Grow("five")
	l.Delete("one", false) // two rest upon it
	l.Right()
	l.unknown(l.VM, "one", snapshot.ErrNoCheckpoint)
	l.Delete("two", true) // a branch, and what it shared
	l.Right()
	l.Delete("five", false)
	l.Right()
}
