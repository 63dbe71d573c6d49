package qemu

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lull-backup/lull/snapshot"
)

// lifeline is a VM with checkpoints, and what each of them has to hold.
type lifeline struct {
	*testVM
	t     *testing.T
	ctx   context.Context
	host  *Host
	paths map[string]string            // of the disks
	want  map[string][]byte            // of the VM now, by disk
	kept  map[string]map[string][]byte // of checkpoints, by ID
	fill  byte
}

func newLifeline(t *testing.T, s shape, setUp func(*testVM)) *lifeline {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	t.Cleanup(cancel)
	v := mountedVM(t, s, func(v *testVM) { v.ejected = true; setUp(v) })
	l := &lifeline{testVM: v, t: t, ctx: ctx, host: v.host(), want: map[string][]byte{},
		paths: map[string]string{}, kept: map[string]map[string][]byte{}}
	for _, d := range l.names() {
		l.want[d] = v.content(t, d)
	}
	return l
}

// names finds the disks, and where they are.
func (l *lifeline) names() (list []string) {
	l.t.Helper()
	vms, err := l.host.VMs(l.ctx)
	if err != nil || len(vms) != 1 || vms[0].Problem != "" {
		l.t.Fatalf("VMs: %v, %+v", err, vms)
	}
	for _, d := range vms[0].Disks {
		list = append(list, d.Name)
		l.paths[d.Name] = d.Path
	}
	return list
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
	l.kept[c.ID] = map[string][]byte{}
	for d, b := range l.want {
		l.kept[c.ID][d] = slices.Clone(b)
	}
	return c.ID
}

func (l *lifeline) apply(id string, cold bool) {
	l.t.Helper()
	if _, err := l.host.ApplyCheckpoint(l.ctx, "web", id, cold); err != nil {
		l.t.Fatalf("ApplyCheckpoint: %v", err)
	}
	for d, b := range l.kept[id] {
		l.want[d] = slices.Clone(b)
	}
}

func (l *lifeline) remove(id string, subtree bool) {
	l.t.Helper()
	if err := l.host.DeleteCheckpoints(l.ctx, "web", id, subtree); err != nil {
		l.t.Fatalf("DeleteCheckpoints: %v", err)
	}
	l.forget()
}

