package qemu

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/lull-backup/lull/snapshot"
)

// died is what a process ends with at a step of an operation.
type died struct{ step string }

// diesAt carries out an operation in a process that dies at its nth step. It returns the
// name of the step; empty: the operation came to its end before.
func (l *lifeline) diesAt(n int, op func() error) (step string) {
	l.t.Helper()
	at := 0
	return l.diesWhere(func(string) bool { at++; return at == n }, op)
}

// diesWhere is diesAt for the first of some steps.
func (l *lifeline) diesWhere(here func(step string) bool, op func() error) (step string) {
	l.t.Helper()
	l.host.opt.Observe = func(_, name string) {
		if here(name) {
			panic(died{name})
		}
	}
	defer func() {
		l.host.opt.Observe = nil
		if p := recover(); p != nil {
			d, ok := p.(died)
			if !ok {
				panic(p)
			}
			step = d.step
			l.host.Close()
			l.host = l.testVM.host()
		}
	}()
	if err := op(); err != nil {
		l.t.Fatalf("operation: %v", err)
	}
	return ""
}

// recovers is the next start of lull.
func (l *lifeline) recovers(step string) {
	l.t.Helper()
	if _, err := l.host.RecoverCheckpoints(l.ctx, "web"); err != nil {
		l.t.Fatalf("recovery after death at %s: %v", step, err)
	}
	if found, err := l.host.RecoverCheckpoints(l.ctx, "web"); err != nil || found {
		l.t.Fatalf("the second recovery after death at %s: %v, %v", step, found, err)
	}
}

// powerLoss ends QEMU too, and starts it anew from the paths of its disks: before lull is
// started again, or after.
func (l *lifeline) powerLoss(step string, vmFirst bool) {
	l.t.Helper()
	l.kill()
	if vmFirst {
		l.start(l.disks)
		_, err := l.host.RecoverCheckpoints(l.ctx, "web")
		if errors.Is(err, snapshot.ErrDiverged) { // said: stop the VM
			l.kill()
			l.recovers(step)
			l.start(l.disks)
			return
		}
	}
	l.recovers(step)
	if !vmFirst {
		l.start(l.disks)
	}
}

// operation is one that is cut off: prepare makes what it needs, and tells which
// checkpoint it is about.
type operation struct {
	prepare func(l *lifeline) (id string)
	do      func(l *lifeline, id string) error
}

// inMemoryWiped is inMemory of a VM whose files are wiped, if they are.
func inMemoryWiped(wiped bool) func(*testVM) {
	return func(v *testVM) {
		inMemory(v)
		v.wipe = wiped
	}
}

func operations() map[string]operation {
	grow := func(l *lifeline, n int) (ids []string) {
		for range n {
			l.writes()
			ids = append(ids, l.create(snapshot.NewCheckpoint{}))
		}
		l.writes()
		return ids
	}
	remove := func(l *lifeline, id string) error { return l.host.DeleteCheckpoints(l.ctx, "web", id, false) }
	return map[string]operation{
		"create": {
			func(l *lifeline) string { l.writes(); return "" },
			func(l *lifeline, _ string) error {
				_, err := l.host.CreateCheckpoint(l.ctx, "web", snapshot.NewCheckpoint{})
				return err
			},
		},
		"apply": {
			func(l *lifeline) string { return grow(l, 2)[0] },
			func(l *lifeline, id string) error {
				_, err := l.host.ApplyCheckpoint(l.ctx, "web", id, true)
				return err
			},
		},
		"delete the middle": {func(l *lifeline) string { return grow(l, 3)[1] }, remove},
		"delete the first":  {func(l *lifeline) string { return grow(l, 2)[0] }, remove},
		"delete the newest": {func(l *lifeline) string { return grow(l, 2)[1] }, remove},
		"delete the only":   {func(l *lifeline) string { return grow(l, 1)[0] }, remove},
	}
}

