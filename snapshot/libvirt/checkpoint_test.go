package libvirt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/guesttest"
	"github.com/lull-backup/lull/snapshot/libvirt/rpc"
	"github.com/lull-backup/lull/snapshot/qemu"
)

// lifeline is a domain with checkpoints, and what each of them has to hold.
type lifeline struct {
	*bench
	t    *testing.T
	ctx  context.Context
	host *Host
	at   func(step string)            // is told of each step
	want map[string][]byte            // of the domain now, by disk
	kept map[string]map[string][]byte // of checkpoints, by ID
}

func newLifeline(t *testing.T, b *bench) *lifeline {
	t.Helper()
	b.t = t
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	t.Cleanup(cancel)
	l := &lifeline{bench: b, t: t, ctx: ctx, want: map[string][]byte{}, kept: map[string]map[string][]byte{}}
	b.start(t)
	l.reopen()
	for _, d := range []string{"vda", "sda"} {
		l.want[d] = b.content(t, d)
	}
	return l
}

// reopen is another process of lull's.
func (l *lifeline) reopen() {
	if l.host != nil {
		l.host.Close()
	}
	l.host = NewHost(l.daemon.Address(), Options{
		QEMU: qemu.Options{RuntimeDir: l.dom.Dir + "/run", CheckpointDir: filepath.Join(l.dom.Dir, "trees"), Observe: func(_, step string) {
			if l.at != nil {
				l.at(step)
			}
		}},
		Wipe: func(string) bool { return true },
	})
	l.t.Cleanup(func() { l.host.Close() })
}

// writes lets the guest write something new to every disk.
func (l *lifeline) writes() {
	l.t.Helper()
	l.fill++
	for disk := range l.want {
		off := int64(l.fill%7) << 18
		if err := l.write(disk, off, 300<<10, l.fill); err != nil {
			l.t.Fatalf("write as the guest: %v", err)
		}
		copy(l.want[disk][off:], bytes.Repeat([]byte{l.fill}, 300<<10))
	}
}

func (l *lifeline) create(n snapshot.NewCheckpoint) string {
	l.t.Helper()
	c, err := l.host.CreateCheckpoint(l.ctx, "web", n)
	if err != nil {
		l.t.Fatalf("CreateCheckpoint: %v", err)
	}
	l.kept[c.ID] = clones(l.want)
	return c.ID
}

func clones(disks map[string][]byte) map[string][]byte {
	same := map[string][]byte{}
	for d, b := range disks {
		same[d] = slices.Clone(b)
	}
	return same
}

func (l *lifeline) apply(id string, cold bool) {
	l.t.Helper()
	if _, err := l.host.ApplyCheckpoint(l.ctx, "web", id, cold); err != nil {
		l.t.Fatalf("ApplyCheckpoint: %v", err)
	}
	l.want = clones(l.kept[id])
}

func (l *lifeline) remove(id string, subtree bool) {
	l.t.Helper()
	if err := l.host.DeleteCheckpoints(l.ctx, "web", id, subtree); err != nil {
		l.t.Fatalf("DeleteCheckpoints: %v", err)
	}
}

func (l *lifeline) tree() snapshot.Checkpoints {
	l.t.Helper()
	tree, err := l.host.Checkpoints(l.ctx, "web")
	if err != nil {
		l.t.Fatalf("Checkpoints: %v", err)
	}
	return tree
}

// right proves that the domain and all checkpoints hold what they have to, that both
// definitions name what the domain is on, and that nothing else is there.
func (l *lifeline) right() {
	l.t.Helper()
	tree := l.tree()
	if tree.Pending != "" || len(tree.Missing)+len(tree.Unowned) > 0 {
		l.t.Errorf("pending %q, missing %v, unowned %v", tree.Pending, tree.Missing, tree.Unowned)
	}
	for disk, want := range l.want {
		if !bytes.Equal(l.content(l.t, disk), want) {
			l.t.Errorf("disk %s is not what the guest wrote", disk)
		}
	}
	err := l.host.onTree(l.ctx, "web", func(c *checkpointing) error {
		s, err := c.look(l.ctx)
		if err != nil {
			return err
		}
		for _, d := range s.next.disks {
			if len(d.backing) > 0 {
				return fmt.Errorf("the next start has layers of its own for %s: %v", d.target, d.backing)
			}
		}
		for _, n := range c.tree.Nodes {
			if n.Gone {
				continue
			}
			for i, d := range c.tree.Disks {
				if !bytes.Equal(l.image(n.Images[i]), l.kept[n.ID][d.Name]) {
					l.t.Errorf("disk %s of checkpoint %s (%q, upon %q) is not what it was", d.Name, n.ID, n.Name, n.Parent)
				}
			}
		}
		if len(c.tree.Nodes) == 0 {
			return nil
		}
		return errors.Join(c.atHome(s), c.clear(l.ctx, s))
	})
	if err != nil {
		l.t.Error(err)
	}
	if len(tree.List) == 0 {
		l.alone()
	}
}

