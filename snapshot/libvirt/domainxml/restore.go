package domainxml

import (
	"fmt"
	"slices"
	"strings"

	"github.com/lull-backup/lull/snapshot"
)

// Restored says what of a domain is where after a restore.
type Restored struct {
	Disks []snapshot.RestoredDisk // by target
	NVRAM string                  // empty: not restored
	// Kernel and Initrd, where the domain boots from them; empty: not restored.
	Kernel, Initrd string
	// Name and UUID make another domain of it, which can run beside the first: its network
	// interfaces get other addresses, too. Empty: it is the same domain.
	Name, UUID string
	// GenerationID tells the guest that time went back for it, where it has such a device.
	GenerationID string
	// Exists tells whether a file is on this host.
	Exists func(path string) bool
}

// Restore changes the definition for files that were restored, and returns what differs
// from the domain that was backed up.
func (d *Domain) Restore(r Restored) (remarks []string) {
	remark := func(format string, a ...any) { remarks = append(remarks, fmt.Sprintf(format, a...)) }
	d.root.set("id", "") // of one that ran
	d.disks(r, remark)
	d.boot(r, remark)
	if e := d.devices().Child("emulator"); e != nil && !r.Exists(e.Value()) {
		remark("the emulator %s is not on this host: libvirt chooses one", e.Value())
		d.devices().drop("emulator")
	}
	if id := d.root.Child("genid"); id != nil && r.GenerationID != "" {
		id.Text = r.GenerationID
	}
	if r.Name != "" {
		d.another(r, remark)
	}
	return remarks
}

// Forget drops what a definition of a running domain says of that run alone, and libvirt would
// take for an administrator's wish.
func (d *Domain) Forget() {
	for _, n := range d.devices().All("interface") {
		if source := n.Child("source"); source != nil {
			source.set("portid", "") // of the network that it was plugged into
		}
	}
}

func (d *Domain) disks(r Restored, remark func(string, ...any)) {
	devices := d.devices()
	before := d.Disks()
	for _, disk := range before {
		i := slices.IndexFunc(r.Disks, func(x snapshot.RestoredDisk) bool { return x.Name == disk.Target })
		switch {
		case i >= 0:
			disk.replace(r.Disks[i])
		case disk.Device == "cdrom" || disk.Device == "floppy":
			if disk.Path == "" || disk.Type != "file" || !r.Exists(disk.Path) {
				if disk.node.Child("source") != nil {
					remark("the drive %s is empty: its medium is not on this host", disk.Target)
				}
				disk.node.drop("source", "backingStore")
			}
		default:
			remark("the disk %s was not restored: it is left out", disk.Target)
			devices.remove(disk.node)
		}
	}
	for _, now := range r.Disks { // one that was attached to the running domain only
		if !slices.ContainsFunc(before, func(x Disk) bool { return x.Target == now.Name }) {
			remark("the disk %s was restored, but the definition lacks it: attach %s to the domain where it needs it", now.Name, now.Path)
		}
	}
}

// replace puts a restored image in the place of what the disk was.
func (d Disk) replace(now snapshot.RestoredDisk) {
	n := d.node
	n.set("type", "file")
	n.drop("source", "backingStore", "mirror", "auth", "encryption")
	driver := n.need("driver")
	driver.set("name", "qemu")
	driver.set("type", string(now.Format))
	n.add("source", "").set("file", now.Path)
}

// boot is what comes before the disks.
func (d *Domain) boot(r Restored, remark func(string, ...any)) {
	os := d.root.need("os")
	for name, path := range map[string]string{"kernel": r.Kernel, "initrd": r.Initrd} {
		if n := os.Child(name); n != nil && path != "" {
			n.Text = path
		}
	}
	if l := os.Child("loader"); l != nil && l.Value() != "" && !r.Exists(l.Value()) {
		remark("the firmware %s is not on this host: libvirt chooses one", l.Value())
		os.drop("loader", "nvram")
		os.set("firmware", "efi")
	}
	nvram := os.Child("nvram")
	switch {
	case r.NVRAM != "":
		nvram = os.need("nvram")
		nvram.Text = r.NVRAM
		nvram.drop("source")
		nvram.set("type", "")
	case nvram != nil:
		remark("the firmware's variables were not restored: they start as new")
		os.drop("nvram")
	}
}

