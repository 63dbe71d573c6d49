package qemu

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/qmp"
	"github.com/lull-backup/lull/snapshot/snapshottest"
)

// What a VM does in the middle of a run: it is reset, ends, moves to another host, or gets
// and loses disks. Each is tried at each stage of the run.

// runStage is a moment of a run.
type runStage struct {
	name string
	// reach goes there from Prepare; the frozen disks are open while the run reads.
	reach func(r *run) snapshot.Frozen
}

func runStages() []runStage {
	return []runStage{
		{"prepared", func(*run) snapshot.Frozen { return nil }},
		{"reading", func(r *run) snapshot.Frozen {
			r.take()
			r.guestWrites(r.plan.Disks[0].Name, 0, 0x55)
			return r.reads()
		}},
		{"committing", func(r *run) snapshot.Frozen {
			r.take()
			r.guestWrites(r.plan.Disks[0].Name, 0, 0x55)
			r.guestWrites(r.plan.Disks[0].Name, 2<<20, 0x56)
			r.startCommit(200_000)
			return nil
		}},
	}
}

// reads opens the frozen disks and looks at the first.
func (r *run) reads() snapshot.Frozen {
	r.t.Helper()
	f, err := r.host.Open(r.ctx, r.plan)
	if err != nil {
		r.t.Fatal(err)
	}
	return f
}

// goodPoint proves that a frozen disk is as it was when it froze.
func (r *run) goodPoint(f snapshot.Frozen, want []byte) {
	r.t.Helper()
	if f == nil {
		return
	}
	src, err := f.Disk(r.ctx, r.plan.Disks[0].Name)
	if err != nil {
		r.t.Fatal(err)
	}
	if !bytes.Equal(snapshottest.ReadAll(r.ctx, r.t, src), want) {
		r.t.Error("the frozen disk is not what it was")
	}
	if err := f.Close(); err != nil {
		r.t.Fatal(err)
	}
}

// eachStage runs one event at every stage.
func eachStage(t *testing.T, s shape, event func(r *run, f snapshot.Frozen, frozen []byte)) {
	for _, stage := range runStages() {
		t.Run(stage.name, func(t *testing.T) {
			t.Parallel()
			r := prepared(t, s)
			frozen := bytes.Clone(r.want[r.plan.Disks[0].Name])
			event(r, stage.reach(r), frozen)
		})
	}
}

// A reset is the guest's own affair.
func TestReset(t *testing.T) {
	t.Parallel()
	eachStage(t, qcow2VM(), func(r *run, f snapshot.Frozen, frozen []byte) {
		r.ask("system_reset", nil, nil)
		r.goodPoint(f, frozen)
		r.merged()
	})
}

// QEMU ends in good order, as when a guest powers itself off. An image that was half
// merged then is merged to its end.
func TestPowersOff(t *testing.T) {
	t.Parallel()
	eachStage(t, qcow2VM(), func(r *run, f snapshot.Frozen, _ []byte) {
		r.quit()
		if f != nil {
			r.wantErr(f.Watch(r.ctx), snapshot.ErrGone)
			if err := f.Close(); err != nil {
				r.t.Error(err)
			}
		}
		r.merged()
		r.start(r.disks)
		r.clean()
	})
}

// quit ends QEMU in good order.
func (r *run) quit() {
	r.t.Helper()
	r.ask("quit", nil, nil)
	<-r.ended
	r.hands.Close()
}

// plugged is a VM with a SCSI bus: QEMU plugs and unplugs there without the guest.
func plugged() shape { return shape{format: snapshot.FormatQcow2, bus: "scsi", disks: 2} }

// A disk that is plugged in is in no point that was begun before, and is named.
func TestPlugged(t *testing.T) {
	t.Parallel()
	eachStage(t, plugged(), func(r *run, f snapshot.Frozen, frozen []byte) {
		path := r.dir + "/disks/new.qcow2"
		shell(r.t, "qemu-img", "create", "-q", "-f", "qcow2", path, "1M")
		r.ask("blockdev-add", args{"driver": "qcow2", "node-name": "new", "file": args{"driver": "file", "filename": path}}, nil)
		r.ask("device_add", args{"driver": "scsi-hd", "bus": "scsi0.0", "id": "new0", "drive": "new"}, nil)
		r.found(snapshot.FindingAdded, "new0")
		r.goodPoint(f, frozen)
		r.mergedBut(path)
	})
}

// found wants a finding about a disk.
func (r *run) found(kind snapshot.FindingKind, disk string) snapshot.Finding {
	r.t.Helper()
	list := r.compare(&r.plan)
	for _, f := range list {
		if f.Kind == kind && f.Disk == disk {
			return f
		}
	}
	r.t.Errorf("no finding %q of disk %s: %+v", kind, disk, list)
	return snapshot.Finding{}
}

