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
	"github.com/lull-backup/lull/snapshot/snapshottest"
)

// lifeline is a domain with checkpoints, in the hands of the kit.
type lifeline struct {
	*bench
	*snapshottest.Lifeline
	t      *testing.T
	ctx    context.Context
	host   *Host
	at     func(step string) // is told of each step
	nights int               // runs so far
	fix    *snapshottest.CheckpointFixture
}

func newLifeline(t *testing.T, b *bench) *lifeline {
	t.Helper()
	b.t = t
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	t.Cleanup(cancel)
	l := &lifeline{bench: b, t: t, ctx: ctx}
	b.start(t)
	l.fix = l.forKit()
	l.Lifeline = snapshottest.NewLifeline(t, l.fix)
	return l
}

func (l *lifeline) forKit() *snapshottest.CheckpointFixture {
	return &snapshottest.CheckpointFixture{
		Fixture: snapshottest.Fixture{
			Host: l.reopen(), VM: "web", Write: l.write, Content: l.content, Files: l.strays,
			Reopen: func(testing.TB) snapshot.Host { return l.reopen() }, Crash: l.crash,
		},
		Observe: func(fn func(string)) { l.at = fn },
		Layer:   l.layer,
		Runs:    func() bool { return l.pid() != 0 },
		Start:   l.start,
		Monitor: func(command string) (said string, err error) {
			err = l.monitor("human-monitor-command", map[string]string{"command-line": command}, &said)
			return said, err
		},
		Lock:  func() (func(), error) { return checkpoint.Lock(l.host.treePath(l.dom.ID.UUID)) },
		Right: l.atHome,
	}
}

// reopen is another process of lull's.
func (l *lifeline) reopen() *Host {
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
	return l.host
}

// layer is the image of a checkpoint.
func (l *lifeline) layer(disk, id string) (path string) {
	l.t.Helper()
	err := l.host.seeTree(l.ctx, "web", func(c *checkpointing) error {
		i := slices.IndexFunc(c.tree.Disks, func(d checkpoint.Disk) bool { return d.Name == disk })
		path = c.tree.Find(id).Images[i]
		return nil
	})
	if err != nil {
		l.t.Fatal(err)
	}
	return path
}

// atHome proves that both definitions name what the domain is on: without checkpoints its disks.
func (l *lifeline) atHome() {
	l.t.Helper()
	own := l.dom.Disks
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
		if len(c.tree.Nodes) == 0 {
			return nil
		}
		own = c.tree.Own
		return errors.Join(c.atHome(s), c.clear(l.ctx, s))
	})
	if err != nil {
		l.t.Error(err)
	}
	text, err := l.conn.XML(l.ctx, l.dom.ID, rpc.XMLInactive)
	if err != nil || !strings.Contains(text, "'"+own[0]+"'") || !strings.Contains(text, "'"+own[1]+"'") {
		l.t.Errorf("the definition does not have %v: %v\n%s", own, err, text)
	}
}

// strays are the files that checkpoints may leave.
func (l *lifeline) strays(t testing.TB) []string {
	t.Helper()
	return slices.DeleteFunc(l.files(t), func(path string) bool {
		return !strings.Contains(path, ".lull-") && !strings.HasSuffix(path, ".xml")
	})
}

// Checkpoints of a domain, on one daemon: a tree of them, what stands in the way of one, and
// an operation that is cut off at its steps.
func TestCheckpoints(t *testing.T) {
	t.Parallel()
	b := newBench(t, false, guesttest.Disk{Size: diskSize}, guesttest.Disk{Size: diskSize, Bus: guesttest.VirtioSCSI})
	open := func(t *testing.T) *snapshottest.Lifeline { return newLifeline(t, b).Lifeline }
	t.Run("Conformance", func(t *testing.T) { snapshottest.RunCheckpointer(t, open) })
	t.Run("Tree", func(t *testing.T) { checkpointTree(newLifeline(t, b)) })
	t.Run("Refused", func(t *testing.T) { checkpointRefused(newLifeline(t, b)) })
	t.Run("Records", func(t *testing.T) { checkpointRecords(newLifeline(t, b)) })
	t.Run("Daemon", func(t *testing.T) { checkpointDaemon(newLifeline(t, b)) })
	t.Run("CutOff", func(t *testing.T) { checkpointCutOff(t, b) })
	t.Run("Meanwhile", func(t *testing.T) { checkpointMeanwhile(newLifeline(t, b)) })
}