// another makes another domain of it.
func (d *Domain) another(r Restored, remark func(string, ...any)) {
	d.root.need("name").Text = r.Name
	d.root.need("uuid").Text = r.UUID
	for _, n := range d.devices().All("interface") {
		n.drop("mac")
		if n.Attr("type") != "vhostuser" {
			n.drop("target")
		}
	}
	for _, kind := range []string{"channel", "serial", "console", "parallel"} {
		for _, n := range d.devices().All(kind) {
			if path := n.Child("source").Attr("path"); path != "" && n.Attr("type") != "pty" {
				remark("the %s at %s is the first domain's, too", kind, path)
			}
		}
	}
	if len(d.devices().All("hostdev")) > 0 {
		remark("devices of the host that were passed through cannot be in two domains at a time")
	}
}

// New makes a definition of a VM that comes from another hypervisor, of what is known.
func New(vm snapshot.Restored) (d *Domain, remarks []string) {
	hw := vm.Hardware
	root := &Node{Name: "domain"}
	root.set("type", map[string]string{"kvm": "kvm"}[hw.Accelerator])
	if root.Attr("type") == "" {
		root.set("type", "qemu")
	}
	d = &Domain{root}
	root.add("name", plainName(vm.Name))
	if hw.UUID != "" {
		root.add("uuid", hw.UUID)
	}
	memory := root.add("memory", fmt.Sprint(max(hw.Memory>>20, 64)))
	memory.set("unit", "MiB")
	root.add("vcpu", fmt.Sprint(max(hw.VCPUs, 1)))
	os := root.add("os", "")
	if hw.Firmware == "uefi" {
		os.set("firmware", "efi")
	}
	machine := os.add("type", "hvm")
	machine.set("arch", hw.Arch)
	machine.set("machine", hw.Machine)
	root.add("features", "").add("acpi", "")
	switch hw.CPU {
	case "":
	case "host", "max":
		root.add("cpu", "").set("mode", map[string]string{"host": "host-passthrough", "max": "maximum"}[hw.CPU])
	default:
		remarks = append(remarks, "the processor is libvirt's default, where it was "+hw.CPU)
	}
	devices := root.add("devices", "")
	places := map[string]int{}
	for _, disk := range vm.Disks {
		addDisk(devices, disk, busOf(hw, disk.Name), places)
	}
	if places["sd"] > 0 {
		c := devices.add("controller", "")
		c.set("type", "scsi")
		c.set("model", "virtio-scsi")
	}
	nic := devices.add("interface", "")
	nic.set("type", "user")
	nic.add("model", "").set("type", "virtio")
	channel := devices.add("channel", "")
	channel.set("type", "unix")
	target := channel.add("target", "")
	target.set("type", "virtio")
	target.set("name", AgentChannel)
	return d, append(remarks, "its network is one of user mode, and devices but disks are libvirt's default: it was no domain of libvirt")
}

// busOf is the bus of a disk by the device that served it.
func busOf(hw snapshot.Hardware, disk string) string {
	for _, dev := range hw.Devices {
		if dev.Disk != disk {
			continue
		}
		switch {
		case strings.HasPrefix(dev.Driver, "scsi-"), strings.HasPrefix(dev.Driver, "virtio-scsi"):
			return "scsi"
		case strings.HasPrefix(dev.Driver, "ide-"), strings.HasPrefix(dev.Driver, "ahci"):
			return "sata"
		}
	}
	return "virtio"
}

func addDisk(devices *Node, disk snapshot.RestoredDisk, bus string, places map[string]int) {
	prefix := map[string]string{"virtio": "vd", "scsi": "sd", "sata": "sd"}[bus]
	n := devices.add("disk", "")
	n.set("type", "file")
	n.set("device", "disk")
	driver := n.add("driver", "")
	driver.set("name", "qemu")
	driver.set("type", string(disk.Format))
	n.add("source", "").set("file", disk.Path)
	target := n.add("target", "")
	target.set("dev", prefix+letters(places[prefix]))
	target.set("bus", bus)
	places[prefix]++
}

// letters counts as Linux names disks: a to z, aa, ab.
func letters(n int) string {
	s := ""
	for ; n >= 0; n = n/26 - 1 {
		s = string(rune('a'+n%26)) + s
	}
	return s
}

// plainName is the name of the VM without its host.
func plainName(name string) string {
	_, vm, ok := strings.Cut(name, "/")
	if !ok {
		return name
	}
	return vm
}
