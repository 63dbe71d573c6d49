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
		{name: "apply with memory", memory: true, depth: 1},
		{name: "delete the newest", depth: 2},
		{name: "delete the middle", depth: 3, about: 1},
		{name: "delete the first", depth: 2, about: 1},
		{name: "delete the only", depth: 1},
	}
}

func (op operation) creates() bool { return strings.HasPrefix(op.name, "create") }
func (op operation) applies() bool { return strings.HasPrefix(op.name, "apply") }

// on is the operation for a VM, and one of its checkpoints.
func (op operation) on(l *Lifeline, id string) func(context.Context) error {
	return func(ctx context.Context) error {
		switch {
		case op.creates():
			return l.TryCreate(ctx, snapshot.NewCheckpoint{Memory: op.memory})
		case op.applies():
			return l.TryApply(ctx, id, !op.memory)
		}
		return l.host().DeleteCheckpoints(ctx, l.VM, id, false)
	}
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
		}, op.on(l, id))
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
	const many = 3 // all of them are read each time
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

// TryCreate makes a checkpoint, or does not: nothing is noted.
func (l *Lifeline) TryCreate(ctx context.Context, n snapshot.NewCheckpoint) error {
	_, err := l.host().CreateCheckpoint(ctx, l.VM, n)
	return err
}

// TryApply goes back to a checkpoint, or does not: nothing is noted.
func (l *Lifeline) TryApply(ctx context.Context, id string, cold bool) error {
	_, err := l.host().ApplyCheckpoint(ctx, l.VM, id, cold)
	return err
}

// TryMerge removes all checkpoints, or does not: nothing is noted.
func (l *Lifeline) TryMerge(ctx context.Context) error { return l.host().MergeCheckpoints(ctx, l.VM) }

// Dies carries out an operation in a process that dies at the first of some steps, and then
// starts another one. It returns the name of the step; empty: the operation came to its end.
func (l *Lifeline) Dies(here func(step string) bool, op func(context.Context) error) (step string) {
	l.t.Helper()
	l.f.Observe(func(name string) {
		if here(name) {
			panic(died{name})
		}
	})
	defer func() {
		l.f.Observe(nil)
		if p := recover(); p != nil {
			d, ok := p.(died)
			if !ok {
				panic(p)
			}
			step = d.step
			l.Restart()
		}
	}()
	if err := op(l.ctx); err != nil {
		l.t.Fatalf("operation: %v", err)
	}
	return ""
}

// died is what a process ends with at a step of an operation.
type died struct{ step string }

// DiesIn is Dies for steps of that name, to which the operation comes.
func (l *Lifeline) DiesIn(step string, op func(context.Context) error) {
	l.t.Helper()
	if l.Dies(func(s string) bool { return s == step }, op) == "" {
		l.t.Fatalf("it came to its end, and not to %s", step)
	}
}

// Interrupted carries out an operation whose context ends at its nth step. It returns the name
// of that; empty: the operation came to its end before.
func (l *Lifeline) Interrupted(nth int, op func(context.Context) error) (step string) {
	l.t.Helper()
	ctx, cancel := context.WithCancel(l.ctx)
	defer cancel()
	l.f.Observe(func(name string) {
		if nth--; nth == 0 {
			step = name
			cancel()
		}
	})
	defer l.f.Observe(nil)
	if err := op(ctx); err != nil && step == "" {
		l.t.Fatalf("operation: %v", err)
	}
	return step
}
