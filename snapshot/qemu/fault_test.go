package qemu

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/qmp"
)

func TestBusyMonitor(t *testing.T) {
	v := newVM(t, qcow2VM())
	other, err := qmp.Dial(t.Context(), v.dir+"/qmp", qmp.Options{})
	if err != nil {
		t.Fatal(err)
	}
	opt := v.options()
	opt.Monitor.Handshake = 50 * time.Millisecond
	h := NewHost([]VM{{Name: "web", QMP: v.dir + "/qmp"}}, opt)
	if _, err := h.Plan(t.Context(), "web", "run"); !errors.Is(err, snapshot.ErrBusy) {
		t.Errorf("Plan: %v", err)
	}
	vms, err := h.VMs(t.Context())
	if err != nil || len(vms) != 1 || vms[0].State != snapshot.StateUnreachable || vms[0].Problem == "" {
		t.Errorf("VMs: %+v, %v", vms, err)
	}
	other.Close()
	if _, err := v.host().Plan(t.Context(), "web", "run"); err != nil {
		t.Errorf("Plan afterwards: %v", err)
	}
}

func TestUnreachable(t *testing.T) {
	dir := shortDir(t)
	dead := filepath.Join(dir, "dead")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: dead})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	h := NewHost([]VM{{Name: "dead", QMP: dead}, {Name: "missing", QMP: dir + "/missing", GuestAgent: dir + "/none"}}, Options{RuntimeDir: dir})
	for _, name := range []string{"dead", "missing"} {
		if _, err := h.Plan(t.Context(), name, "run"); !errors.Is(err, snapshot.ErrUnreachable) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := h.Guest(t.Context(), name); !errors.Is(err, snapshot.ErrNoGuest) {
			t.Errorf("%s: %v", name, err)
		}
	}
	vms, err := h.VMs(t.Context())
	if err != nil || len(vms) != 2 || vms[0].Problem == "" || vms[1].State != snapshot.StateUnreachable {
		t.Errorf("VMs: %+v, %v", vms, err)
	}
}

