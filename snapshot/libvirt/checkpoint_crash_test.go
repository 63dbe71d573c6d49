package libvirt

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/libvirt/rpc"
	"github.com/lull-backup/lull/snapshot/snapshottest"
)

// checkpointDaemon: libvirt's daemon dies.
func checkpointDaemon(l *lifeline) {
	// QEMU has taken the snapshot, and libvirt has died before it noted that.
	l.DiesIn("create-made", func(ctx context.Context) error { return l.TryCreate(ctx, snapshot.NewCheckpoint{}) })
	l.unaware()
	l.Writes()
	l.Recovers("an unaware daemon")
	l.Right()
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
		l.Keep(c)
	}
	eventually(l.t, "the domain runs", func() error {
		state, why, err := l.conn.State(l.ctx, l.dom.ID)
		if err == nil && state != rpc.StateRunning {
			err = fmt.Errorf("state %d, %d", state, why)
		}
		return err
	})
	l.Writes()
	l.Right()

	// And while it goes back.
	if err != nil {
		c.ID = l.Create(snapshot.NewCheckpoint{Memory: true})
	}
	l.restarting(c.ID)

	// And while it moves the domain.
	l.Writes()
	l.at = func(step string) {
		if step == "fold-pivoting" {
			l.at = nil
			l.daemon.Kill()
			died <- l.daemon.Restart(l.ctx)
		}
	}
	err = l.TryMerge(l.ctx)
	l.t.Logf("the daemon died as it moved the domain: %v", err)
	if err := <-died; err != nil {
		l.t.Fatal(err)
	}
	l.conn = l.daemon.Dial(l.whole)
	l.Merge()
	l.Right()
}

// unheard: QEMU ends before anybody has told libvirt that it moved. What the guest wrote last is
// not thrown away.
func (l *lifeline) unheard() {
	l.t.Helper()
	l.DiesIn("create-made", func(ctx context.Context) error { return l.TryCreate(ctx, snapshot.NewCheckpoint{}) })
	fresh := l.fresh()
	l.unaware()
	l.Writes()
	l.Off()
	_, err := l.host.RecoverCheckpoints(l.ctx, "web")
	var hinted *snapshot.Hinted
	if !errors.Is(err, snapshot.ErrUncertain) || !errors.As(err, &hinted) || !strings.Contains(hinted.Next, fresh["vda"]+", "+fresh["sda"]+" (virsh edit web)") {
		l.t.Errorf("what the guest wrote to images that libvirt does not know of: %v", err)
	}
	l.edit(func(xml string) string {
		return strings.NewReplacer("'"+l.dom.Disks[0]+"'", "'"+fresh["vda"]+"'", "'"+l.dom.Disks[1]+"'", "'"+fresh["sda"]+"'").Replace(xml)
	})
	l.Recovers("an unaware daemon and QEMU")
	l.Right()
	l.Boot()
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

// checkpointCutOff: lull dies at the steps that differ in what they leave, and each operation
// comes right at its next start: with the domain that runs on, or where the host has lost its
// power.
func checkpointCutOff(t *testing.T, b *bench) {
	alone := map[string][]string{
		"create with memory": {"create-made", "create-frozen"},
		"apply with memory":  {"apply-made", "apply-ended", "apply-defined", "apply-started", "sweep"},
		"delete the only":    {"delete-marked", "fold-pivoting", "fold-pivoted", "fold-disk", "fold-defined", "sweep"},
		"delete the first":   {"fold-disk", "fold-repointed"},
	}
	cuts := map[string][]string{}
	for operation, lost := range map[string][]string{
		"create with memory": {"create-frozen"},
		"apply with memory":  {"apply-started"},
		"delete the only":    {"fold-pivoting", "fold-defined"},
		"delete the first":   {"fold-disk"},
	} {
		cuts[operation] = slices.Concat(alone[operation], lost)
	}
	snapshottest.RunCheckpointerCutOff(t, cuts, func(t *testing.T, operation string) *snapshottest.Lifeline {
		l := newLifeline(t, b)
		l.fix.Died = func(step string, nth int) {
			if nth > len(alone[operation]) && l.pid() != 0 {
				l.crash(t)
			}
			l.Recovers(step)
			l.start(t)
		}
		return l.Lifeline
	})
}

// checkpointMeanwhile: what others do between the death of lull and its next start.
func checkpointMeanwhile(l *lifeline) {
	l.Writes()
	id := l.Create(snapshot.NewCheckpoint{Memory: true})
	l.wroteOn(id)
	l.edited(id)
	l.loading(id)
	l.leftPaused(id)
	l.unmounted(id)
	l.Merge()
	l.savedMeanwhile()
	l.jobMeanwhile()
	l.snapshotMeanwhile()
	l.differing()
}

// wroteOn: what a domain has written between the death of lull and the next start stays, wherever
// it was by then; and a domain that lull may have ended does not stay off.
func (l *lifeline) wroteOn(id string) {
	l.t.Helper()
	for _, at := range []string{"apply-switching", "apply-started"} {
		l.diesApplying(id, at)
		moved := at == "apply-started"
		if moved {
			l.Went(id)
		}
		l.Writes()
		if err := l.conn.Destroy(l.ctx, l.dom.ID, true); err != nil {
			l.t.Fatal(err)
		}
		l.Recovers(at)
		if on := l.pid() != 0; on == moved {
			l.t.Errorf("dead at %s: the domain is on: %v", at, on)
		}
		l.On, l.State = !moved, nil
		l.Right()
		l.Boot()
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
	l.Recovers("apply-made")
	l.Right()
}

// diesApplying lets the guest write, and lull die at a step of going back.
func (l *lifeline) diesApplying(id, at string) {
	l.t.Helper()
	l.Writes()
	l.DiesIn(at, func(ctx context.Context) error { return l.TryApply(ctx, id, false) })
}

// savedMeanwhile: a merge that was cut off between two disks does not go on while libvirt keeps a
// memory that goes on with the images of then.
func (l *lifeline) savedMeanwhile() {
	l.t.Helper()
	l.Create(snapshot.NewCheckpoint{})
	l.Writes()
	l.DiesIn("fold-disk", l.TryMerge)
	l.virsh("managedsave", "web")
	l.refusesMerge("virsh managedsave-remove web")
	l.Boot()
	l.Recovers("fold-disk, and a managed save")
	l.Forget()
	l.Right()
}

// jobMeanwhile: what libvirt does for somebody else when lull takes a checkpoint back comes to its
// end.
func (l *lifeline) jobMeanwhile() {
	l.t.Helper()
	l.DiesIn("create-made", func(ctx context.Context) error { return l.TryCreate(ctx, snapshot.NewCheckpoint{}) })
	l.backingUp(func() {
		if _, err := l.host.RecoverCheckpoints(l.ctx, "web"); !errors.Is(err, snapshot.ErrBusy) {
			l.t.Errorf("during a backup of the user's: %v", err)
		}
	})
	l.Recovers("create-made, and a backup of the user's")
	l.Right()
}
