package image_test

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/image"
)

// start runs a program until the test ends, or until the returned stop is called.
func start(t *testing.T, program string, args ...string) (stop func()) {
	t.Helper()
	cmd := exec.Command(program, args...)
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { cmd.Wait(); close(ended) }()
	stop = func() { cmd.Process.Kill(); <-ended }
	t.Cleanup(func() {
		stop()
		if t.Failed() {
			t.Logf("%s: %s", program, log.Bytes())
		}
	})
	return stop
}

// await polls until ok says true.
func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(patience)
	for !ok() {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

func exists(path string) bool { _, err := os.Lstat(path); return err == nil }

// holders are ways in which QEMU holds an image open for writing.
func holders(t *testing.T, path, socket string) map[string][]string {
	t.Helper()
	return map[string][]string{
		"qemu-nbd": {tool(t, "qemu-nbd", "qemu-utils"), "--persistent", "--format=qcow2", "--socket=" + socket, path},
		"qemu-system": {
			tool(t, "qemu-system-x86_64", "qemu-system-x86"), "-accel", "tcg", "-machine", "q35", "-S", "-nodefaults", "-display", "none",
			"-blockdev", "driver=qcow2,node-name=d,file.driver=file,file.filename=" + path,
			"-device", "virtio-blk-pci,drive=d", "-qmp", "unix:" + socket + ",server=on,wait=off"},
		"qemu-storage-daemon": {
			tool(t, "qemu-storage-daemon", "qemu-system-common"), "--blockdev", "driver=qcow2,node-name=d,file.driver=file,file.filename=" + path,
			"--nbd-server", "addr.type=unix,addr.path=" + socket, "--export", "type=nbd,id=e,node-name=d,writable=on"},
	}
}

func TestRunningVMIsBusy(t *testing.T) {
	for _, name := range []string{"qemu-nbd", "qemu-system", "qemu-storage-daemon"} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "disk.qcow2")
			qemuImg(t, "create", "-f", "qcow2", path, "1M")
			layers := []snapshot.Layer{{Path: path, Format: snapshot.FormatQcow2}}
			command := holders(t, path, filepath.Join(dir, "s"))[name]
			stop := start(t, command[0], command[1:]...)

			// Asked without a lock: even one that is held for a moment may keep QEMU from
			// starting.
			host := image.NewHost([]image.VM{{Name: "vm", Disks: []image.DiskSpec{{Path: path, Format: snapshot.FormatQcow2}}}})
			await(t, name+" locks its image", func() bool {
				vms, err := host.VMs(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				return vms[0].State == snapshot.StateUnreachable && strings.Contains(vms[0].Problem, "another process")
			})
			_, err := image.OpenChain(t.Context(), layers)
			var hinted *snapshot.Hinted
			if !errors.Is(err, snapshot.ErrBusy) || !errors.As(err, &hinted) || !strings.Contains(hinted.Hint(), "qemu host") {
				t.Errorf("image of a running VM: %v", err)
			}
			if _, err := host.Plan(t.Context(), "vm", "run"); !errors.Is(err, snapshot.ErrBusy) {
				t.Errorf("Plan: %v", err)
			}
			if _, err := (image.Images{}).Create(t.Context(), path, snapshot.FormatRaw, 4096, true); !errors.Is(err, snapshot.ErrBusy) {
				t.Errorf("Create over it: %v", err)
			}
			stop()
			src, err := image.OpenChain(t.Context(), layers)
			if err != nil {
				t.Fatalf("after %s ended: %v", name, err)
			}
			src.Close()
		})
	}
}

// TestReadersShare sees that we and QEMU read together, and that QEMU finds an
// image locked that we read.
func TestReadersShare(t *testing.T) {
	dir := t.TempDir()
	path, socket := filepath.Join(dir, "disk.qcow2"), filepath.Join(dir, "s")
	qemuImg(t, "create", "-f", "qcow2", path, "1M")
	start(t, tool(t, "qemu-nbd", "qemu-utils"), "--read-only", "--persistent", "--format=qcow2", "--socket="+socket, path)
	greeted(t, socket)
	src := openLoose(t, path, snapshot.FormatQcow2)
	qemuImg(t, "info", path)
	out, err := exec.Command(tool(t, "qemu-io", "qemu-utils"), "-f", "qcow2", "-c", "write 0 4k", path).CombinedOutput()
	if !strings.Contains(string(out), "lock") {
		t.Errorf("QEMU opens an image for writing that we read: %v\n%s", err, out)
	}
	if _, err := (image.Images{}).Create(t.Context(), path, snapshot.FormatRaw, 4096, true); !errors.Is(err, snapshot.ErrBusy) {
		t.Errorf("Create over an image that is read: %v", err)
	}
	src.Close()
}

// TestOtherLocks plays programs that lock files in other ways.
func TestOtherLocks(t *testing.T) {
	for name, lock := range map[string]func(fd int) error{
		"flock": func(fd int) error { return unix.Flock(fd, unix.LOCK_EX) },
		"whole file": func(fd int) error {
			return unix.FcntlFlock(uintptr(fd), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK})
		},
		"one byte": func(fd int) error {
			return unix.FcntlFlock(uintptr(fd), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK, Start: 203, Len: 1})
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := write(t, filepath.Join(t.TempDir(), "disk.raw"), make([]byte, 4096))
			f, err := os.OpenFile(path, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if err := lock(int(f.Fd())); err != nil {
				t.Fatal(err)
			}
			if _, err := image.OpenChain(t.Context(), []snapshot.Layer{{Path: path, Format: snapshot.FormatRaw}}); !errors.Is(err, snapshot.ErrBusy) {
				t.Errorf("error %v, want ErrBusy", err)
			}
		})
	}
}