// cutOff lets an operation die at each of its steps in turn, with what comes then, and proves
// each time that the VM and its checkpoints are right.
func cutOff(t *testing.T, l *lifeline, op operation, then func(step string, n int)) {
	for n := 1; ; n++ {
		l.merged()
		id := op.prepare(l)
		step := l.diesAt(n, func() error { return op.do(l, id) })
		if step != "" {
			then(step, n)
		}
		tree := l.tree()
		if want, ok := l.kept[id]; ok && tree.Now == id && !slices.ContainsFunc(tree.List, func(c snapshot.Checkpoint) bool { return c.ID == id && c.Deleted }) && op.applied(tree, l) {
			for d, b := range want {
				l.want[d] = slices.Clone(b)
			}
		}
		l.forget()
		l.rightAfter(fmt.Sprintf("death at %q (%d)", step, n))
		if step == "" || t.Failed() {
			return
		}
	}
}

// applied tells whether the VM went back: nothing rests upon the newest checkpoint then.
func (operation) applied(tree snapshot.Checkpoints, l *lifeline) bool {
	return len(tree.List) == 2 && tree.Depth == 1
}

// merged begins anew.
func (l *lifeline) merged() {
	l.t.Helper()
	if err := l.host.MergeCheckpoints(l.ctx, "web"); err != nil {
		l.t.Fatalf("MergeCheckpoints: %v", err)
	}
	l.forget()
}

func (l *lifeline) rightAfter(what string) {
	l.t.Helper()
	failed := l.t.Failed()
	l.right()
	if l.t.Failed() && !failed {
		l.t.Errorf("that was after %s", what)
	}
}

// lull dies at every step of every operation, and QEMU goes on.
func TestCheckpointKilled(t *testing.T) {
	t.Parallel()
	for name, op := range operations() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLifeline(t, shape{format: snapshot.FormatQcow2, drive: true, bus: "virtio", disks: 2}, inMemoryWiped(true))
			cutOff(t, l, op, func(step string, _ int) { l.recovers(step) })
		})
	}
}

// lull dies at every step with a VM that runs, whose memory is kept or brought back: it
// runs on.
func TestCheckpointKilledWithMemory(t *testing.T) {
	t.Parallel()
	withMemory := snapshot.NewCheckpoint{Memory: true}
	for name, op := range map[string]operation{
		"create": {
			func(l *lifeline) string { l.writes(); return "" },
			func(l *lifeline, _ string) error {
				_, err := l.host.CreateCheckpoint(l.ctx, "web", withMemory)
				return err
			},
		},
		"apply": {
			func(l *lifeline) string {
				l.writes()
				id := l.create(withMemory)
				l.writes()
				l.create(snapshot.NewCheckpoint{})
				l.writes()
				return id
			},
			func(l *lifeline, id string) error {
				_, err := l.host.ApplyCheckpoint(l.ctx, "web", id, false)
				return err
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLifeline(t, shape{format: snapshot.FormatQcow2, bus: "virtio", disks: 1}, inMemoryWiped(name == "create"))
			l.ask("cont", nil, nil)
			loads := func() int { return 0 }
			do := op.do
			op.do = func(l *lifeline, id string) error {
				loads = l.loads()
				return do(l, id)
			}
			cutOff(t, l, op, func(step string, n int) {
				if n%2 == 0 { // who stands by comes first
					if err := l.host.ReleaseCheckpoint(l.ctx, "web"); err != nil {
						t.Fatalf("release after death at %s: %v", step, err)
					}
					l.named("after death at " + step)
				} else {
					l.recovers(step)
				}
				if s := l.state(); s != "running" {
					t.Errorf("after death at %s the VM is %s", step, s)
				}
				l.recovers(step)
				if n := loads(); n > 1 {
					t.Errorf("after death at %s the memory is loaded %d times", step, n)
				}
			})
		})
	}
}

// The whole host dies at every step, and the VM is started from the paths that its disks
// always had.
func TestCheckpointPowerLoss(t *testing.T) {
	t.Parallel()
	for name, op := range operations() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			wiped := name == "apply" || name == "delete the only" // what puts one image in the place of another
			l := newLifeline(t, shape{format: snapshot.FormatQcow2, bus: "virtio", disks: 2}, inMemoryWiped(wiped))
			cutOff(t, l, op, func(step string, n int) { l.powerLoss(step, n%2 == 0) })
		})
	}
}
