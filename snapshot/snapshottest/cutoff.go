package snapshottest

import (
	"bytes"
	"context"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lull-backup/lull/snapshot"
)

// RunCheckpointerCutOff has a lull die at the steps of the operations of a
// snapshot.Checkpointer: in the end each of them was done, or nothing was. cuts are the steps
// by the name of the operation; nil: all of all. One that it does not have is left out.
func RunCheckpointerCutOff(t *testing.T, cuts map[string][]string, open func(t *testing.T, operation string) *Lifeline) {
	t.Helper()
	for _, op := range operations() {
		if steps, ok := cuts[op.name]; ok || cuts == nil {
			t.Run(op.name, func(t *testing.T) { open(t, op.name).everywhere(op, steps) })
		}
	}
}

// operation is one that can be cut off. Its name begins with what it does.
type operation struct {
	name   string
	memory bool
	depth  int // how many checkpoints the VM has to rest upon
	about  int // which of them it is about, the newest first
}

func operations() []operation {
	return []operation{
		{name: "create"},
		{name: "create with memory", memory: true},
		{name: "apply", depth: 2, about: 1},
		{name: "apply with memory", memory: true, depth: 2, about: 1},
		{name: "delete the newest", depth: 2},
		{name: "delete the middle", depth: 3, about: 1},
		{name: "delete the first", depth: 2, about: 1},
		{name: "delete the only", depth: 1},
	}
}

func (op operation) creates() bool { return strings.HasPrefix(op.name, "create") }
func (op operation) applies() bool { return strings.HasPrefix(op.name, "apply") }

func (op operation) do(ctx context.Context, l *Lifeline, id string) (err error) {
	switch {
	case op.creates():
		_, err = l.host().CreateCheckpoint(ctx, l.VM, snapshot.NewCheckpoint{Memory: op.memory})
	case op.applies():
		_, err = l.host().ApplyCheckpoint(ctx, l.VM, id, !op.memory)
	default:
		err = l.host().DeleteCheckpoints(ctx, l.VM, id, false)
	}
	return err
}

// everywhere carries an operation out again and again, cut off at another step each time; in
// the end to its end.
func (l *Lifeline) everywhere(op operation, steps []string) {
	l.t.Helper()
	for nth := 1; ; nth++ {
		id, before := l.ready(op)
		at := 0
		step := l.Dies(func(step string) bool {
			at++
			if steps != nil {
				return nth <= len(steps) && step == steps[nth-1]
			}
			return at == nth
		}, func() error { return op.do(l.ctx, l, id) })
		if steps != nil && nth <= len(steps) && step != steps[nth-1] {
			l.t.Fatalf("no step %q", steps[nth-1])
		}
		if step != "" && l.f.Died != nil {
			l.f.Died(step, nth)
		} else if step != "" {
			l.Recovers(step)
		}
		l.came(op, id, before)
		l.Right()
		if l.t.Failed() {
			l.t.Fatalf("that was after death at %q (%d)", step, nth)
		}
		if step == "" {
			break
		}
	}
	l.Merge()
	l.Right()
}

// ready makes what an operation needs, and tells which checkpoint it is about.
func (l *Lifeline) ready(op operation) (id string, before outline) {
	l.t.Helper()
	const many = 4
	before = l.outline()
	if len(before.List) > max(op.depth, many) || op.depth == 1 && len(before.List) > 1 {
		l.Merge()
	}
	for before = l.outline(); len(before.shown()) < op.depth; before = l.outline() {
		l.Writes()
		l.Create(snapshot.NewCheckpoint{Memory: op.memory})
	}
	l.Writes()
	if op.depth > 0 {
		id = before.shown()[op.about].ID
	}
	return id, before
}

// came finds out whether an operation was done, which came to an end somehow.
func (l *Lifeline) came(op operation, id string, before outline) {
	l.t.Helper()
	now, done := l.outline(), before
	switch {
	case op.applies():
		done = applied(before, id)
	case !op.creates():
		done = deleted(before, id)
	case len(now.List) > len(before.List):
		made := now.List[len(now.List)-1]
		done = created(before, made)
		l.Keep(made)
	}
	if d := cmp.Diff(done, now); d != "" && !cmp.Equal(before, now) {
		l.t.Errorf("the tree is neither that of before nor this (-want +got):\n%s", d)
	} else if d == "" && op.applies() && l.shows(id) {
		l.Went(id)
	}
	l.State = nil // the VM may have been started anew
	l.Forget()
}

// shows tells whether the VM has what a checkpoint has.
func (l *Lifeline) shows(id string) bool {
	disk := l.disks[0].Name
	return bytes.Equal(l.Content(l.t, disk), l.Kept[id][disk])
}

// interrupted carries out an operation whose context ends at a step of its own.
func (l *Lifeline) interrupted(op operation, id string, nth int) {
	l.t.Helper()
	ctx, cancel := context.WithCancel(l.ctx)
	defer cancel()
	l.f.Observe(func(string) {
		if nth--; nth == 0 {
			cancel()
		}
	})
	defer l.f.Observe(nil)
	if err := op.do(ctx, l, id); err != nil && ctx.Err() == nil {
		l.t.Fatalf("%s: %v", op.name, err)
	}
}
