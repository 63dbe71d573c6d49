package qemu

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/qmp"
)

// argv runs a script with a program in QEMU's place that only says how it was
// called.
func argv(t *testing.T, dir string, env []string, more ...string) []string {
	t.Helper()
	tell := filepath.Join(t.TempDir(), "tell")
	if err := os.WriteFile(tell, []byte("#!/bin/sh\nfor a in \"$@\"; do printf '%s\\0' \"$a\"; done\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), filepath.Join(dir, scriptName), more...)
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), append(env, "LULL_QEMU="+tell)...)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00")
}

func define(t *testing.T, dir string, vm snapshot.Restored) []string {
	t.Helper()
	paths := Definer{}.Writes(dir)
	err := Definer{}.Define(t.Context(), dir, vm)
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{filepath.Join(dir, recordName), filepath.Join(dir, scriptName)}; !slices.Equal(paths, want) {
		t.Errorf("wrote %v", paths)
	}
	return paths
}

func TestRewrite(t *testing.T) {
	dir := t.TempDir()
	disk := func(name string, f snapshot.Format) snapshot.RestoredDisk {
		return snapshot.RestoredDisk{Name: name, Path: filepath.Join(dir, name+".img"), Format: f}
	}
	file := func(role snapshot.FileRole, was string) snapshot.RestoredFile {
		return snapshot.RestoredFile{File: snapshot.File{Role: role, Path: was}, Now: filepath.Join(dir, string(role))}
	}
	for _, c := range []struct {
		name      string
		was, want string // words apart by blanks
		disks     []snapshot.RestoredDisk
		files     []snapshot.RestoredFile
		devices   []snapshot.Device
	}{
		{
			name: "libvirt",
			was: `-name guest=web,debug-threads=on -S -object {"qom-type":"secret","id":"masterKey0","format":"raw","file":"/var/lib/libvirt/qemu/domain-1-web/master-key.aes"} ` +
				"-machine pc-q35-7.2,usb=off,memory-backend=pc.ram -accel tcg -no-user-config -nodefaults -chardev socket,id=charmonitor,fd=22,server=on,wait=off -mon chardev=charmonitor,id=monitor,mode=control " +
				`-blockdev {"driver":"file","filename":"/srv/web.qcow2","node-name":"libvirt-1-storage","auto-read-only":true,"discard":"unmap"} ` +
				`-blockdev {"node-name":"libvirt-1-format","read-only":false,"driver":"qcow2","file":"libvirt-1-storage","backing":null} ` +
				`-device {"driver":"virtio-blk-pci","bus":"pci.4","drive":"libvirt-1-format","id":"virtio-disk0"} ` +
				"-add-fd set=0,fd=22,opaque=serial0-source -chardev file,id=charserial0,path=/dev/fdset/0,append=on " +
				"-chardev socket,id=chrtpm,path=/run/libvirt/qemu/swtpm/1-Web-swtpm.sock -tpmdev emulator,id=tpm-tpm0,chardev=chrtpm " +
				`-device {"driver":"tpm-crb","tpmdev":"tpm-tpm0","id":"tpm0"}`,
			disks:   []snapshot.RestoredDisk{disk("vda", "raw")},
			devices: []snapshot.Device{{ID: "virtio-disk0", Driver: "virtio-blk-pci", Disk: "vda"}},
			want: "-name guest=web,debug-threads=on -machine pc-q35-7.2,usb=off,memory-backend=pc.ram -no-user-config -nodefaults " +
				"-blockdev driver=raw,node-name=libvirt-1-format,file.driver=file,file.filename=./vda.img " +
				`-device {"driver":"virtio-blk-pci","bus":"pci.4","drive":"libvirt-1-format","id":"virtio-disk0"} ` +
				"-chardev file,id=charserial0,path=./charserial0.file,append=on -qmp unix:./qmp.sock,server=on,wait=off -accel tcg",
		},
		{
			name: "blockdev",
			was: "-machine pc-q35-7.2,accel=kvm:tcg,usb=off -S -daemonize -pidfile /run/web.pid -m 512 " +
				"-blockdev driver=file,node-name=f0,filename=/vm/a,,b.qcow2,discard=unmap " +
				"-blockdev driver=qcow2,node-name=q0,file=f0,backing=gold,discard=unmap,cache.direct=on " +
				"-blockdev driver=qcow2,node-name=gold,file.driver=file,file.filename=/vm/gold.qcow2 " +
				"-device virtio-blk-pci,id=root,drive=q0,bootindex=1 " +
				`-blockdev {"driver":"raw","node-name":"r1","read-only":false,"cache":{"direct":true},"file":{"driver":"host_device","filename":"/dev/vg/data"}} ` +
				`-device {"driver":"scsi-hd","drive":"r1","id":"data","bootindex":2} ` +
				"-blockdev driver=file,node-name=iso,filename=/iso/x.iso,read-only=on -device scsi-cd,id=cd,drive=iso",
			disks: []snapshot.RestoredDisk{disk("root", "raw"), disk("data", "qcow2")},
			want: "-machine pc-q35-7.2,usb=off -m 512 " +
				"-blockdev driver=raw,node-name=q0,discard=unmap,cache.direct=on,file.discard=unmap,file.cache.direct=on,file.driver=file,file.filename=./root.img " +
				"-device virtio-blk-pci,id=root,drive=q0,bootindex=1 " +
				"-blockdev driver=qcow2,node-name=r1,cache.direct=on,file.cache.direct=on,file.driver=file,file.filename=./data.img " +
				`-device {"driver":"scsi-hd","drive":"r1","id":"data","bootindex":2} ` +
				"-device scsi-cd,id=cd -qmp unix:./qmp.sock,server=on,wait=off -accel kvm -accel tcg",
		},
		{
			name: "encrypted",
			was: "-object secret,id=key0,file=/keys/web,keyid=master -object secret,id=master,file=/keys/master -object secret,id=vnc0,file=/keys/vnc " +
				"-blockdev driver=qcow2,node-name=q0,file.driver=file,file.filename=/vm/a.qcow2,encrypt.format=luks,encrypt.key-secret=key0 " +
				"-device virtio-blk-pci,id=root,drive=q0 -drive file=/vm/b.luks,format=luks,key-secret=key0,if=virtio -vnc :1,password-secret=vnc0",
			disks: []snapshot.RestoredDisk{disk("root", "qcow2"), disk("virtio0", "raw")},
			want: "-object secret,id=vnc0,file=/keys/vnc -blockdev driver=qcow2,node-name=q0,file.driver=file,file.filename=./root.img " +
				"-device virtio-blk-pci,id=root,drive=q0 -drive if=virtio,file=./virtio0.img,format=raw -vnc :1,password-secret=vnc0 " +
				"-qmp unix:./qmp.sock,server=on,wait=off",
		},
		{
			name: "drive",
			was: "-enable-kvm -drive file=/vm/a.qcow2,if=virtio,format=qcow2,cache=none -drive if=virtio,file=/vm/b.raw " +
				"-drive file=/vm/c.raw,format=raw,if=none,id=c -device virtio-scsi-pci -device scsi-hd,drive=c " +
				"-hda /vm/d.raw -drive file=/iso/x.iso,media=cdrom,if=ide,index=3 -cdrom /iso/y.iso -snapshot",
			disks: []snapshot.RestoredDisk{disk("virtio0", "qcow2"), disk("virtio1", "qcow2"), disk("c", "raw"), disk("ide0-hd0", "raw")},
			want: "-drive if=virtio,cache=none,file=./virtio0.img,format=qcow2 -drive if=virtio,file=./virtio1.img,format=qcow2 " +
				"-drive if=none,id=c,file=./c.img,format=raw -device virtio-scsi-pci -device scsi-hd,drive=c " +
				"-drive media=disk,index=0,file=./ide0-hd0.img,format=raw -drive media=cdrom,if=ide,index=3 " +
				"-qmp unix:./qmp.sock,server=on,wait=off -accel kvm",
		},
		{
			name: "sockets",
			was: "-name guest=web,debug-threads=on -chardev socket,id=qga,path=/run/web.qga,server=on,wait=off -device virtio-serial-pci " +
				"-device virtserialport,chardev=qga,name=org.qemu.guest_agent.0 -chardev socket,id=mon,fd=22,server=on -mon chardev=mon,mode=control " +
				"-qmp unix:/run/a,server=on -monitor unix:/run/b -serial unix:/run/c,server=on -serial file:/var/log/d -serial stdio " +
				"-chardev socket,id=tpm,path=/run/swtpm -chardev socket,id=net,host=1.2.3.4,port=5 -chardev file,id=log,path=/var/log/e " +
				"-netdev tap,fds=25:26,id=n0,vhost=on,vhostfds=27:28 -device virtio-net-pci,netdev=n0,mac=52:54:00:00:00:01 -incoming defer -D /var/log/q",
			want: "-name guest=web,debug-threads=on -chardev socket,id=qga,path=./qga.sock,server=on,wait=off -device virtio-serial-pci " +
				"-device virtserialport,chardev=qga,name=org.qemu.guest_agent.0 " +
				"-serial unix:./serial0.sock,server=on,wait=off -serial file:./serial1.file -serial stdio " +
				"-chardev socket,id=tpm,path=./tpm.sock,server=on,wait=off -chardev socket,id=net,host=1.2.3.4,port=5 -chardev file,id=log,path=./log.file " +
				"-netdev user,id=n0 -device virtio-net-pci,netdev=n0,mac=52:54:00:00:00:01 -qmp unix:./qmp.sock,server=on,wait=off",
		},
		{
			name: "served by others",
			was: "-chardev socket,id=c0,path=/run/blk.sock,server=on -device vhost-user-blk-pci,chardev=c0,id=fast " +
				"-chardev socket,id=c1,path=/run/fs -device {\"driver\":\"vhost-user-fs-pci\",\"chardev\":\"c1\",\"tag\":\"home\"} " +
				"-device vhost-scsi-pci,wwpn=naa.5001405 -chardev socket,id=c2,path=/run/net -netdev vhost-user,id=n0,chardev=c2 -device virtio-net-pci,netdev=n0",
			want: "-netdev user,id=n0 -device virtio-net-pci,netdev=n0 -qmp unix:./qmp.sock,server=on,wait=off",
		},
		{
			name: "firmware and kernel",
			was: "-drive if=pflash,unit=0,format=raw,readonly=on,file=/usr/share/OVMF/OVMF_CODE.fd -drive if=pflash,unit=1,format=raw,file=/vm/vars.fd " +
				"-kernel vmlinuz -initrd /boot/initrd -append quiet",
			files: []snapshot.RestoredFile{file(snapshot.RoleNVRAM, "/vm/vars.fd"), file(snapshot.RoleKernel, "/vm/vmlinuz"), file(snapshot.RoleInitrd, "/boot/initrd")},
			want: "-drive if=pflash,unit=0,format=raw,readonly=on,file=/usr/share/OVMF/OVMF_CODE.fd -drive if=pflash,unit=1,format=raw,file=./nvram " +
				"-kernel ./kernel -initrd ./initrd -append quiet -qmp unix:./qmp.sock,server=on,wait=off",
		},
		{
			name: "firmware nodes",
			was: "-blockdev driver=file,node-name=cf,filename=/usr/share/OVMF/OVMF_CODE.fd -blockdev node-name=code,driver=raw,read-only=on,file=cf " +
				`-blockdev {"driver":"file","node-name":"vf","filename":"/vm/vars.fd"} -blockdev node-name=vars,driver=raw,file=vf ` +
				"-machine q35,pflash0=code,pflash1=vars",
			files: []snapshot.RestoredFile{file(snapshot.RoleNVRAM, "/vm/vars.fd")},
			want: "-blockdev driver=file,node-name=cf,filename=/usr/share/OVMF/OVMF_CODE.fd -blockdev node-name=code,driver=raw,read-only=on,file=cf " +
				"-blockdev driver=file,filename=./nvram,node-name=vf -blockdev node-name=vars,driver=raw,file=vf " +
				"-machine q35,pflash0=code,pflash1=vars -qmp unix:./qmp.sock,server=on,wait=off",
		},
		{
			name:  "disk left out",
			was:   "-drive file=/vm/a.vmdk,if=none,id=a -device virtio-blk-pci,drive=a -drive file=/vm/b,if=virtio -hdb /vm/c -usb",
			disks: nil,
			want:  "-usb -qmp unix:./qmp.sock,server=on,wait=off",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			vm := snapshot.Restored{Name: "web", Overwrite: true, Disks: c.disks, Files: c.files,
				Hardware: snapshot.Hardware{Devices: c.devices, CommandLine: append([]string{"/usr/bin/qemu-system-x86_64"}, strings.Fields(c.was)...)}}
			define(t, dir, vm)
			if d := cmp.Diff(strings.Fields(c.want), argv(t, dir, nil)); d != "" {
				t.Errorf("(-want +got)\n%s", d)
			}
		})
	}
}

