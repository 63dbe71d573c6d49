package libvirt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/checkpoint"
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
	if tree.Pending != "" || len(tree.Missing)+len(tree.Unowned)+len(tree.Astray) > 0 {
		l.t.Errorf("pending %q, missing %v, unowned %v, astray %v", tree.Pending, tree.Missing, tree.Unowned, tree.Astray)
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
		if strings.Contains(path, ".lull-") || strings.HasSuffix(path, ".xml") {
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

// Checkpoints of a domain, on one daemon: a tree of them, what stands in the way of one, and
// an operation that is cut off at its steps.
func TestCheckpoints(t *testing.T) {
	t.Parallel()
	b := newBench(t, false, guesttest.Disk{Size: diskSize}, guesttest.Disk{Size: diskSize, Bus: guesttest.VirtioSCSI})
	t.Run("Tree", func(t *testing.T) { checkpointTree(newLifeline(t, b)) })
	t.Run("Refused", func(t *testing.T) { checkpointRefused(newLifeline(t, b)) })
	t.Run("Records", func(t *testing.T) { checkpointRecords(newLifeline(t, b)) })
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
	if kept, err := filepath.Glob(filepath.Join(l.dom.Dir, "trees", "*."+a+".xml")); err != nil || len(kept) > 0 {
		l.t.Errorf("a deleted checkpoint keeps more than its images: %v, %v", kept, err)
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
	l.astray()
	erased := l.erased()
	l.merge()
	l.right()
	erased()
}

// erased holds on to the files of checkpoints, for a look at them when they are gone.
func (l *lifeline) erased() func() {
	l.t.Helper()
	var held []*os.File
	for _, files := range []string{"*.layer", "trees/*.xml"} {
		list, err := filepath.Glob(filepath.Join(l.dom.Dir, files))
		if err != nil || len(list) == 0 {
			l.t.Fatalf("no file %s: %v", files, err)
		}
		for _, path := range list {
			f, err := os.Open(path)
			if err != nil {
				l.t.Fatal(err)
			}
			held = append(held, f)
		}
	}
	return func() {
		l.t.Helper()
		for _, f := range held {
			content, err := io.ReadAll(f)
			if err := errors.Join(err, f.Close()); err != nil || len(bytes.Trim(content, "\x00")) > 0 {
				l.t.Errorf("%s was removed and not wiped: %v", f.Name(), err)
			}
		}
	}
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
	l.taken()
	l.merge()
	l.right()
	l.layered()
	l.based()
	l.saved()
	l.userActs()
	l.copied()
	l.held()
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
	if !errors.Is(err, snapshot.ErrDiverged) || !errors.As(err, &hinted) || !strings.Contains(hinted.Next, "gives its checkpoints up") {
		l.t.Errorf("another definition: %v", err)
	}
	l.edit(func(string) string { return at })
	l.merge()
	l.right()
}

// checkpointRecords: what a record of changes says is true, wherever the domain went meanwhile.
func checkpointRecords(l *lifeline) {
	since := l.recorded(nil, nil)
	before := clones(l.want)
	l.writes()
	l.create(snapshot.NewCheckpoint{})
	l.writes()
	if p := l.tracked(since); p.Disks[0].Track.Since != "" {
		l.t.Errorf("upon a checkpoint the record %s is believed", p.Disks[0].Track.Since)
	}
	l.merge()
	since, before = l.recorded(since, before), clones(l.want) // folded live, the record goes with it

	l.writes()
	id := l.create(snapshot.NewCheckpoint{})
	l.writes()
	l.apply(id, true)
	l.writes()
	l.merge()
	since, before = l.recorded(since, before), clones(l.want) // by another image than it was made in

	l.writes()
	l.create(snapshot.NewCheckpoint{})
	l.writes()
	if err := l.conn.Destroy(l.ctx, l.dom.ID, true); err != nil { // QEMU writes its bitmaps
		l.t.Fatal(err)
	}
	l.merge()
	l.start(l.t)
	l.recorded(since, before)
	l.right()
}

// tracked plans a run that reads what has changed.
func (l *lifeline) tracked(since map[string]string) snapshot.Plan {
	l.t.Helper()
	p, err := l.host.Plan(l.ctx, "web", fmt.Sprintf("night%d", l.fill))
	if err == nil {
		p, err = l.host.Track(l.ctx, p, "night", since)
	}
	if err != nil {
		l.t.Fatal(err)
	}
	return p
}

// recorded is a run that holds what its record says against what has changed. It returns the
// next records.
func (l *lifeline) recorded(since map[string]string, before map[string][]byte) map[string]string {
	l.t.Helper()
	p := l.tracked(since)
	if err := errors.Join(l.host.Prepare(l.ctx, p), l.host.Take(l.ctx, p)); err != nil {
		l.t.Fatal(err)
	}
	f, err := l.host.Open(l.ctx, p)
	if err != nil {
		l.t.Fatal(err)
	}
	next := map[string]string{}
	for _, d := range p.Disks {
		next[d.Name] = d.Track.Record
		c, err := f.(snapshot.FrozenChanges).Changes(l.ctx, d.Name)
		if err != nil {
			l.t.Fatal(err)
		}
		l.t.Logf("%s: since %q, %s", d.Name, d.Track.Since, c.Reason)
		for i := range before[d.Name] {
			if c.Since != nil && before[d.Name][i] != l.want[d.Name][i] && !c.Since.Any(int64(i), 1) {
				l.t.Errorf("disk %s: byte %d changed, and is said not to have", d.Name, i)
				break
			}
		}
	}
	if err := errors.Join(f.Close(), l.host.Merge(l.ctx, p)); err != nil {
		l.t.Fatal(err)
	}
	return next
}

// merge removes all checkpoints.
func (l *lifeline) merge() {
	l.t.Helper()
	if err := l.host.MergeCheckpoints(l.ctx, "web"); err != nil {
		l.t.Fatal(err)
	}
	clear(l.kept)
}

// TestMemoryAsksNoMore: a save image cannot give a domain what its definition did not have.
func TestMemoryAsksNoMore(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	const disk = "<disk type='file'><source file='%s'/><target dev='%s'/></disk>"
	domain := func(more string) string {
		return "<domain><name>web</name><uuid>6e031fff-2c34-465b-ae84-4bf1cb261e1c</uuid><devices>" +
			fmt.Sprintf(disk, "/own", "vda") + fmt.Sprintf(disk, "/cd.iso", "sda") + more + "</devices></domain>"
	}
	kept := filepath.Join(dir, "kept.xml")
	if err := os.WriteFile(kept, []byte(domain("")), 0o600); err != nil {
		t.Fatal(err)
	}
	c := &checkpointing{tree: checkpoint.Tree{Disks: []checkpoint.Disk{{Name: "vda"}}}}
	n := checkpoint.Node{Files: []checkpoint.File{{File: snapshot.File{Role: snapshot.RoleDefinition}, Kept: kept}}}
	for text, want := range map[string]error{
		domain(""): nil,
		strings.Replace(domain(""), "/own", "/own.layer", 1):                  nil, // it is exchanged
		domain(fmt.Sprintf(disk, "/dev/sda", "vdb")):                          snapshot.ErrUnsupported,
		strings.Replace(domain(""), "/cd.iso", "/etc/shadow", 1):              snapshot.ErrUnsupported,
		domain("<filesystem><source dir='/'/><target dir='x'/></filesystem>"): snapshot.ErrUnsupported,
		strings.Replace(domain(""), "<name>web", "<name>db", 1):               snapshot.ErrCorrupt,
	} {
		if err := c.asDefined(text, n); !errors.Is(err, want) || want == nil && err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// TestVolumes: the image of a volume is named by no definition.
func TestVolumes(t *testing.T) {
	t.Parallel()
	const file, volume = "<disk type='file'><source file='/a&amp;b'/><target dev='vda'/></disk>", "<disk type='volume'><source pool='p' volume='v'/><target dev='vda'/></disk>"
	c := &checkpointing{id: identity{name: "web"}}
	for text, want := range map[string]error{file: nil, volume: snapshot.ErrUnsupported} {
		def, err := parseDisks("<domain><devices>" + text + "</devices></domain>")
		if err != nil {
			t.Fatal(err)
		}
		p := snapshot.Plan{Disks: []snapshot.DiskPlan{{Disk: snapshot.Disk{Name: "vda", Path: "/a&b"}}}}
		err = c.byFile(p, sight{now: def, next: def})
		hinted := (*snapshot.Hinted)(nil)
		if !errors.Is(err, want) || want != nil && (!errors.As(err, &hinted) || !strings.Contains(hinted.Next, "<source file='/a&amp;b'/>")) {
			t.Errorf("%s: %v", text, err)
		}
	}
}
