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
	"github.com/lull-backup/lull/snapshot/checkpoint"
	"github.com/lull-backup/lull/snapshot/snapshottest"
)

// lifeline is a VM with checkpoints, in the hands of the kit.
type lifeline struct {
	*testVM
	*snapshottest.Lifeline
	t     *testing.T
	ctx   context.Context
	host  *Host
	fix   *snapshottest.CheckpointFixture
	paths map[string]string // of the disks
	goes  bool              // the VM was let go
}

func newLifeline(t *testing.T, s shape, setUp func(*testVM)) *lifeline {
	t.Helper()
	return lifelineOf(t, mountedVM(t, s, func(v *testVM) { v.ejected = true; setUp(v) }), false)
}

// lifelineOf is that of a VM which was let go, or not.
func lifelineOf(t *testing.T, v *testVM, goes bool) *lifeline {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	t.Cleanup(cancel)
	if goes {
		v.ask("cont", nil, nil)
	}
	l := &lifeline{testVM: v, t: t, ctx: ctx, host: v.host(), paths: map[string]string{}, goes: goes}
	vms, err := l.host.VMs(l.ctx)
	if err != nil || len(vms) != 1 || vms[0].Problem != "" {
		t.Fatalf("VMs: %v, %+v", err, vms)
	}
	for _, d := range vms[0].Disks {
		l.paths[d.Name] = d.Path
	}
	l.fix = l.forKit()
	l.Lifeline = snapshottest.NewLifeline(t, l.fix)
	return l
}

func (l *lifeline) forKit() *snapshottest.CheckpointFixture {
	return &snapshottest.CheckpointFixture{
		Fixture: snapshottest.Fixture{
			Host: l.host, VM: "web", Write: l.write, Content: l.shown, Files: l.strays,
			Reopen: func(testing.TB) snapshot.Host {
				l.host.Close()
				l.host = l.testVM.host()
				return l.host
			},
			Crash: func(testing.TB) { l.kill() },
		},
		Observe: func(fn func(string)) {
			if l.host.opt.Observe = nil; fn != nil {
				l.host.opt.Observe = func(_, step string) { fn(step) }
			}
		},
		Layer: func(disk, id string) string { return beside(l.own(disk), id, layerEnding) },
		Runs:  func() bool { return l.lives() && (!l.goes || l.state() == "running") },
		Start: func(testing.TB) {
			if l.start(l.disks); l.goes {
				l.ask("cont", nil, nil)
			}
		},
		Monitor: l.monitor,
		Lock:    func() (func(), error) { return checkpoint.Lock(l.host.treePath("web")) },
		Right:   l.atHome,
	}
}

// monitor has a person's command carried out.
func (l *lifeline) monitor(command string) (said string, err error) {
	err = l.hands.Execute(l.ctx, "human-monitor-command", args{"command-line": command}, &said)
	return said, err
}

// lives tells whether QEMU does.
func (l *lifeline) lives() bool {
	select {
	case <-l.ended:
		return false
	default:
		return true
	}
}

// atHome proves that a start from the paths of the disks would show what the guest sees, and
// that so would a backup.
func (l *lifeline) atHome() {
	l.t.Helper()
	for disk, want := range l.Want {
		if !bytes.Equal(snapshottest.Flat(l.t, l.own(disk)), want) {
			l.t.Errorf("disk %s: a start from its path would show other content", disk)
		}
	}
	if !l.lives() {
		return
	}
	p, err := l.host.Plan(l.ctx, "web", "look")
	if err != nil {
		l.t.Fatalf("Plan: %v", err)
	}
	depth := l.Tree().Depth + map[bool]int{true: 1}[l.shape.backing]
	for _, d := range p.Disks {
		if d.Path != l.own(d.Name) || len(d.Chain) != depth+1 {
			l.t.Errorf("disk %s is planned at %s, upon %v; its depth is %d", d.Name, d.Path, d.Chain, depth)
		}
	}
}