// Whatever the VM was called and was given is data for the shell.
func TestHostileCommandLine(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "it's $(reboot)\nhere")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	evil := []string{"-append", "'; touch /tmp/y; echo '", "-name", "$(reboot)\n`reboot`\\", "-fw_cfg", "", "-uuid", "-n", "-boot", "é\x01*?[a]"}
	vm := snapshot.Restored{Name: "web\nrm -rf /", Hardware: snapshot.Hardware{CommandLine: append([]string{"qemu-system-x86_64; reboot"}, evil...)}}
	define(t, dir, vm)
	got := argv(t, dir, []string{"LULL_ACCEL=tcg, thread=multi"}, "-S", "a b")
	want := append(slices.Clone(evil), "-qmp", "unix:./qmp.sock,server=on,wait=off", "-accel", "tcg, thread=multi", "-S", "a b")
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
}

func TestDefineKeepsFiles(t *testing.T) {
	dir := t.TempDir()
	vm := snapshot.Restored{Name: "web", Hardware: snapshot.Hardware{Arch: "aarch64"}}
	define(t, dir, vm)
	if err := (Definer{}).Define(t.Context(), dir, vm); !errors.Is(err, snapshot.ErrExists) {
		t.Errorf("a second time: %v", err)
	}
	vm.Overwrite = true
	define(t, dir, vm)
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 2 {
		t.Errorf("left: %v, %v", entries, err)
	}
}