// Another tool's NBD server must survive, and be named.
func TestForeignServer(t *testing.T) {
	serve := func(r *testVM) {
		r.ask("nbd-server-start", args{"addr": args{"type": "unix", "data": args{"path": r.dir + "/foreign"}}}, nil)
	}
	t.Run("Plan", func(t *testing.T) {
		v := newVM(t, qcow2VM())
		serve(v)
		v.ask("block-export-add", args{"type": "nbd", "id": "theirs", "node-name": "cdrom", "name": "theirs"}, nil)
		_, err := v.host().Plan(t.Context(), "web", "run")
		if !errors.Is(err, snapshot.ErrBusy) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("Open", func(t *testing.T) {
		r := taken(t, shape{format: snapshot.FormatQcow2, bus: "virtio", disks: 2, served: true})
		serve(r.testVM)
		_, err := r.host.Open(r.ctx, r.plan)
		r.wantErr(err, snapshot.ErrBusy)
		r.hinted(err)
		r.merged()
		c, err := net.Dial("unix", r.dir+"/foreign")
		if err != nil {
			t.Fatalf("the other tool's server is gone: %v", err)
		}
		c.Close()
	})
}

func TestForeignJob(t *testing.T) {
	v := newVM(t, qcow2VM())
	v.ask("blockdev-add", args{"driver": "null-co", "node-name": "sink", "size": diskSize}, nil)
	v.ask("blockdev-backup", args{"job-id": "theirs", "device": "fmt0", "target": "sink", "sync": "full", "speed": 1000}, nil)
	if _, err := v.host().Plan(t.Context(), "web", "run"); !errors.Is(err, snapshot.ErrBusy) {
		t.Errorf("got %v", err)
	}
	v.ask("block-job-cancel", args{"device": "theirs", "force": true}, nil)
}

// A job that somebody has started on the delta keeps it from being merged, and says so; once
// it has ended the merge goes well.
func TestForeignJobOnTheDelta(t *testing.T) {
	r := taken(t, qcow2VM())
	r.ask("blockdev-add", args{"driver": "null-co", "node-name": "sink", "size": diskSize}, nil)
	r.ask("blockdev-backup", args{"job-id": "theirs", "device": r.plan.Disks[0].DeltaNode, "target": "sink", "sync": "full", "speed": 1000}, nil)
	err := r.merge()
	r.wantErr(err, snapshot.ErrBusy)
	r.hinted(err)
	r.ask("block-job-cancel", args{"device": "theirs", "force": true}, nil)
	eventually(t, "the other job ends", func() bool {
		var jobs []struct{ Device string }
		r.ask("query-block-jobs", nil, &jobs)
		return len(jobs) == 0
	})
	r.ask("blockdev-del", args{"node-name": "sink"}, nil)
	r.merged()
}

// smallFS is a file system of so many bytes for the disks of a VM.
func smallFS(t testing.TB, dir string, size string) {
	t.Helper()
	mountFS(t, dir, "tmpfs", "size="+size)
}

// ramFS is a file system that keeps no extended attributes.
func ramFS(t *testing.T, dir string) {
	t.Helper()
	mountFS(t, dir, "ramfs", "")
}

func mountFS(t testing.TB, dir, kind, options string) {
	t.Helper()
	if err := unix.Mount(kind, dir, kind, 0, options); err != nil {
		t.Fatalf("mount a %s (this test needs to be root): %v", kind, err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
}

// fill takes all the space there is.
func fill(t *testing.T, dir string) string {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, "filler"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for b := make([]byte, 4096); ; {
		if _, err := f.Write(b); err != nil {
			return f.Name()
		}
	}
}

func TestCommitOntoFullFileSystem(t *testing.T) {
	for name, end := range map[string]func(r *run){"live": func(*run) {}, "offline": (*run).kill} {
		t.Run(name, func(t *testing.T) {
			r := newRun(t, qcow2VM(), func(v *testVM) { smallFS(t, v.dir+"/disks", "20m") })
			r.take()
			for _, d := range r.plan.Disks { // where the images have a hole
				r.guestWrites(d.Name, 1<<20, 0x55)
				r.guestWrites(d.Name, 3<<20, 0x56)
			}
			filler := fill(t, r.dir+"/disks")
			end(r)
			for range 2 {
				r.wantErr(r.merge(), snapshot.ErrNoSpace)
			}
			for _, d := range r.plan.Disks {
				if left := r.left(d); !slices.Equal(left, []string{d.Delta}) {
					t.Errorf("left of the delta: %v", left)
				}
			}
			if err := os.Remove(filler); err != nil {
				t.Fatal(err)
			}
			r.merged()
		})
	}
}

func TestPrepareOnFullFileSystem(t *testing.T) {
	v := mountedVM(t, qcow2VM(), func(v *testVM) { smallFS(t, v.dir+"/disks", "20m") })
	h := v.host()
	p, err := h.Plan(t.Context(), "web", "run")
	if err != nil {
		t.Fatal(err)
	}
	fill(t, v.dir+"/disks")
	if err := h.Prepare(t.Context(), p); !errors.Is(err, snapshot.ErrNoSpace) {
		t.Errorf("Prepare: %v", err)
	}
	if err := h.Merge(t.Context(), p); err != nil {
		t.Errorf("Merge: %v", err)
	}
}

// writingGuest is a boot sector that writes 16 KiB at a time through the BIOS,
// forwards from sector 64 and around again, for ever.
func writingGuest() []byte {
	b := make([]byte, 512)
	copy(b, []byte{
		0x31, 0xC0, // xor ax, ax
		0x8E, 0xD8, // mov ds, ax
		0x8E, 0xD0, // mov ss, ax
		0xBC, 0x00, 0x7C, // mov sp, 0x7c00
		0xBE, 0x50, 0x7C, // next: mov si, packet
		0xB8, 0x00, 0x43, // mov ax, 0x4300 (extended write)
		0xB2, 0x80, // mov dl, 0x80
		0xCD, 0x13, // int 0x13
		0x66, 0x83, 0x06, 0x58, 0x7C, 0x20, // add dword [sector], 32
		0x66, 0x81, 0x3E, 0x58, 0x7C, 0x00, 0x1F, 0x00, 0x00, // cmp dword [sector], 0x1f00
		0x72, 0xE5, // jb next
		0x66, 0xC7, 0x06, 0x58, 0x7C, 0x40, 0x00, 0x00, 0x00, // mov dword [sector], 64
		0xEB, 0xDA, // jmp next
	})
	copy(b[0x50:], []byte{
		0x10, 0, 0x20, 0, // packet: its length, sectors to write
		0x00, 0x80, 0x00, 0x00, // from 0000:8000
		0x40, 0, 0, 0, 0, 0, 0, 0, // sector
	})
	b[510], b[511] = 0x55, 0xAA
	return b
}

// QEMU stops a VM whose delta cannot grow. Watch says so, Merge makes room, and
// the guest goes on without having seen an error.
func TestDeltaFills(t *testing.T) {
	for _, s := range []shape{{format: snapshot.FormatRaw, bus: "virtio", disks: 1}, {format: snapshot.FormatRaw, drive: true, bus: "scsi", disks: 1}} {
		t.Run(s.String(), func(t *testing.T) {
			r := newRun(t, s, func(v *testVM) {
				smallFS(t, v.dir+"/disks", "10m")
				v.free = -1 // as if it filled faster than Watch looks
				v.boot = writingGuest()
			})
			r.ask("cont", nil, nil)
			r.take()
			f, err := r.host.Open(r.ctx, r.plan)
			if err != nil {
				t.Fatal(err)
			}
			filler := fill(t, r.dir+"/disks")
			r.wantErr(f.Watch(r.ctx), snapshot.ErrNoSpace)
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
			if err := os.Remove(filler); err != nil {
				t.Fatal(err)
			}
			if err := r.merge(); err != nil {
				t.Fatalf("Merge: %v", err)
			}
			r.goesOn()
		})
	}
}

// The delta fills while it is merged: nobody watches then, and the guest goes on
// all the same.
func TestDeltaFillsDuringMerge(t *testing.T) {
	r := newRun(t, rawVM(), func(v *testVM) {
		smallFS(t, v.dir+"/disks", "10m")
		v.free = -1
		v.boot = writingGuest()
	})
	r.allocate(r.disks[0])
	r.take()
	d := r.plan.Disks[0]
	r.guestWrites(d.Name, 1<<20, 0x55)
	if _, err := r.host.Open(r.ctx, r.plan); err != nil { // its end shows that Merge has begun
		t.Fatal(err)
	}
	r.startCommit(0)
	r.ask("job-pause", args{"id": commitJob(d.DeltaNode)}, nil)
	merged := make(chan error, 1)
	go func() { merged <- r.merge() }()
	eventually(t, "the merge", func() bool { _, err := os.Stat(r.host.socketPath(r.plan)); return err != nil })
	fill(t, r.dir+"/disks")
	r.ask("cont", nil, nil)
	eventually(t, "the guest is stopped", func() bool {
		var s struct{ Status string }
		r.ask("query-status", nil, &s)
		return s.Status == "io-error"
	})
	r.ask("job-resume", args{"id": commitJob(d.DeltaNode)}, nil)
	r.wantErr(<-merged, nil)
	r.goesOn()
}

// allocate gives an image all the space that it can ever take.
func (r *run) allocate(image string) {
	r.t.Helper()
	f, err := os.OpenFile(image, os.O_WRONLY, 0)
	if err != nil {
		r.t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Fallocate(int(f.Fd()), 0, 0, diskSize); err != nil {
		r.t.Fatal(err)
	}
}

// goesOn waits until the guest has written some more.
func (r *run) goesOn() {
	r.t.Helper()
	var s struct{ Status string }
	r.ask("query-status", nil, &s)
	before := r.guestWrote()
	eventually(r.t, "the guest goes on writing, it is "+s.Status, func() bool { return r.guestWrote() > before })
}

func TestCancelled(t *testing.T) {
	t.Parallel()
	r := prepared(t, qcow2VM())
	over, cancel := context.WithCancel(r.ctx)
	cancel()
	r.wantErr(r.host.Take(over, r.plan), context.Canceled)
	_, err := r.host.Open(over, r.plan)
	r.wantErr(err, context.Canceled)
	r.wantErr(r.merge(), nil)
	r.clean()
}