// alone proves that the domain has its disks at their first paths, and no file beside them.
func (l *lifeline) alone() {
	l.t.Helper()
	for _, path := range l.files(l.t) {
		if strings.Contains(path, ".lull-") {
			l.t.Errorf("left: %s", path)
		}
	}
	text, err := l.conn.XML(l.ctx, l.dom.ID, rpc.XMLInactive)
	if err != nil || !strings.Contains(text, "'"+l.dom.Disks[0]+"'") || !strings.Contains(text, "'"+l.dom.Disks[1]+"'") {
		l.t.Errorf("the definition is not that of before: %v\n%s", err, text)
	}
}

// image is the content of a file that the domain may have open.
func (l *lifeline) image(path string) []byte {
	l.t.Helper()
	out := filepath.Join(l.dom.Dir, "image")
	defer os.Remove(out)
	shell(l.t, "qemu-img", "convert", "-U", "-f", "qcow2", "-O", "raw", path, out)
	content, err := os.ReadFile(out)
	if err != nil {
		l.t.Fatal(err)
	}
	return content
}

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

// Checkpoints of a domain, on one daemon: a tree of them, what stands in the way of one, and
// an operation that is cut off at each of its steps.
func TestCheckpoints(t *testing.T) {
	t.Parallel()
	b := newBench(t, false, guesttest.Disk{Size: diskSize}, guesttest.Disk{Size: diskSize, Bus: guesttest.VirtioSCSI})
	t.Run("Tree", func(t *testing.T) { checkpointTree(newLifeline(t, b)) })
	t.Run("Refused", func(t *testing.T) { checkpointRefused(newLifeline(t, b)) })
	t.Run("Daemon", func(t *testing.T) { checkpointDaemon(newLifeline(t, b)) })
	t.Run("CutOff", func(t *testing.T) { checkpointCutOff(newLifeline(t, b)) })
}

func checkpointTree(l *lifeline) {
	l.writes()
	a := l.create(snapshot.NewCheckpoint{Name: "a"})
	l.writes()
	b := l.create(snapshot.NewCheckpoint{Name: "b", Memory: true})
	l.writes()
	l.right()
	l.apply(a, false)
	l.writes()
	c := l.create(snapshot.NewCheckpoint{})
	l.writes()
	l.right()
	l.apply(b, false) // with its memory
	l.right()
	l.writes()
	d := l.create(snapshot.NewCheckpoint{})
	l.writes()
	if tree := l.tree(); tree.Now != d || tree.Depth != 3 || len(tree.List) != 4 || tree.List[2].Parent != a || tree.Growth == 0 {
		l.t.Errorf("tree %+v", tree)
	}
	l.crash(l.t)
	l.renamed(b, c)
	l.apply(b, false) // off, and runs then
	l.start(l.t)
	l.remove(d, false)
	d = l.create(snapshot.NewCheckpoint{})
	l.writes()
	l.remove(b, false) // between a and d, where the domain runs
	l.right()
	l.remove(a, false) // shared by c and d
	l.right()
	if tree := l.tree(); len(tree.List) != 3 || !tree.List[0].Deleted {
		l.t.Errorf("tree %+v", tree)
	}
	l.crash(l.t)
	l.right()
	l.apply(c, true) // off, and stays so
	if l.pid() != 0 {
		l.t.Error("the domain was started")
	}
	l.right()
	l.remove(d, false) // a is c's alone then: folded beside the domain that is off
	l.right()
	l.start(l.t)
	l.writes()
	l.backedUp()
	l.merge()
	l.right()
}

// renamed: the tree follows a domain that is off and gets another name. Its memories do not.
func (l *lifeline) renamed(memory, disks string) {
	l.t.Helper()
	l.virsh("domrename", "web", "other")
	_, err := l.host.ApplyCheckpoint(l.ctx, "other", memory, false)
	var hinted *snapshot.Hinted
	if !errors.Is(err, snapshot.ErrUnsupported) || !errors.As(err, &hinted) || !strings.Contains(hinted.Next, "virsh domrename other web") {
		l.t.Errorf("memory under another name: %v", err)
	}
	if _, err := l.host.ApplyCheckpoint(l.ctx, "other", disks, true); err != nil {
		l.t.Error(err)
	}
	l.virsh("domrename", "other", "web")
	l.want = clones(l.kept[disks])
	l.right()
}

// backedUp: a run reads the domain as it is, and leaves its tree alone.
func (l *lifeline) backedUp() {
	l.t.Helper()
	p, err := l.host.Plan(l.ctx, "web", "run")
	if err != nil {
		l.t.Fatal(err)
	}
	r := &run{bench: l.bench, t: l.t, ctx: l.ctx, host: l.host, plan: p, want: clones(l.want), taken: map[string][]byte{}}
	if err := l.host.Prepare(l.ctx, p); err != nil {
		l.t.Fatal(err)
	}
	r.take()
	f, err := l.host.Open(l.ctx, p)
	if err != nil {
		l.t.Fatal(err)
	}
	r.frozen(f)
	if err := errors.Join(f.Close(), l.host.Merge(l.ctx, p)); err != nil {
		l.t.Fatal(err)
	}
	l.want = r.want
	l.right()
}