func (r *run) compare(owned *snapshot.Plan) []snapshot.Finding {
	r.t.Helper()
	list, err := r.host.Compare(r.ctx, "web", owned)
	if err != nil {
		r.t.Fatalf("Compare: %v", err)
	}
	return list
}

// mergedBut is merged for a VM that has another disk by now.
func (r *run) mergedBut(path string) {
	r.t.Helper()
	for range 2 {
		if err := r.merge(); err != nil {
			r.t.Fatalf("Merge: %v", err)
		}
	}
	r.clean()
	if list := r.compare(nil); len(list) > 0 {
		r.t.Errorf("found: %+v", list)
	}
	if _, err := os.Stat(path); err != nil {
		r.t.Errorf("the new disk: %v", err)
	}
}

// A disk that is unplugged goes with everything that was written to it.
func TestUnplugged(t *testing.T) {
	t.Parallel()
	eachStage(t, plugged(), func(r *run, f snapshot.Frozen, frozen []byte) {
		disk := r.plan.Disks[0]
		sub := r.hands.Subscribe("DEVICE_DELETED")
		defer sub.Close()
		r.ask("device_del", args{"id": disk.Name}, nil)
		select {
		case <-sub.Events():
		case <-r.ctx.Done():
			r.t.Fatal("the disk stays plugged in")
		}
		r.found(snapshot.FindingRemoved, disk.Name)
		r.goodPoint(f, frozen)
		if err := r.merge(); err != nil {
			r.t.Fatalf("Merge: %v", err)
		}
		if left := r.left(disk); len(left) > 0 {
			r.t.Errorf("left: %v", left)
		}
		r.ask("blockdev-del", args{"node-name": disk.Node}, nil) // nothing holds it
		out := r.dir + "/unplugged"
		shell(r.t, "qemu-img", "convert", "-f", "qcow2", "-O", "raw", disk.Path, out)
		if got, err := os.ReadFile(out); err != nil || !bytes.Equal(got, r.want[disk.Name]) {
			r.t.Errorf("the disk does not hold what the guest wrote (%v)", err)
		}
	})
}

// neighbour is a QEMU on another host, as it were, that waits for the VM.
type neighbour struct {
	r     *run
	qmp   *qmp.Client
	ended chan struct{}
	cmd   *exec.Cmd
	path  string
}

// neighbour starts a QEMU with the same disks that the VM can move to.
func (r *run) neighbour(more ...string) *neighbour {
	r.t.Helper()
	n := &neighbour{r: r, path: r.dir + "/incoming", ended: make(chan struct{})}
	var a []string
	for _, arg := range r.arguments(r.disks, r.shape.format) {
		a = append(a, strings.ReplaceAll(strings.ReplaceAll(arg, r.dir+"/qmp", r.dir+"/qmp2"), r.dir+"/hands", r.dir+"/hands2"))
	}
	program := tool(r.t, "qemu-system-x86_64", "qemu-system-x86")
	if r.shape.newer {
		program = newerQEMU(r.t)
	}
	n.cmd = exec.Command(program, append(append(a, more...), "-incoming", "unix:"+n.path)...)
	var said bytes.Buffer
	n.cmd.Stderr = &said
	if err := n.cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	go func() { _ = n.cmd.Wait(); close(n.ended) }() // it is always killed
	r.t.Cleanup(n.kill)
	eventually(r.t, "the other host's monitor", func() bool {
		select {
		case <-n.ended:
			r.t.Fatalf("QEMU ended: %s", said.String())
		default:
		}
		c, err := qmp.Dial(r.ctx, r.dir+"/hands2", qmp.Options{})
		n.qmp = c
		return err == nil
	})
	return n
}

func (n *neighbour) kill() {
	_ = n.cmd.Process.Kill() // it may have ended
	<-n.ended
	if n.qmp != nil {
		n.qmp.Close()
	}
}

// takesOver has QEMU there take the disks: from version 10 on it waits with that until a guest
// that was paused goes on.
func (n *neighbour) takesOver() {
	n.r.t.Helper()
	for _, command := range []string{"cont", "stop"} {
		if err := n.qmp.Execute(n.r.ctx, command, nil, nil); err != nil {
			n.r.t.Fatal(err)
		}
	}
}

