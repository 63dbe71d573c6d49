package snapshottest

import (
	"fmt"
	"math/rand/v2"

	"github.com/lull-backup/lull/snapshot"
)

// strolls is how long a walk is.
const strolls = 12

// walk does what comes to its mind, the same each time, and holds all of it against the
// model after each step.
func (l *Lifeline) walk() {
	r := rand.New(rand.NewPCG(seed(l.t), 0))
	for i := range strolls {
		l.Writes()
		what := l.stroll(r, i)
		l.t.Logf("%d: %s", i, what)
		if l.now(); i%4 == 3 { // what has become of a checkpoint stays
			l.Right()
		}
		if l.t.Failed() {
			l.t.FailNow()
		}
	}
	l.Merge()
	l.Right()
}

func (l *Lifeline) stroll(r *rand.Rand, i int) (what string) {
	tree := l.outline()
	one := func() snapshot.Checkpoint { return tree.List[r.IntN(len(tree.List))] }
	switch n := r.IntN(16); {
	case len(tree.List) == 0 || n < 4:
		c := snapshot.NewCheckpoint{Name: fmt.Sprintf("c%d", i), Memory: n%2 == 1}
		return fmt.Sprintf("created %s %+v", l.Create(c), c)
	case n < 7:
		c, cold := one(), n == 4
		if c.Deleted {
			l.unknown(l.VM, c.ID, snapshot.ErrNoCheckpoint)
			return "not applied " + c.ID
		}
		l.Apply(c.ID, cold)
		return fmt.Sprintf("applied %s, cold %v", c.ID, cold)
	case n < 9:
		c := one()
		if !c.Deleted {
			l.Delete(c.ID, n == 8)
		}
		return fmt.Sprintf("deleted %s, subtree %v", c.ID, n == 8)
	case n == 9 && len(tree.List) > 4:
		l.Merge()
		return "merged"
	case n == 10:
		return l.whileOff(one(), i)
	case n == 11:
		l.backup(fmt.Sprintf("run%d", i))
		return "backed up"
	}
	return l.mishap(r)
}

// whileOff kills the VM, and does something to its tree before it starts again.
func (l *Lifeline) whileOff(c snapshot.Checkpoint, i int) (what string) {
	l.Off()
	defer l.Boot()
	l.now()
	switch {
	case c.Deleted || i%3 == 0:
		return "off"
	case i%3 == 1:
		l.Delete(c.ID, false)
		what = "deleted while off: "
	default:
		l.Apply(c.ID, true)
		what = "applied while off: "
	}
	l.now()
	return what + c.ID
}

// backup is a run, which leaves the tree alone.
func (l *Lifeline) backup(run string) {
	before := l.outline()
	p := l.plan(run)
	l.prepare(p)
	l.take(p)
	frozen := l.Copy()
	l.Writes()
	f := l.open(p)
	l.frozen(f, frozen)
	l.close(f)
	l.merge(p)
	l.follows("a backup", before)
}

// mishap cuts something off.
func (l *Lifeline) mishap(r *rand.Rand) (what string) {
	ops := operations()
	op := ops[r.IntN(len(ops))]
	id, before := l.ready(op)
	nth := 1 + r.IntN(12)
	if r.IntN(2) == 0 {
		what = fmt.Sprintf("interrupted %s of %q at %q", op.name, id, l.Interrupted(nth, op.on(l, id)))
	} else {
		n := 0
		step := l.Dies(func(string) bool { n++; return n == nth }, op.on(l, id))
		what = fmt.Sprintf("died of %s of %q at %q", op.name, id, step)
	}
	l.Recovers(what)
	l.came(op, id, before)
	return what
}
