package qemu

import (
	"cmp"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/lull-backup/lull/snapshot"
)

// rewriter turns the command line of a VM that was backed up into one for its
// restored files.
type rewriter struct {
	dir    string
	vm     snapshot.Restored
	out    start
	graph  graph
	qmp    bool            // a QMP socket is there
	agents map[string]bool // chardevs of guest-agent channels
	mons   map[string]bool // chardevs of monitors
	lost   map[string]bool // chardevs to processes that served devices
	serial int
}

// rewrite makes the command that starts a restored VM.
func rewrite(dir string, vm snapshot.Restored) start {
	r := &rewriter{dir: dir, vm: vm, agents: map[string]bool{}, mons: map[string]bool{}, lost: map[string]bool{}}
	r.out.program = program(vm.Hardware)
	options := parseOptions(vm.Hardware.CommandLine)
	if len(options) == 0 {
		return r.plain()
	}
	r.channels(options)
	r.graph = newGraph(options)
	r.disks()
	for i, o := range options {
		r.option(i, o)
	}
	r.resume()
	for _, d := range r.vm.Disks {
		if d.Decrypted {
			r.remark("disk %s is not encrypted", d.Name)
		}
	}
	for _, name := range r.graph.unplaced(r.vm.Disks) {
		r.lose("disk %s was restored, but its place on the command line is not known", name)
	}
	r.monitor()
	return r.out
}

func (r *rewriter) remark(format string, a ...any) {
	r.out.remarks = append(r.out.remarks, fmt.Sprintf(format, a...))
}

// lose is a remark on what the guest had, and will not have.
func (r *rewriter) lose(format string, a ...any) {
	r.remark(format, a...)
	r.out.lost = append(r.out.lost, r.out.remarks[len(r.out.remarks)-1])
}

func (r *rewriter) add(name, value string) {
	r.out.options = append(r.out.options, option{name: name, value: value})
}

// monitor gives the VM the one QMP socket that lull expects.
func (r *rewriter) monitor() {
	if !r.qmp {
		r.qmp = true
		r.add("qmp", "unix:./qmp.sock,server=on,wait=off")
	}
}

// channels finds out which chardevs serve what.
func (r *rewriter) channels(options []option) {
	for _, o := range options {
		switch o.name {
		case "device":
			kv := parseKeyval(o.value, true)
			if strings.HasPrefix(kv.get("name"), "org.qemu.guest_agent.") {
				r.agents[kv.get("chardev")] = true
			}
			r.lost[kv.get("chardev")] = r.lost[kv.get("chardev")] || served(kv.first("driver"))
		case "netdev":
			if kv := parseKeyval(o.value, true); kv.first("type") == "vhost-user" {
				r.lost[kv.get("chardev")] = true
			}
		case "tpmdev": // its program does not run for the restored VM
			r.lost[parseKeyval(o.value, true).get("chardev")] = true
		case "mon":
			if kv := parseKeyval(o.value, true); kv.has("chardev") || kv.first("chardev") != "" {
				r.mons[kv.first("chardev")] = true
			}
		}
	}
}

// served tells whether another process serves a kind of device. QEMU would wait for
// that process for ever.
func served(driver string) bool {
	return strings.HasPrefix(driver, "vhost-user-") || strings.HasPrefix(driver, "vhost-scsi")
}

