package qemu

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/snapshottest"
)

// daemon is a qemu-storage-daemon. Its "guest" is a client of a writable NBD
// export that is made for each of its accesses: on lull's server while that is
// there, as a process has only one, else on one of its own.
type daemon struct{ *testVM }

func newDaemon(t testing.TB, s shape) *daemon {
	t.Helper()
	d := &daemon{&testVM{t: t, shape: s, dir: shortDir(t)}}
	if err := os.Mkdir(filepath.Join(d.dir, "disks"), 0o755); err != nil {
		t.Fatal(err)
	}
	a := []string{"--chardev", "socket,id=lull,path=" + d.dir + "/qmp,server=on,wait=off", "--monitor", "chardev=lull",
		"--chardev", "socket,id=hands,path=" + d.dir + "/hands,server=on,wait=off", "--monitor", "chardev=hands"}
	for i := range s.disks {
		d.disks = append(d.disks, d.makeDisk(i))
		a = append(a, "--blockdev", fmt.Sprintf("driver=file,node-name=file%d,filename=%s", i, escape(d.disks[i])),
			"--blockdev", fmt.Sprintf("driver=%s,node-name=fmt%d,file=file%d", s.format, i, i))
	}
	d.launch(exec.Command(tool(t, "qemu-storage-daemon", "qemu-system-common"), a...))
	t.Cleanup(d.kill)
	return d
}

// export serves the top of a disk's chain while use runs.
func (d *daemon) export(disk string, use func(url string) error) error {
	socket := d.dir + "/guest"
	if theirs, err := filepath.Glob(d.dir + "/run/*.nbd"); err == nil && len(theirs) == 1 {
		socket = theirs[0]
	} else {
		d.ask("nbd-server-start", args{"addr": args{"type": "unix", "data": args{"path": socket}}}, nil)
		defer d.ask("nbd-server-stop", nil, nil)
	}
	eventually(d.t, "export of the top of "+disk, func() bool { return d.exportTop(disk) == nil })
	err := use("nbd+unix:///guest?socket=" + socket)
	d.ask("block-export-del", args{"id": "guest", "mode": "hard"}, nil)
	eventually(d.t, "end of the guest's export", func() bool {
		var list []export
		d.ask("query-block-exports", nil, &list)
		return !slices.ContainsFunc(list, func(e export) bool { return e.ID == "guest" })
	})
	return err
}

// exportTop fails where the chain changes between a look at it and the export.
func (d *daemon) exportTop(disk string) error {
	var nodes []inserted
	d.ask("query-named-block-nodes", nil, &nodes)
	top := topOf(nodes, findNode(nodes, disk))
	if top == nil {
		return fmt.Errorf("no node %s", disk)
	}
	return d.hands.Execute(d.t.Context(), "block-export-add",
		args{"type": "nbd", "id": "guest", "name": "guest", "node-name": top.Node, "writable": true}, nil)
}

func (d *daemon) write(disk string, off, length int64, fill byte) error {
	return d.export(disk, func(url string) error {
		out, err := exec.Command(tool(d.t, "qemu-io", "qemu-utils"), "-f", "raw", "-c", fmt.Sprintf("write -f -P %d %d %d", fill, off, length), url).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
}

func (d *daemon) content(t testing.TB, disk string) []byte {
	t.Helper()
	path := filepath.Join(d.dir, "content")
	defer os.Remove(path)
	select {
	case <-d.ended:
		shell(t, "qemu-img", "convert", "-f", string(d.shape.format), "-O", "raw", d.disks[disk[len(disk)-1]-'0'], path)
	default:
		if err := d.export(disk, func(url string) error {
			shell(t, "qemu-img", "convert", "-f", "raw", "-O", "raw", url, path)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (d *daemon) host() *Host {
	vm := VM{Name: "web", QMP: d.dir + "/qmp"}
	for i := range d.shape.disks {
		vm.Nodes = append(vm.Nodes, fmt.Sprintf("fmt%d", i))
	}
	h := NewHost([]VM{vm}, d.options())
	d.t.Cleanup(func() { h.Close() })
	return h
}

func (d *daemon) fixture() *snapshottest.Fixture {
	h := d.host()
	return &snapshottest.Fixture{
		Host: h, VM: "web", Write: d.write, Content: d.content, Files: d.files, Chain: d.chain,
		Reopen: func(testing.TB) snapshot.Host {
			h.Close()
			return d.host()
		},
		Crash: func(testing.TB) { d.kill() },
	}
}

func TestStorageDaemon(t *testing.T) {
	t.Parallel()
	for _, s := range []shape{{format: snapshot.FormatQcow2, disks: 2}, {format: snapshot.FormatRaw, disks: 1}} {
		t.Run(s.String(), func(t *testing.T) {
			t.Parallel()
			snapshottest.Run(t, func(t *testing.T) *snapshottest.Fixture { return newDaemon(t, s).fixture() })
		})
	}
}

// A guest that runs, on a disk with an I/O thread of its own: all steps move
// nodes between threads.
func TestRunningGuest(t *testing.T) {
	r := newRun(t, shape{format: snapshot.FormatQcow2, bus: "iothread", disks: 1}, func(v *testVM) { v.boot = writingGuest() })
	r.ask("cont", nil, nil)
	r.goesOn()
	r.take()
	f, err := r.host.Open(r.ctx, r.plan)
	if err != nil {
		t.Fatal(err)
	}
	s, err := f.Disk(r.ctx, r.plan.Disks[0].Name)
	if err != nil {
		t.Fatal(err)
	}
	first := snapshottest.ReadAll(r.ctx, t, s)
	r.goesOn()
	if !bytes.Equal(first, snapshottest.ReadAll(r.ctx, t, s)) {
		t.Error("the frozen disk moved")
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if err := r.merge(); err != nil {
		t.Fatal(err)
	}
	r.goesOn()
	if left := r.left(r.plan.Disks[0]); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}
