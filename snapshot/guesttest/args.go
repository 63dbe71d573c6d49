package guesttest

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// OVMF as Debian's package ovmf installs it.
const (
	ovmfCode = "/usr/share/OVMF/OVMF_CODE_4M.fd"
	ovmfVars = "/usr/share/OVMF/OVMF_VARS_4M.fd"
)

// arguments is QEMU's command line. Emulation is always asked for by name: a
// machine may have /dev/kvm and yet hang with it.
func (g *Guest) arguments() []string {
	args := []string{
		"-name", g.Name,
		"-nodefaults", "-no-user-config", "-display", "none",
		"-machine", "q35", "-accel", "tcg,thread=multi",
		"-smp", "1", "-m", strconv.FormatInt(g.options.Memory>>20, 10),
		"-kernel", g.image.Kernel, "-initrd", g.image.Initrd, "-append", g.kernelArguments(),
		"-qmp", "unix:" + quote(g.QMP) + ",server=on,wait=off",
		"-serial", "file:" + quote(g.SerialLog),
		"-device", "virtio-serial-pci,id=serial0",
	}
	args = append(args, port("org.qemu.guest_agent.0", "agent0", "socket,path="+quote(g.Agent)+",server=on,wait=off")...)
	args = append(args, port("lull.side", "side0", "socket,path="+quote(g.Side)+",server=on,wait=off")...)
	args = append(args, port("lull.acks", "acks0", "file,path="+quote(g.acks))...)
	if g.options.UEFI {
		args = append(args,
			"-drive", "if=pflash,format=raw,unit=0,readonly=on,file="+ovmfCode,
			"-drive", "if=pflash,format=raw,unit=1,file="+quote(g.NVRAM))
	}
	if slices.ContainsFunc(g.options.Disks, func(d Disk) bool { return d.Bus == VirtioSCSI }) {
		args = append(args, "-device", "virtio-scsi-pci,id=scsi0")
	}
	for i, d := range g.options.Disks {
		args = append(args, diskArguments(i, d, g.Disks[i])...)
	}
	return append(args, g.options.Args...)
}

// kernelArguments: the first half saves about two seconds of an emulated boot.
func (g *Guest) kernelArguments() string {
	disks := len(g.Disks)
	if g.options.System != "" {
		disks--
	}
	s := fmt.Sprintf("mitigations=off nokaslr no_timer_check quiet console=ttyS0 lull.disks=%d", disks)
	if g.options.System != "" {
		s += " lull.system"
	}
	if g.options.Pause > 0 {
		s += " lull.record=" + g.options.Pause.String()
	}
	return s
}

// port is a virtio port and what is at the host's end. The ids matter: without
// one QEMU reports no VSERPORT_CHANGE.
func port(name, id, backend string) []string {
	kind, rest, _ := strings.Cut(backend, ",")
	return []string{
		"-chardev", fmt.Sprintf("%s,id=%s,%s", kind, id, rest),
		"-device", fmt.Sprintf("virtserialport,id=%s-port,chardev=%s,name=%s", id, id, name),
	}
}

func diskArguments(i int, d Disk, path string) []string {
	front := map[Bus]string{VirtioBlk: "virtio-blk-pci", VirtioSCSI: "scsi-hd,bus=scsi0.0"}[d.Bus]
	switch d.Style {
	case StyleLegacy:
		return []string{"-drive", fmt.Sprintf("if=virtio,format=%s,file=%s", d.Format, quote(path))}
	case StyleDrive:
		return []string{
			"-drive", fmt.Sprintf("if=none,id=drive%d,format=%s,file=%s", i, d.Format, quote(path)),
			"-device", fmt.Sprintf("%s,drive=drive%d,id=disk%d", front, i, i),
		}
	default:
		return []string{
			"-blockdev", fmt.Sprintf("driver=file,node-name=file%d,filename=%s", i, quote(path)),
			"-blockdev", fmt.Sprintf("driver=%s,node-name=fmt%d,file=file%d", d.Format, i, i),
			"-device", fmt.Sprintf("%s,drive=fmt%d,id=disk%d", front, i, i),
		}
	}
}

// quote escapes a value in QEMU's key=value lists.
func quote(s string) string { return strings.ReplaceAll(s, ",", ",,") }