// option rewrites one option.
func (r *rewriter) option(i int, o option) {
	if replaced, ok := r.graph.replaced[i]; ok {
		r.out.options = append(r.out.options, replaced...)
		return
	}
	switch o.name {
	case "pidfile", "daemonize", "S", "incoming", "loadvm", "snapshot", "chroot", "runas", "D", "add-fd",
		"preconfig", "qtest", "qtest-log", "mon", "monitor", "qmp", "qmp-pretty", "writeconfig":
		return // about the process that was, not about the VM
	case "readconfig":
		r.lose("what the file %s says is not known", o.value)
	case "enable-kvm":
		r.out.accels = append(r.out.accels, "kvm")
	case "accel":
		r.out.accels = append(r.out.accels, o.value)
	case "machine", "M":
		r.machine(o)
	case "kernel":
		r.file(o, snapshot.RoleKernel)
	case "initrd":
		r.file(o, snapshot.RoleInitrd)
	case "tpmdev":
		r.lose("the TPM %s is left out: start swtpm on its state, and give -tpmdev and its -device", parseKeyval(o.value, true).get("id"))
	case "device":
		kv := parseKeyval(o.value, true)
		if strings.HasPrefix(kv.first("driver"), "tpm-") {
			return // with its tpmdev
		}
		if driver := kv.first("driver"); served(driver) {
			r.lose("the device %s (%s) is left out: another process served it", cmp.Or(kv.get("id"), "without id"), driver)
			return
		}
		r.out.options = append(r.out.options, o)
	case "object":
		r.object(o)
	case "chardev":
		r.chardev(o)
	case "serial", "parallel", "debugcon":
		r.console(o)
	case "netdev", "nic", "net":
		r.network(o)
	default:
		r.out.options = append(r.out.options, o)
	}
}

// machine takes the accelerators out, so that LULL_ACCEL can replace them.
func (r *rewriter) machine(o option) {
	kv := parseKeyval(o.value, true)
	if r.state() != nil {
		kv = versioned(kv, r.vm.Hardware.Machine)
		o.value = kv.String()
	}
	if accel := kv.get("accel"); accel != "" {
		r.out.accels = append(r.out.accels, strings.Split(accel, ":")...)
		o.value = kv.without("accel").String()
	}
	if o.value != "" {
		r.out.options = append(r.out.options, o)
	}
}

// maxKeys bounds a chain of keys, each encrypted with the next.
const maxKeys = 4

// object leaves out keys that were not recorded, and those of disks, which are restored
// without encryption.
func (r *rewriter) object(o option) {
	kv := parseKeyval(o.value, true)
	if kv.first("qom-type") == "secret" && kv.get("id") == "masterKey0" {
		return // libvirt's, for what else it passes to this very process
	}
	if strings.HasPrefix(kv.first("qom-type"), "secret") && r.ofDisks(kv.get("id"), maxKeys) {
		return // and its file need not be on this host
	}
	if strings.HasPrefix(kv.first("qom-type"), "secret") && !kv.has("file") && !kv.has("keyid") && !kv.has("data") {
		r.remark("the secret %s is not recorded: give it with -object if anything but a disk needs it", kv.get("id"))
		return
	}
	r.out.options = append(r.out.options, o)
}

// ofDisks tells whether a key is one of disks, or of such a key, and of nothing else. Chains
// of keys are followed to depth.
func (r *rewriter) ofDisks(key string, depth int) bool {
	disks := false
	for _, o := range r.graph.options {
		kv := parseKeyval(o.value, true)
		if id := kv.get("id"); id == key || !kv.says(key) {
			continue
		} else if o.name == "object" && depth > 0 && r.ofDisks(id, depth-1) {
			disks = true
			continue
		}
		if o.name != "blockdev" && o.name != "drive" {
			return false
		}
		disks = true
	}
	return disks
}

// file puts the restored file of a role in the place of the one before.
func (r *rewriter) file(o option, role snapshot.FileRole) {
	i := slices.IndexFunc(r.vm.Files, func(f snapshot.RestoredFile) bool { return f.Role == role })
	if i < 0 {
		r.lose("the %s %s was not restored", role, o.value)
	} else {
		o.value = here(r.dir, r.vm.Files[i].Now)
	}
	r.out.options = append(r.out.options, o)
}

// chardev keeps sockets and files in the script's folder.
func (r *rewriter) chardev(o option) {
	kv := parseKeyval(o.value, true)
	id, kind := kv.get("id"), kv.first("backend")
	if r.mons[id] || r.lost[id] {
		return // its monitor or device is not kept either
	}
	switch {
	case r.agents[id]:
		kv = ownSocket(id, "./qga.sock")
	case kind == "socket" && !kv.has("host") && !kv.has("port"):
		kv = ownSocket(id, "./"+fileWord(id)+".sock")
	case kind == "file" || kind == "pipe":
		kv = kv.with("path", "./"+fileWord(id)+"."+kind)
	}
	if kv.has("logfile") {
		kv = kv.with("logfile", "./"+fileWord(id)+".log")
	}
	if !kv.json || kv.first("backend") == "socket" {
		o.value = kv.String()
	}
	r.out.options = append(r.out.options, o)
}