// write writes as the guest does there.
func (n *neighbour) write(off int64, fill byte) {
	n.r.t.Helper()
	var said string
	err := n.qmp.Execute(n.r.ctx, "human-monitor-command", args{"command-line": fmt.Sprintf("qemu-io -d %s \"write -f -P %d %d 4096\"",
		n.r.plan.Disks[0].Device, fill, off)}, &said)
	if err != nil || said != "" {
		n.r.t.Fatalf("write on the other host: %v %s", err, said)
	}
}

// migrate sends the VM to a neighbour, as somebody does who knows nothing of lull.
func (r *run) migrate(n *neighbour) error {
	return r.hands.Execute(r.ctx, "migrate", args{"uri": "unix:" + n.path}, nil)
}

func (r *run) migrated(status string) {
	r.t.Helper()
	eventually(r.t, "the migration is "+status, func() bool {
		var now struct{ Status string }
		r.ask("query-migrate", nil, &now)
		return now.Status == status
	})
}

// A VM stays while it has a delta: QEMU refuses, and names lull.
func TestStaysDuringRun(t *testing.T) {
	t.Parallel()
	eachStage(t, qcow2VM(), func(r *run, f snapshot.Frozen, frozen []byte) {
		n := r.neighbour()
		err := r.migrate(n)
		if err == nil || !strings.Contains(err.Error(), anchorNode(r.plan)) {
			r.t.Fatalf("migrate: %v", err)
		}
		r.goodPoint(f, frozen)
		r.merged()
		if err := r.migrate(n); err != nil {
			r.t.Fatalf("migrate after the run: %v", err)
		}
		r.migrated("completed")
		_, err = r.host.Plan(r.ctx, "web", "next")
		r.wantErr(err, snapshot.ErrBusy)
	})
}

// No run begins while the VM moves.
func TestMovesBeforeRun(t *testing.T) {
	t.Parallel()
	v := newVM(t, qcow2VM())
	r := &run{testVM: v, t: t, ctx: t.Context(), host: v.host(), want: map[string][]byte{}}
	var err error
	if r.plan, err = r.host.Plan(r.ctx, "web", "run"); err != nil {
		t.Fatal(err)
	}
	for _, d := range r.plan.Disks {
		r.want[d.Name] = v.content(t, d.Name)
	}
	r.ask("migrate-set-parameters", args{"max-bandwidth": 4096}, nil)
	n := r.neighbour()
	if err := r.migrate(n); err != nil {
		t.Fatal(err)
	}
	err = r.host.Prepare(r.ctx, r.plan)
	r.wantErr(err, snapshot.ErrBusy)
	r.hinted(err)
	r.merged()
	_, err = r.host.Plan(r.ctx, "web", "next")
	r.wantErr(err, snapshot.ErrBusy)
}

// QEMU that has promised to be migratable at any time cannot be held. The run ends as soon
// as it moves; what was written to a delta meanwhile never gets into a disk that another
// host writes to.
func TestMovesDuringRun(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		newer bool
		later func(r *run, n *neighbour)
		want  error
	}{
		"comes back": {later: func(r *run, n *neighbour) { n.kill(); r.ask("cont", nil, nil); r.ask("stop", nil, nil) }},
		"stays": {
			later: func(r *run, n *neighbour) { n.takesOver(); r.kill() },
			want:  snapshot.ErrUncertain, // the other host has the disk open
		},
		"waits": {
			newer: true, // which has it open there, without a lock
			later: func(r *run, _ *neighbour) { r.kill() },
			want:  snapshot.ErrUncertain,
		},
		"stayed": {
			later: func(r *run, n *neighbour) { n.takesOver(); n.write(3<<20, 0x99); r.kill(); n.kill() },
			want:  snapshot.ErrDiverged,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRun(t, shape{format: snapshot.FormatQcow2, bus: "virtio", disks: 1, newer: c.newer}, func(v *testVM) { v.more = []string{"-only-migratable"} })
			r.take()
			r.guestWrites(r.plan.Disks[0].Name, 0, 0x55)
			f := r.reads()
			n := r.neighbour()
			watched := make(chan error, 1)
			go func() { watched <- f.Watch(r.ctx) }()
			if err := r.migrate(n); err != nil {
				t.Fatal(err)
			}
			r.migrated("completed")
			if err := <-watched; err == nil {
				t.Error("Watch saw nothing")
			}
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
			err := r.merge()
			r.wantErr(err, snapshot.ErrDiverged)
			r.hinted(err)
			r.found(snapshot.FindingMoved, r.plan.Disks[0].Name)
			c.later(r, n)
			r.refusedOr(c.want)
			if errors.Is(c.want, snapshot.ErrUncertain) {
				r.found(snapshot.FindingMoved, r.plan.Disks[0].Name)
			}
		})
	}
}