// A VM that was backed up starts from copies of its disks in another folder,
// with every disk on the device where it was.
func TestRestoredVMStarts(t *testing.T) {
	t.Parallel()
	for _, s := range []shape{
		{format: snapshot.FormatQcow2, bus: "virtio", disks: 2, backing: true},
		{format: snapshot.FormatRaw, drive: true, bus: "virtio", disks: 2},
		{format: snapshot.FormatRaw, bus: "scsi", disks: 2},
		{format: snapshot.FormatQcow2, drive: true, bus: "scsi", disks: 2},
	} {
		t.Run(s.String(), func(t *testing.T) { restoredStarts(t, s, true) })
	}
	t.Run("no command line", func(t *testing.T) { restoredStarts(t, qcow2VM(), false) })
}

func restoredStarts(t *testing.T, s shape, commandLine bool) {
	r := prepared(t, s)
	vm := snapshot.Restored{Name: "web", Hardware: r.plan.Hardware}
	if !commandLine {
		vm.Hardware.CommandLine = nil
	}
	dir := filepath.Join(shortDir(t), "it's here")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{}
	for _, d := range r.plan.Disks {
		now := snapshot.RestoredDisk{Name: d.Name, Path: filepath.Join(dir, d.Name+", x.img"), Format: snapshot.FormatQcow2}
		shell(t, "qemu-img", "convert", "-U", "-f", string(d.Format), "-O", "qcow2", d.Path, now.Path)
		vm.Disks = append(vm.Disks, now)
		want[d.Name] = "./" + filepath.Base(now.Path)
	}
	define(t, dir, vm)
	got := startRestored(t, dir)
	if !commandLine { // the devices have other names then
		if len(got) != len(want) {
			t.Errorf("disks %v, want %v", got, want)
		}
		return
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("disks (-want +got)\n%s", d)
	}
}

// startRestored starts a script and says which file is on which disk.
func startRestored(t *testing.T, dir string) map[string]string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), filepath.Join(dir, scriptName), "-S", "-display", "none")
	cmd.Env = append(os.Environ(), "LULL_ACCEL=tcg")
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }() // it runs for ever
	var m *monitor
	eventually(t, "QMP socket of the restored VM", func() bool {
		var err error
		m, err = dialMonitor(t.Context(), VM{Name: "web", QMP: filepath.Join(dir, "qmp.sock")}, qmp.Options{})
		return err == nil
	})
	defer m.Close()
	drives, err := m.drives(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for i, b := range drives {
		if b.Inserted != nil && !b.Inserted.ReadOnly {
			files[diskName(b, i, map[string]bool{})] = b.Inserted.File
		}
	}
	return files
}
