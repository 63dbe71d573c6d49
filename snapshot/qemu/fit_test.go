package qemu

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lull-backup/lull/snapshot"
)

// Memory is saved only of a VM that boot.sh can start with the same devices.
func TestRecreatable(t *testing.T) {
	const disk = " -drive if=none,id=d0,file=/vm/a.qcow2 -device virtio-blk-pci,id=root,drive=d0"
	device := func(ids ...string) (list []snapshot.Device) {
		for _, id := range ids {
			list = append(list, snapshot.Device{ID: id, Driver: "a-driver", Path: "/machine/peripheral/" + id})
		}
		return list
	}
	for _, c := range []struct {
		what, line string
		devices    []snapshot.Device
		excluded   []snapshot.Excluded
		want       string // of the error; empty: none
	}{
		{"as it was started", "-m 64" + disk, device("root"), nil, ""},
		{"an empty drive", "-m 64" + disk + " -device scsi-cd,id=cd", device("root", "cd"), []snapshot.Excluded{{Reason: "empty drive", Expected: true}}, ""},
		{"a medium", "-m 64" + disk + " -device scsi-cd,id=cd,drive=iso", device("root", "cd"), []snapshot.Excluded{{Disk: snapshot.Disk{Name: "cd"}, Reason: removable}}, "medium"},
		{"nothing known", "", device("root"), nil, "cannot be seen"},
		{"a device added", "-m 64" + disk, device("root", "new"), nil, "new"},
		{"a device taken", "-m 64 -device virtio-rng-pci,id=rng" + disk, device("root"), nil, "rng"},
		{"a disk left out", "-m 64 -drive if=none,id=d1,file=/x -device virtio-blk-pci,id=other,drive=d1" + disk, device("root", "other"), nil, "d1"},
		{"another process's device", "-m 64 -chardev socket,id=c,path=/s -device vhost-user-fs-pci,id=fs,chardev=c" + disk, device("root", "fs"), nil, "left out"},
		{"a network of another's", "-m 64 -netdev tap,id=n,fd=9 -device virtio-net-pci,id=net,netdev=n" + disk, device("root", "net"), nil, "network"},
		{"a file of options", "-readconfig /vm/web.cfg" + disk, device("root"), nil, "web.cfg"},
	} {
		t.Run(c.what, func(t *testing.T) {
			p := snapshot.Plan{VM: "web", Excluded: c.excluded,
				Disks:    []snapshot.DiskPlan{{Disk: snapshot.Disk{Name: "root", Path: "/vm/a.qcow2", Format: snapshot.FormatQcow2}}},
				Hardware: snapshot.Hardware{Machine: "pc-q35-7.2", CPU: "qemu64", Devices: c.devices}}
			if c.line != "" {
				p.Hardware.CommandLine = append([]string{"qemu-system-x86_64"}, strings.Fields(c.line)...)
			}
			err := recreatable(p)
			if c.want == "" && err != nil {
				t.Errorf("refused: %v", err)
			}
			if c.want != "" && (!errors.Is(err, snapshot.ErrUnsupported) || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

// A restore refuses a QEMU that would not take the memory, and names --cold.
func TestFitsState(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	program := filepath.Join(dir, "qemu-system-x86_64")
	fake := "#!/bin/sh\ncase $1 in --version) echo 'QEMU emulator version 8.2.0 (x)';; -machine) echo 'pc-q35-7.2  Standard PC';; *) echo '  qemu64  a model';; esac\n"
	if err := os.WriteFile(program, []byte(fake), 0o700); err != nil {
		t.Fatal(err)
	}
	good := snapshot.Hardware{Arch: "x86_64", Version: "7.2.22", Machine: "pc-q35-7.2", CPU: "qemu64", Accelerator: "tcg"}
	for _, c := range []struct {
		what   string
		change func(*snapshot.Hardware)
		want   string
	}{
		{"the same", func(*snapshot.Hardware) {}, ""},
		{"of an early version of lull", func(hw *snapshot.Hardware) { hw.Accelerator = "" }, ""},
		{"no QEMU here", func(hw *snapshot.Hardware) { hw.Arch = "none-such" }, ""},
		{"a newer QEMU", func(hw *snapshot.Hardware) { hw.Version = "10.0.1" }, "QEMU 10.0"},
		{"another machine", func(hw *snapshot.Hardware) { hw.Machine = "pc-q35-9.0" }, "pc-q35-9.0"},
		{"another CPU", func(hw *snapshot.Hardware) { hw.CPU = "EPYC-v4" }, "EPYC-v4"},
		{"another host's processor", func(hw *snapshot.Hardware) { hw.HostCPU = "Abacus 9000" }, "Abacus 9000"},
	} {
		t.Run(c.what, func(t *testing.T) {
			hw := good
			c.change(&hw)
			err := Definer{}.FitsState(t.Context(), hw)
			if c.want == "" {
				if err != nil {
					t.Errorf("refused: %v", err)
				}
				return
			}
			var hint interface{ Hint() string }
			if !errors.Is(err, snapshot.ErrUnsupported) || !strings.Contains(err.Error(), c.want) || !errors.As(err, &hint) || !strings.Contains(hint.Hint(), "--cold") {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}
