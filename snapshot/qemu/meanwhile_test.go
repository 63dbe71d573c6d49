package qemu

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/lull-backup/lull/snapshot"
)

// What others do to a VM and its disks right between two steps of a run.

// mergeAround merges with a qemu-img that waits, before its work or after it, until the VM was
// started from an image and something was written to it.
func (r *run) mergeAround(script, image string, format snapshot.Format) error {
	r.t.Helper()
	asked, goOn := r.dir+"/asked", r.dir+"/go"
	shell(r.t, "mkfifo", asked, goOn)
	wait := fmt.Sprintf(": >%s; : <%s", asked, goOn)
	r.write0(r.dir+"/qemu-img", "#!/bin/sh -e\n"+strings.ReplaceAll(script, "wait", wait)+"\n")
	if err := os.Chmod(r.dir+"/qemu-img", 0o700); err != nil {
		r.t.Fatal(err)
	}
	opt := r.options()
	opt.QemuImg = r.dir + "/qemu-img"
	merged := make(chan error, 1)
	go func() { merged <- NewHost([]VM{{Name: "web", QMP: r.dir + "/qmp"}}, opt).Merge(r.ctx, r.plan) }()
	shell(r.t, "cat", asked)
	r.startWith(r.arguments([]string{image}, format))
	r.guestWrites(r.plan.Disks[0].Name, 1<<20, 0x99)
	shell(r.t, "sh", "-c", ": >"+goOn)
	return <-merged
}

// The VM is started from its image right before qemu-img gets at that: what it writes until
// qemu-img is refused is no part of what lull knows.
func TestStartedOnBaseDuringMerge(t *testing.T) {
	t.Parallel()
	r := taken(t, shape{format: snapshot.FormatQcow2, bus: "virtio", disks: 1})
	r.kill()
	r.wantErr(r.mergeAround(`wait; exec qemu-img "$@"`, r.disks[0], snapshot.FormatQcow2), snapshot.ErrBusy)
	r.kill() // and nothing was written since
	r.refusedOr(snapshot.ErrDiverged)
}

// The VM is started from its delta right after that was merged: it keeps the file.
func TestStartedOnDeltaDuringMerge(t *testing.T) {
	t.Parallel()
	r := taken(t, rawVM())
	r.kill()
	r.wantErr(r.mergeAround(`qemu-img "$@"; wait`, r.plan.Disks[0].Delta, snapshot.FormatQcow2), snapshot.ErrBusy)
	r.merged()
}

// A disk that is resized right before it freezes would lose its end under a delta of the size
// that it had.
func TestResizedBeforeTake(t *testing.T) {
	t.Parallel()
	r := prepared(t, qcow2VM())
	size := r.plan.Disks[1].Size + 1<<20
	r.ask("block_resize", args{"node-name": r.plan.Disks[1].Node, "size": size}, nil)
	r.wantErr(r.host.Take(r.ctx, r.plan), snapshot.ErrBusy)
	r.wantErr(r.merge(), nil)
	if got := r.blocks()[1].Inserted.Image.Size; got != size {
		t.Errorf("the disk has %d bytes, want %d", got, size)
	}
}

// A disk that grows while it has a delta has its new size after the merge.
func TestGrownDuringRun(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(r *run){"live": func(*run) {}, "QEMU is gone": (*run).kill} {
		for _, s := range []shape{{format: snapshot.FormatQcow2, bus: "virtio", disks: 1}, rawVM()} {
			t.Run(name+" "+s.String(), func(t *testing.T) {
				t.Parallel()
				r := taken(t, s)
				d := r.plan.Disks[0]
				r.ask("block_resize", args{"node-name": d.DeltaNode, "size": d.Size + 1<<20}, nil)
				r.want[d.Name] = append(r.want[d.Name], make([]byte, 1<<20)...)
				end(r)
				r.merged()
			})
		}
	}
}

// A snapshot that somebody has made inside a delta is not removed with it.
func TestSnapshotInDelta(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(r *run){"live": func(*run) {}, "QEMU is gone": (*run).kill} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := taken(t, shape{format: snapshot.FormatQcow2, bus: "virtio", disks: 1})
			d := r.plan.Disks[0]
			r.ask("blockdev-snapshot-internal-sync", args{"device": d.DeltaNode, "name": "theirs"}, nil)
			r.guestWrites(d.Name, 1<<20, 0x99)
			end(r)
			r.refusedOr(snapshot.ErrBusy)
			if name == "live" {
				r.found(snapshot.FindingRefused, d.Name)
				r.ask("blockdev-snapshot-delete-internal-sync", args{"device": d.DeltaNode, "name": "theirs"}, nil)
			} else {
				shell(t, "qemu-img", "snapshot", "-d", "theirs", d.Delta)
			}
			r.merged()
		})
	}
}