// own is the path of a disk's image.
func (l *lifeline) own(disk string) string { return l.paths[disk] }

// shown is a disk as its device would read it, from QEMU; or will. The server of QEMU 7.2 may
// crash where a disk has a thread of its own.
func (l *lifeline) shown(t testing.TB, disk string) []byte {
	t.Helper()
	if !l.lives() || l.shape.bus == "iothread" {
		return l.content(t, disk)
	}
	if err := l.io(disk, "flush"); err != nil {
		t.Fatalf("flush %s: %v", disk, err)
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
	shell(t, "qemu-img", "convert", "-f", "raw", "-O", "raw", "nbd+unix:///sees?socket="+socket, out)
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// strays are the files that checkpoints may leave, but for the disks' own by the name that
// QEMU opened them by.
func (l *lifeline) strays(t testing.TB) []string {
	t.Helper()
	return slices.DeleteFunc(l.files(t), func(path string) bool {
		return !strings.Contains(filepath.Base(path), ".lull-") || slices.ContainsFunc(l.disks, func(own string) bool {
			same, err := sameFile(path, own)
			return err == nil && same
		})
	})
}

func TestCheckpointConformance(t *testing.T) {
	t.Parallel()
	for _, s := range []shape{ // that with -blockdev and two disks has TestCheckpointPowerLoss
		{format: snapshot.FormatQcow2, drive: true, bus: "virtio", disks: 2},
		{format: snapshot.FormatQcow2, bus: "iothread", disks: 1, backing: true},
	} {
		t.Run(s.String(), func(t *testing.T) {
			t.Parallel()
			v := mountedVM(t, s, func(v *testVM) { v.ejected, v.wipe = true, s.drive })
			snapshottest.RunCheckpointer(t, func(t *testing.T) *snapshottest.Lifeline { return lifelineOf(t, v, true).Lifeline })
		})
	}
}

// What would lose its tree, or has lost it, gets no checkpoint.
func TestCheckpointRefused(t *testing.T) {
	t.Parallel()
	l := newLifeline(t, shape{format: snapshot.FormatQcow2, bus: "scsi", disks: 1}, func(*testVM) {})
	l.Create(snapshot.NewCheckpoint{})
	l.host.Close()
	renamed := NewHost([]VM{{Name: "renamed", QMP: l.dir + "/qmp"}}, l.options())
	_, err := renamed.CreateCheckpoint(l.ctx, "renamed", snapshot.NewCheckpoint{})
	renamed.Close()
	if !errors.Is(err, snapshot.ErrDiverged) || !strings.Contains(err.Error(), "its tree is elsewhere") {
		t.Errorf("under another name: %v", err)
	}
	l.Restart()
	wrong := beside(l.disks[0], l.Tree().Now, layerEnding)
	l.startedFrom(wrong)
	path := filepath.Join(l.dir, "nameless.qcow2")
	shell(t, "qemu-img", "create", "-q", "-f", "qcow2", path, "1M")
	l.ask("blockdev-add", args{"driver": "qcow2", "node-name": "nameless", "file": args{"driver": "file", "filename": path}}, nil)
	l.ask("device_add", args{"driver": "scsi-hd", "bus": "scsi0.0", "drive": "nameless"}, nil)
	err = l.TryCreate(l.ctx, snapshot.NewCheckpoint{})
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
		"create": l.TryCreate(l.ctx, snapshot.NewCheckpoint{}),
		"backup": func() error { _, err := l.host.Plan(l.ctx, "web", "run"); return err }(),
		"delete": l.host.MergeCheckpoints(l.ctx, "web"),
	} {
		if !errors.Is(err, snapshot.ErrDiverged) {
			l.t.Errorf("%s of a VM that was started from %s: %v", what, image, err)
		}
	}
	l.kill()
	l.start(l.disks)
	l.Right()
}

// state is QEMU's run state.
func (l *lifeline) state() string {
	l.t.Helper()
	var s struct{ Status string }
	l.ask("query-status", nil, &s)
	return s.Status
}