// checkpointRefused: what is the user's stays so.
func checkpointRefused(l *lifeline) {
	refused := func(what string, want error, next string) {
		l.t.Helper()
		_, err := l.host.CreateCheckpoint(l.ctx, "web", snapshot.NewCheckpoint{})
		var hinted *snapshot.Hinted
		if !errors.Is(err, want) || !errors.As(err, &hinted) || !strings.Contains(hinted.Next, next) {
			l.t.Errorf("%s: %v", what, err)
		}
		l.right()
	}
	l.host.opt.CheckpointStop = time.Nanosecond
	if _, err := l.host.CreateCheckpoint(l.ctx, "web", snapshot.NewCheckpoint{Memory: true}); err != nil && !errors.Is(err, errTooLong) {
		l.t.Errorf("a memory that takes too long: %v", err)
	}
	l.host.opt.CheckpointStop = 0
	l.merge()
	l.right()
	l.virsh("snapshot-create-as", "web", "mine")
	refused("a snapshot of the user's", snapshot.ErrBusy, "virsh snapshot-delete web")
	l.virsh("snapshot-delete", "web", "mine")
	l.virsh("checkpoint-create-as", "web", "mine")
	refused("a checkpoint of the user's", snapshot.ErrBusy, "virsh checkpoint-delete web")
	l.virsh("checkpoint-delete", "web", "mine")

	id := l.create(snapshot.NewCheckpoint{})
	own := ".lull-" + id + ".layer"
	at := ""
	l.edit(func(xml string) string {
		at = xml
		return strings.Replace(xml, own, "", 1)
	})
	_, err := l.host.CreateCheckpoint(l.ctx, "web", snapshot.NewCheckpoint{})
	var hinted *snapshot.Hinted
	if !errors.Is(err, snapshot.ErrDiverged) || !errors.As(err, &hinted) || !strings.Contains(hinted.Next, "virsh edit") {
		l.t.Errorf("another definition: %v", err)
	}
	l.edit(func(string) string { return at })
	l.merge()
	l.right()
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

	// And while it moves the domain.
	if err != nil {
		l.create(snapshot.NewCheckpoint{})
	}
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

// unaware moves QEMU to the images of the operation under way, as libvirt would.
func (l *lifeline) unaware() {
	l.t.Helper()
	var fresh map[string]string
	err := l.host.onTree(l.ctx, "web", func(c *checkpointing) error {
		fresh = c.targets(c.fresh(c.tree.Op.Run))
		return nil
	})
	var actions []map[string]any
	for disk, path := range fresh {
		on, atErr := l.bench.at(disk)
		node := "forgotten-" + disk
		err = errors.Join(err, atErr, l.monitor("blockdev-add", map[string]any{"node-name": node, "driver": "qcow2", "backing": nil,
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

// checkpointCutOff: lull dies at each step, and each operation comes right at its next start:
// with the domain that runs on, or where the host has lost its power.
func checkpointCutOff(l *lifeline) {
	none := func(step string) {
		if n := len(l.tree().List); n > 0 {
			l.t.Errorf("dead at %s: %d checkpoints", step, n)
		}
		clear(l.kept)
	}
	l.each(cut{at: []string{"create-begun", "create-made", "create-frozen"}, lost: []string{"create-frozen"}, came: none, op: func() error {
		_, err := l.host.CreateCheckpoint(l.ctx, "web", snapshot.NewCheckpoint{Memory: true})
		return err
	}})
	id := l.tree().Now
	l.kept[id] = clones(l.want)
	l.each(cut{
		at:   []string{"apply-begun", "apply-made", "apply-switching", "apply-ended", "apply-defined", "apply-started", "sweep"},
		lost: []string{"apply-switching", "apply-defined", "apply-started"}, came: func(string) { l.wentBack(id) }, op: func() error {
			_, err := l.host.ApplyCheckpoint(l.ctx, "web", id, false)
			return err
		},
	})
	l.wentBack(id)
	l.each(cut{
		at:   []string{"delete-marked", "fold-begun", "fold-pivoting", "fold-pivoted", "fold-disk", "fold-defined", "fold-done", "sweep"},
		lost: []string{"fold-begun", "fold-pivoting", "fold-disk", "fold-defined"}, came: none, op: func() error {
			if len(l.kept) == 0 {
				l.create(snapshot.NewCheckpoint{})
				l.writes()
			}
			return l.host.MergeCheckpoints(l.ctx, "web")
		},
	})
	clear(l.kept)
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

// merge removes all checkpoints.
func (l *lifeline) merge() {
	l.t.Helper()
	if err := l.host.MergeCheckpoints(l.ctx, "web"); err != nil {
		l.t.Fatal(err)
	}
	clear(l.kept)
}