// forget drops what is in the tree no more.
func (l *lifeline) forget() {
	l.t.Helper()
	there := map[string]bool{}
	for _, c := range l.tree().List {
		there[c.ID] = !c.Deleted
	}
	for id := range l.kept {
		if !there[id] {
			delete(l.kept, id)
		}
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

// right proves that the VM and all checkpoints hold what they have to, in QEMU and in their
// files, and that nothing else is there.
func (l *lifeline) right() {
	l.t.Helper()
	tree := l.tree()
	if tree.Pending != "" || len(tree.Missing)+len(tree.Unowned) > 0 {
		l.t.Errorf("pending %q, missing %v, unowned %v", tree.Pending, tree.Missing, tree.Unowned)
	}
	for d, want := range l.want {
		if got := l.guestSees(d); !bytes.Equal(got, want) {
			l.t.Errorf("disk %s: the guest does not see what it wrote, from byte %d", d, differ(got, want))
		}
		if got := l.image(l.own(d)); !bytes.Equal(got, want) {
			l.t.Errorf("disk %s: a start from its path would show other content", d)
		}
		for id, disks := range l.kept {
			if got := l.image(beside(l.own(d), id, layerEnding)); !bytes.Equal(got, disks[d]) {
				l.t.Errorf("disk %s: checkpoint %s is not what it was", d, id)
			}
		}
	}
	l.plans()
}

// plans proves that a backup would read what the guest sees.
func (l *lifeline) plans() {
	l.t.Helper()
	p, err := l.host.Plan(l.ctx, "web", "look")
	if err != nil {
		l.t.Fatalf("Plan: %v", err)
	}
	for _, d := range p.Disks {
		if d.Path != l.own(d.Name) {
			l.t.Errorf("disk %s is planned at %s", d.Name, d.Path)
		}
		if depth := l.tree().Depth; len(d.Chain) < depth+1 {
			l.t.Errorf("disk %s: chain %v at depth %d", d.Name, d.Chain, depth)
		}
	}
}

func differ(a, b []byte) int {
	for i := range a {
		if i >= len(b) || a[i] != b[i] {
			return i
		}
	}
	return len(a)
}

// own is the path of a disk's image.
func (l *lifeline) own(disk string) string { return l.paths[disk] }

// image reads a chain by the names that its files say.
func (l *lifeline) image(path string) []byte {
	l.t.Helper()
	out := filepath.Join(l.dir, "content")
	defer os.Remove(out)
	shell(l.t, "qemu-img", "convert", "-U", "-f", "qcow2", "-O", "raw", path, out)
	b, err := os.ReadFile(out)
	if err != nil {
		l.t.Fatal(err)
	}
	return b
}

// guestSees reads a disk as its device would, from QEMU.
func (l *lifeline) guestSees(disk string) []byte {
	l.t.Helper()
	if err := l.io(disk, "flush"); err != nil {
		l.t.Fatalf("flush %s: %v", disk, err)
	}
	node := ""
	for _, b := range l.blocks() {
		if b.QDev == l.at(disk).QDev {
			node = b.Inserted.Node
		}
	}
	socket, out := l.dir+"/sees", filepath.Join(l.dir, "content")
	defer os.Remove(out)
	l.ask("nbd-server-start", args{"addr": args{"type": "unix", "data": args{"path": socket}}}, nil)
	defer l.ask("nbd-server-stop", nil, nil)
	l.ask("block-export-add", args{"type": "nbd", "id": "sees", "name": "sees", "node-name": node}, nil)
	shell(l.t, "qemu-img", "convert", "-f", "raw", "-O", "raw", "nbd+unix:///sees?socket="+socket, out)
	b, err := os.ReadFile(out)
	if err != nil {
		l.t.Fatal(err)
	}
	return b
}

func TestCheckpointDisks(t *testing.T) {
	t.Parallel()
	l := newLifeline(t, shape{format: snapshot.FormatQcow2, bus: "virtio", disks: 2}, func(*testVM) {})
	l.writes()
	a := l.create(snapshot.NewCheckpoint{Name: "a"})
	l.right()
	l.writes()
	b := l.create(snapshot.NewCheckpoint{Name: "b"})
	l.writes()
	l.right()
	l.apply(a, true)
	l.right()
	l.writes()
	c := l.create(snapshot.NewCheckpoint{Name: "c"})
	l.writes()
	l.apply(b, true)
	l.writes()
	l.right()
	l.apply(c, true)
	l.writes()
	l.right()
}

// What would lose its tree, or has lost it, gets no checkpoint.
func TestCheckpointRefused(t *testing.T) {
	t.Parallel()
	l := newLifeline(t, shape{format: snapshot.FormatQcow2, bus: "scsi", disks: 1}, func(*testVM) {})
	l.create(snapshot.NewCheckpoint{})
	l.host.Close()
	renamed := NewHost([]VM{{Name: "renamed", QMP: l.dir + "/qmp"}}, l.options())
	_, err := renamed.CreateCheckpoint(l.ctx, "renamed", snapshot.NewCheckpoint{})
	renamed.Close()
	if !errors.Is(err, snapshot.ErrDiverged) || !strings.Contains(err.Error(), "its tree is elsewhere") {
		t.Errorf("under another name: %v", err)
	}
	l.host = l.testVM.host()
	wrong := beside(l.disks[0], l.tree().Now, layerEnding)
	l.startedFrom(wrong)
	path := filepath.Join(l.dir, "nameless.qcow2")
	shell(t, "qemu-img", "create", "-q", "-f", "qcow2", path, "1M")
	l.ask("blockdev-add", args{"driver": "qcow2", "node-name": "nameless", "file": args{"driver": "file", "filename": path}}, nil)
	l.ask("device_add", args{"driver": "scsi-hd", "bus": "scsi0.0", "drive": "nameless"}, nil)
	_, err = l.host.CreateCheckpoint(l.ctx, "web", snapshot.NewCheckpoint{})
	if !errors.Is(err, snapshot.ErrUnsupported) || !strings.Contains(err.Error(), "no id") {
		t.Errorf("a device without an id: %v", err)
	}
}

// Disks of which the image is not all get no checkpoint, before anything is done.
func TestCheckpointRefusedDisks(t *testing.T) {
	t.Parallel()
	apart := filepath.Join(shortDir(t), "apart.raw")
	for name, vm := range map[string]struct {
		shape shape
		setUp func(*testVM)
		want  string
	}{
		"encrypted": {shape{format: snapshot.FormatQcow2, bus: "virtio", disks: 1, luks: true}, func(*testVM) {}, "is encrypted"},
		"data file": {shape{format: snapshot.FormatQcow2, bus: "scsi", disks: 1}, func(v *testVM) {
			image := filepath.Join(v.dir, "apart.qcow2")
			shell(v.t, "qemu-img", "create", "-q", "-f", "qcow2", "-o", "data_file="+apart, image, "1M")
			v.more = []string{"-blockdev", "driver=qcow2,node-name=apart,file.driver=file,file.filename=" + image, "-device", "virtio-blk-pci,id=apart,drive=apart"}
		}, "data file"},
		"raw": {shape{format: snapshot.FormatRaw, bus: "virtio", disks: 1}, func(*testVM) {}, "need qcow2"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := mountedVM(t, vm.shape, vm.setUp)
			before := v.chain(t)
			_, err := v.host().CreateCheckpoint(t.Context(), "web", snapshot.NewCheckpoint{})
			if !errors.Is(err, snapshot.ErrUnsupported) || !strings.Contains(err.Error(), vm.want) {
				t.Errorf("create: %v", err)
			}
			if now := v.chain(t); now != before {
				t.Errorf("something was done:\n%s", now)
			}
		})
	}
}

// startedFrom starts the VM from the image of a checkpoint, which nobody should, and then
// from its own.
func (l *lifeline) startedFrom(image string) {
	l.t.Helper()
	l.kill()
	l.start([]string{image})
	for what, err := range map[string]error{
		"create": func() error { _, err := l.host.CreateCheckpoint(l.ctx, "web", snapshot.NewCheckpoint{}); return err }(),
		"backup": func() error { _, err := l.host.Plan(l.ctx, "web", "run"); return err }(),
		"delete": l.host.MergeCheckpoints(l.ctx, "web"),
	} {
		if !errors.Is(err, snapshot.ErrDiverged) {
			l.t.Errorf("%s of a VM that was started from %s: %v", what, image, err)
		}
	}
	l.kill()
	l.start(l.disks)
	l.right()
}

// state is QEMU's run state.
func (l *lifeline) state() string {
	l.t.Helper()
	var s struct{ Status string }
	l.ask("query-status", nil, &s)
	return s.Status
}

// A guest that runs, with its memory: it goes on from where the checkpoint was made, in
// the same process, as often as wanted.
func TestCheckpointMemory(t *testing.T) {
	t.Parallel()
	l := newLifeline(t, shape{format: snapshot.FormatQcow2, bus: "virtio", disks: 1}, func(v *testVM) { v.boot = writingGuest() })
	l.ask("cont", nil, nil)
	r := &run{testVM: l.testVM, t: t, ctx: l.ctx, host: l.host}
	r.goesOn()
	a := l.create(snapshot.NewCheckpoint{Name: "a", Memory: true})
	r.goesOn()
	for range 2 {
		l.apply(a, false)
		if s := l.state(); s != "running" {
			t.Fatalf("the VM is %s", s)
		}
		r.goesOn()
	}
	l.create(snapshot.NewCheckpoint{Name: "b", Memory: true})
	r.goesOn()
	l.apply(a, false)
	r.goesOn()
	l.apply("b", false)
	r.goesOn()
}

// Deleting leaves what the VM and the others hold, wherever the VM runs.
func TestCheckpointDelete(t *testing.T) {
	t.Parallel()
	for _, s := range []shape{
		{format: snapshot.FormatQcow2, bus: "virtio", disks: 2},
		{format: snapshot.FormatQcow2, drive: true, bus: "virtio", disks: 2},
		{format: snapshot.FormatQcow2, bus: "iothread", disks: 1, backing: true},
	} {
		t.Run(s.String(), func(t *testing.T) {
			t.Parallel()
			deleteAll(t, newLifeline(t, s, func(*testVM) {}))
		})
	}
}

func deleteAll(t *testing.T, l *lifeline) {
	chain := func(names ...string) (ids []string) {
		for _, name := range names {
			l.writes()
			ids = append(ids, l.create(snapshot.NewCheckpoint{Name: name}))
		}
		l.writes()
		return ids
	}
	ids := chain("a", "b", "c")
	l.remove(ids[1], false) // the middle
	l.right()
	l.writes()
	l.remove(ids[0], false) // the first
	l.right()
	l.writes()
	l.remove(ids[2], false) // the last: the disk alone is left
	l.right()
	l.alone()
	l.writes()
	ids = chain("d", "e", "f")
	l.apply(ids[0], true)
	l.writes()
	g := l.create(snapshot.NewCheckpoint{Name: "g"})
	l.writes()
	l.remove(ids[0], false) // two rest upon it
	l.right()
	if n := len(l.tree().List); n != 4 {
		t.Errorf("%d in the tree, want 4", n)
	}
	l.remove(ids[1], true) // a whole branch, and what it shared
	l.right()
	if n := len(l.tree().List); n != 1 {
		t.Errorf("%d in the tree, want 1", n)
	}
	l.remove(g, false)
	l.right()
	l.alone()
	chain("h", "i")
	if err := l.host.MergeCheckpoints(l.ctx, "web"); err != nil {
		t.Fatal(err)
	}
	l.forget()
	l.right()
	l.alone()
}

// alone proves that a VM has its disks and nothing else.
func (l *lifeline) alone() {
	l.t.Helper()
	if n := len(l.tree().List); n > 0 {
		l.t.Errorf("%d checkpoints", n)
	}
	open := l.tree()
	for _, path := range l.files(l.t) {
		if strings.Contains(filepath.Base(path), ".lull-") && !sameAsOwn(l, path) {
			l.t.Errorf("left behind: %s of %+v", path, open)
		}
	}
	for _, b := range l.blocks() {
		if b.Inserted.Depth != map[bool]int{true: 1}[l.shape.backing] {
			l.t.Errorf("%s has %d images below", b.Inserted.Node, b.Inserted.Depth)
		}
	}
}

// sameAsOwn tells whether a file is a disk's own image, by the name that QEMU opened it by.
func sameAsOwn(l *lifeline, path string) bool {
	return slices.ContainsFunc(l.disks, func(own string) bool {
		same, err := sameFile(path, own)
		return err == nil && same
	})
}
