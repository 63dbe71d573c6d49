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