func ownSocket(id, path string) keyval {
	return keyval{pairs: []pair{{value: "socket"}, {key: "id", value: id}, {key: "path", value: path},
		{key: "server", value: "on"}, {key: "wait", value: "off"}}}
}

// console keeps what a serial port is connected to in the script's folder.
func (r *rewriter) console(o option) {
	kind, _, _ := strings.Cut(o.value, ":")
	name := "./" + o.name + strconv.Itoa(r.serial)
	r.serial++
	switch kind {
	case "unix":
		o.value = "unix:" + name + ".sock,server=on,wait=off"
	case "file", "pipe":
		o.value = kind + ":" + name + "." + kind
	}
	r.out.options = append(r.out.options, o)
}

// network replaces interfaces that were passed as open files: nobody passes
// them again.
func (r *rewriter) network(o option) {
	kv := parseKeyval(o.value, true)
	if kv.has("fd") || kv.has("fds") || kv.has("vhostfd") || kv.has("vhostfds") || kv.first("type") == "vhost-user" {
		id := cmp.Or(kv.get("id"), kv.get("netdev"))
		r.lose("the network %s was another program's; it is a user-mode network now", id)
		user := keyval{pairs: []pair{{value: "user"}}}
		for _, key := range []string{"id", "model", "mac"} {
			if v := kv.get(key); v != "" {
				user = user.with(key, v)
			}
		}
		o.value = user.String()
	}
	r.out.options = append(r.out.options, o)
}

// plain builds a command from the description alone, for a VM whose command line
// could not be seen.
func (r *rewriter) plain() start {
	hw := r.vm.Hardware
	r.lose("the command line of the VM is not known; this one is made from its description")
	r.add("name", escape(r.vm.Name))
	r.add("machine", cmp.Or(hw.Machine, "q35"))
	if hw.CPU != "" {
		r.add("cpu", hw.CPU)
	}
	r.add("smp", strconv.Itoa(max(hw.VCPUs, 1)))
	memory := hw.Memory >> 20
	if memory <= 0 {
		memory = 1024
	}
	r.add("m", strconv.FormatInt(memory, 10))
	if hw.UUID != "" {
		r.add("uuid", hw.UUID)
	}
	for _, f := range r.vm.Files {
		r.plainFile(f)
	}
	for _, d := range r.vm.Disks {
		kv := keyval{pairs: []pair{{key: "file", value: here(r.dir, d.Path)}, {key: "format", value: string(d.Format)},
			{key: "if", value: "virtio"}}}
		r.add("drive", kv.String())
	}
	r.add("nic", "user,model=virtio-net-pci")
	r.add("device", "virtio-serial-pci")
	r.add("chardev", ownSocket("qga0", "./qga.sock").String())
	r.add("device", "virtserialport,chardev=qga0,name=org.qemu.guest_agent.0")
	r.monitor()
	return r.out
}

// firmware is where distributions put the code that goes with the variables.
const firmware = "/usr/share/OVMF/OVMF_CODE_4M.fd"

func (r *rewriter) plainFile(f snapshot.RestoredFile) {
	now := here(r.dir, f.Now)
	switch f.Role {
	case snapshot.RoleKernel:
		r.add("kernel", now)
	case snapshot.RoleInitrd:
		r.add("initrd", now)
	case snapshot.RoleNVRAM:
		r.remark("firmware code is taken from %s", filepath.Dir(firmware))
		r.add("drive", "if=pflash,unit=0,format=raw,readonly=on,file="+firmware)
		r.add("drive", "if=pflash,unit=1,format=raw,file="+escape(now))
	}
}
