package libvirt

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/libvirt/rpc"
)

// died is what a process ends with at a step of an operation.
type died struct{ step string }

// dies carries out an operation in a process that dies at the first of some steps, and then
// starts another one. It returns the name of the step; empty: the operation came to its end.
func (l *lifeline) dies(here func(step string) bool, op func() error) (step string) {
	l.t.Helper()
	l.at = func(name string) {
		if here(name) {
			panic(died{name})
		}
	}
	defer func() {
		l.at = nil
		if p := recover(); p != nil {
			d, ok := p.(died)
			if !ok {
				panic(p)
			}
			step = d.step
			l.reopen()
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

// checkpointDaemon: libvirt's daemon dies.
func checkpointDaemon(l *lifeline) {
	// QEMU has taken the snapshot, and libvirt has died before it noted that.
	at := func(step string) bool { return step == "create-made" }
	if l.dies(at, func() error {
		_, err := l.host.CreateCheckpoint(l.ctx, "web", snapshot.NewCheckpoint{})
		return err
	}) == "" {
		l.t.Fatal("no such step")
	}
	l.unaware()
	l.writes()
	l.recovers("an unaware daemon")
	l.right()
	l.unheard()

	// It dies while the memory is written.
	died := make(chan error, 1)
	l.at = func(step string) {
		if step != "create-made" {
			return
		}
		go func() {
			until(l.ctx.Done(), func() bool {
				saved, err := filepath.Glob(filepath.Join(l.dom.Dir, "*.memory"))
				return err != nil || len(saved) > 0
			})
			l.daemon.Kill()
			died <- l.daemon.Restart(l.ctx)
		}()
	}
	c, err := l.host.CreateCheckpoint(l.ctx, "web", snapshot.NewCheckpoint{Memory: true})
	l.at = nil
	if err := <-died; err != nil {
		l.t.Fatal(err)
	}
	l.conn = l.daemon.Dial(l.whole)
	l.t.Logf("the daemon died as it wrote the memory: %v", err)
	if err == nil {
		l.kept[c.ID] = clones(l.want)
	}
	eventually(l.t, "the domain runs", func() error {
		state, why, err := l.conn.State(l.ctx, l.dom.ID)
		if err == nil && state != rpc.StateRunning {
			err = fmt.Errorf("state %d, %d", state, why)
		}
		return err
	})
	l.writes()
	l.right()

	// And while it goes back.
	if err != nil {
		c.ID = l.create(snapshot.NewCheckpoint{Memory: true})
	}
	l.restarting(c.ID)

	// And while it moves the domain.
	l.writes()
	l.at = func(step string) {
		if step == "fold-pivoting" {
			l.at = nil
			l.daemon.Kill()
			died <- l.daemon.Restart(l.ctx)
		}
	}
	err = l.host.MergeCheckpoints(l.ctx, "web")
	l.t.Logf("the daemon died as it moved the domain: %v", err)
	if err := <-died; err != nil {
		l.t.Fatal(err)
	}
	l.conn = l.daemon.Dial(l.whole)
	l.merge()
	l.right()
}

// unheard: QEMU ends before anybody has told libvirt that it moved. What the guest wrote last is
// not thrown away.
func (l *lifeline) unheard() {
	l.t.Helper()
	if l.dies(func(step string) bool { return step == "create-made" }, func() error {
		_, err := l.host.CreateCheckpoint(l.ctx, "web", snapshot.NewCheckpoint{})
		return err
	}) == "" {
		l.t.Fatal("no such step")
	}
	fresh := l.fresh()
	l.unaware()
	l.writes()
	l.crash(l.t)
	_, err := l.host.RecoverCheckpoints(l.ctx, "web")
	var hinted *snapshot.Hinted
	if !errors.Is(err, snapshot.ErrUncertain) || !errors.As(err, &hinted) || !strings.Contains(hinted.Next, fresh["vda"]+", "+fresh["sda"]+" (virsh edit web)") {
		l.t.Errorf("what the guest wrote to images that libvirt does not know of: %v", err)
	}
	l.edit(func(xml string) string {
		return strings.NewReplacer("'"+l.dom.Disks[0]+"'", "'"+fresh["vda"]+"'", "'"+l.dom.Disks[1]+"'", "'"+fresh["sda"]+"'").Replace(xml)
	})
	l.recovers("an unaware daemon and QEMU")
	l.right()
	l.start(l.t)
}

// unaware moves QEMU to the images of the operation under way, as libvirt would.
func (l *lifeline) unaware() {
	l.t.Helper()
	fresh := l.fresh()
	var actions []map[string]any
	for disk, path := range fresh {
		on, err := l.bench.at(disk)
		node := "forgotten-" + disk
		err = errors.Join(err, l.monitor("blockdev-add", map[string]any{"node-name": node, "driver": "qcow2", "backing": nil,
			"file": map[string]any{"driver": "file", "filename": path}}, nil))
		if err != nil {
			l.t.Fatal(err)
		}
		actions = append(actions, map[string]any{"type": "blockdev-snapshot", "data": map[string]any{"node": on.Inserted.Node, "overlay": node}})
	}
	if err := l.monitor("transaction", map[string]any{"actions": actions}, nil); err != nil {
		l.t.Fatal(err)
	}
}

// fresh are the images that the operation under way makes, by disk.
func (l *lifeline) fresh() (images map[string]string) {
	l.t.Helper()
	err := l.host.onTree(l.ctx, "web", func(c *checkpointing) error {
		images = c.targets(c.fresh(c.tree.Op.Run))
		return nil
	})
	if err != nil {
		l.t.Fatal(err)
	}
	return images
}

// checkpointCutOff: lull dies at the steps that differ in what they leave, and each operation comes right at its next start:
// with the domain that runs on, or where the host has lost its power.
func checkpointCutOff(l *lifeline) {
	none := func(step string) {
		if n := len(l.tree().List); n > 0 {
			l.t.Errorf("dead at %s: %d checkpoints", step, n)
		}
		clear(l.kept)
	}
	l.each(cut{at: []string{"create-made", "create-frozen"}, lost: []string{"create-frozen"}, came: none, op: func() error {
		_, err := l.host.CreateCheckpoint(l.ctx, "web", snapshot.NewCheckpoint{Memory: true})
		return err
	}})
	id := l.tree().Now
	l.kept[id] = clones(l.want)
	l.each(cut{
		at:   []string{"apply-made", "apply-ended", "apply-defined", "apply-started", "sweep"},
		lost: []string{"apply-started"}, came: func(string) { l.wentBack(id) }, op: func() error {
			_, err := l.host.ApplyCheckpoint(l.ctx, "web", id, false)
			return err
		},
	})
	l.wentBack(id)
	l.wroteOn(id)
	l.edited(id)
	l.loading(id)
	l.leftPaused(id)
	l.unmounted(id)
	l.each(cut{
		at:   []string{"delete-marked", "fold-pivoting", "fold-pivoted", "fold-disk", "fold-defined", "sweep"},
		lost: []string{"fold-pivoting", "fold-defined"}, came: none, op: func() error {
			if len(l.kept) == 0 {
				l.create(snapshot.NewCheckpoint{})
				l.writes()
			}
			return l.host.MergeCheckpoints(l.ctx, "web")
		},
	})
	clear(l.kept)
	l.savedMeanwhile()
	l.jobMeanwhile()
	l.differing()
	l.each(cut{at: []string{"fold-disk", "fold-repointed"}, lost: []string{"fold-disk"}, came: func(step string) {
		if n := len(l.tree().List); n != 1 {
			l.t.Errorf("dead at %s: %d checkpoints", step, n)
		}
		l.merge()
	}, op: func() error {
		lower := l.create(snapshot.NewCheckpoint{})
		l.writes()
		l.create(snapshot.NewCheckpoint{})
		l.writes()
		return l.host.DeleteCheckpoints(l.ctx, "web", lower, false)
	}})
	l.merge()
	l.right()
}

// wroteOn: what a domain has written between the death of lull and the next start stays, wherever
// it was by then; and a domain that lull may have ended does not stay off.
func (l *lifeline) wroteOn(id string) {
	l.t.Helper()
	for _, at := range []string{"apply-switching", "apply-started"} {
		l.diesApplying(id, at)
		moved := at == "apply-started"
		if moved {
			l.want = clones(l.kept[id])
		}
		l.writes()
		if err := l.conn.Destroy(l.ctx, l.dom.ID, true); err != nil {
			l.t.Fatal(err)
		}
		l.recovers(at)
		if on := l.pid() != 0; on == moved {
			l.t.Errorf("dead at %s: the domain is on: %v", at, on)
		}
		l.right()
		l.start(l.t)
		if l.t.Failed() {
			l.t.Fatalf("dead at %s", at)
		}
	}
}

// edited: what its user has made of the definition meanwhile is not undone.
func (l *lifeline) edited(id string) {
	l.t.Helper()
	l.diesApplying(id, "apply-made")
	const own = ".layer'"
	at := ""
	l.edit(func(xml string) string {
		at = xml
		return strings.Replace(xml, own, "'", 1)
	})
	if _, err := l.host.RecoverCheckpoints(l.ctx, "web"); !errors.Is(err, snapshot.ErrDiverged) {
		l.t.Errorf("recovery of a domain with another definition: %v", err)
	}
	now, err := l.conn.XML(l.ctx, l.dom.ID, rpc.XMLInactive)
	if err != nil || strings.Count(now, own) != strings.Count(at, own)-1 {
		l.t.Errorf("the definition was changed: %v\n%s", err, now)
	}
	l.edit(func(string) string { return at })
	l.recovers("apply-made")
	l.right()
}

// diesApplying lets the guest write, and lull die at a step of going back.
func (l *lifeline) diesApplying(id, at string) {
	l.t.Helper()
	l.writes()
	step := l.dies(func(step string) bool { return step == at }, func() error {
		_, err := l.host.ApplyCheckpoint(l.ctx, "web", id, false)
		return err
	})
	if step != at {
		l.t.Fatalf("no step %q", at)
	}
}

// savedMeanwhile: a merge that was cut off between two disks does not go on while libvirt keeps a
// memory that goes on with the images of then.
func (l *lifeline) savedMeanwhile() {
	l.t.Helper()
	l.create(snapshot.NewCheckpoint{})
	l.writes()
	if l.dies(func(step string) bool { return step == "fold-disk" }, func() error { return l.host.MergeCheckpoints(l.ctx, "web") }) == "" {
		l.t.Fatal("no such step")
	}
	l.virsh("managedsave", "web")
	l.refusesMerge("virsh managedsave-remove web")
	l.start(l.t)
	l.recovers("fold-disk, and a managed save")
	clear(l.kept)
	l.right()
}

// jobMeanwhile: what libvirt does for somebody else when lull takes a checkpoint back comes to its
// end.
func (l *lifeline) jobMeanwhile() {
	l.t.Helper()
	if l.dies(func(step string) bool { return step == "create-made" }, func() error {
		_, err := l.host.CreateCheckpoint(l.ctx, "web", snapshot.NewCheckpoint{})
		return err
	}) == "" {
		l.t.Fatal("no such step")
	}
	l.backingUp(func() {
		if _, err := l.host.RecoverCheckpoints(l.ctx, "web"); !errors.Is(err, snapshot.ErrBusy) {
			l.t.Errorf("during a backup of the user's: %v", err)
		}
	})
	l.recovers("create-made, and a backup of the user's")
	l.right()
}

// cut is an operation that is cut off.
type cut struct {
	at   []string // the steps at which lull dies alone
	lost []string // and those at which the host loses its power
	op   func() error
	came func(step string) // looks at what has become of it
}

// each carries an operation out again and again, cut off at another step each time; then to its
// end.
func (l *lifeline) each(c cut) {
	l.t.Helper()
	for i, at := range append(append(c.at, c.lost...), "") {
		l.writes()
		step := l.dies(func(step string) bool { return step == at }, c.op)
		if step != at {
			l.t.Fatalf("no step %q", at)
		}
		if step == "" {
			return
		}
		if i >= len(c.at) && l.pid() != 0 {
			l.crash(l.t)
		}
		l.recovers(step)
		l.start(l.t)
		c.came(step)
		l.right()
		if l.t.Failed() {
			l.t.Fatalf("dead at %s", step)
		}
	}
}

// wentBack: the domain is as it was, or as the checkpoint.
func (l *lifeline) wentBack(id string) {
	l.t.Helper()
	if bytes.Equal(l.content(l.t, "vda"), l.kept[id]["vda"]) {
		l.want = clones(l.kept[id])
	}
}