func checkpointTree(l *lifeline) {
	a := l.Grow("a")[0]
	b := l.Create(snapshot.NewCheckpoint{Memory: true})
	l.Writes()
	l.Off()
	l.renamed(b, a)
	l.Apply(b, false) // off, and runs then
	l.Right()
	l.Apply(a, true)
	l.Grow("c")
	l.Delete(a, false) // shared by b and c
	l.Right()
	if kept, err := filepath.Glob(filepath.Join(l.dom.Dir, "trees", "*."+a+".xml")); err != nil || len(kept) > 0 {
		l.t.Errorf("a deleted checkpoint keeps more than its images: %v, %v", kept, err)
	}
	l.astray()
	erased := l.erased()
	l.Merge()
	l.Right()
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
	l.Went(disks)
	l.Right()
}

// checkpointRefused: what is the user's stays so.
func checkpointRefused(l *lifeline) {
	refused := func(what string, want error, next string) {
		l.t.Helper()
		err := l.TryCreate(l.ctx, snapshot.NewCheckpoint{})
		var hinted *snapshot.Hinted
		if !errors.Is(err, want) || !errors.As(err, &hinted) || !strings.Contains(hinted.Next, next) {
			l.t.Errorf("%s: %v", what, err)
		}
		l.Right()
	}
	l.host.opt.CheckpointStop = time.Nanosecond
	if err := l.TryCreate(l.ctx, snapshot.NewCheckpoint{Memory: true}); err != nil && !errors.Is(err, errTooLong) {
		l.t.Errorf("a memory that takes too long: %v", err)
	}
	l.host.opt.CheckpointStop = 0
	l.Merge()
	l.Right()
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

	id := l.Create(snapshot.NewCheckpoint{})
	own := ".lull-" + id + ".layer"
	at := ""
	l.edit(func(xml string) string {
		at = xml
		return strings.Replace(xml, own, "", 1)
	})
	err := l.TryCreate(l.ctx, snapshot.NewCheckpoint{})
	var hinted *snapshot.Hinted
	if !errors.Is(err, snapshot.ErrDiverged) || !errors.As(err, &hinted) || !strings.Contains(hinted.Next, "gives its checkpoints up") {
		l.t.Errorf("another definition: %v", err)
	}
	l.edit(func(string) string { return at })
	l.Merge()
	l.Right()
}

// checkpointRecords: what a record of changes says is true, wherever the domain went meanwhile.
func checkpointRecords(l *lifeline) {
	since := l.recorded(nil, nil)
	before := l.Copy()
	l.Writes()
	l.Create(snapshot.NewCheckpoint{})
	l.Writes()
	if p := l.tracked(since); p.Disks[0].Track.Since != "" {
		l.t.Errorf("upon a checkpoint the record %s is believed", p.Disks[0].Track.Since)
	}
	l.Merge()
	since, before = l.recorded(since, before), l.Copy() // folded live, the record goes with it

	l.Writes()
	id := l.Create(snapshot.NewCheckpoint{})
	l.Writes()
	l.Apply(id, true)
	l.Writes()
	l.Merge()
	since, before = l.recorded(since, before), l.Copy() // by another image than it was made in

	l.Writes()
	l.Create(snapshot.NewCheckpoint{})
	l.Writes()
	if err := l.conn.Destroy(l.ctx, l.dom.ID, true); err != nil { // QEMU writes its bitmaps
		l.t.Fatal(err)
	}
	l.Merge()
	l.Boot()
	l.recorded(since, before)
	l.Right()
}

// tracked plans a run that reads what has changed.
func (l *lifeline) tracked(since map[string]string) snapshot.Plan {
	l.t.Helper()
	l.nights++
	p, err := l.host.Plan(l.ctx, "web", fmt.Sprintf("night%d", l.nights))
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
			if c.Since != nil && before[d.Name][i] != l.Want[d.Name][i] && !c.Since.Any(int64(i), 1) {
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
