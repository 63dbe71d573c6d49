package domainxml

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/lull-backup/lull/snapshot"
)

// Namespace is that of lull's own element in a domain's metadata:
//
//	<lull:backup xmlns:lull="..."><lull:tag>nightly</lull:tag></lull:backup>
const Namespace = "https://github.com/lull-backup/lull/domain/1"

// Bounds of what a domain may say of itself to lull.
const (
	maxTags = 64
	maxTag  = 64 // bytes
)

// AgentChannel is the name of the port that the guest's agent listens on.
const AgentChannel = "org.qemu.guest_agent.0"

// Domain is a domain's definition.
type Domain struct{ root *Node }

// Parse reads a definition.
func Parse(text string) (*Domain, error) {
	root, err := parse(text)
	if err != nil {
		return nil, err
	}
	if root.Name != "domain" || root.Child("name").Value() == "" {
		return nil, fmt.Errorf("%w: no domain with a name", ErrXML)
	}
	for _, once := range []string{"name", "uuid", "os", "devices"} { // libvirt would look at each
		if len(root.All(once)) > 1 {
			return nil, fmt.Errorf("%w: several elements %s", ErrXML, once)
		}
	}
	return &Domain{root}, nil
}

// String is the definition as XML.
func (d *Domain) String() string { return d.root.String() }

// Name of the domain.
func (d *Domain) Name() string { return d.root.Child("name").Value() }

// UUID of the domain; empty: libvirt gives it one.
func (d *Domain) UUID() string { return d.root.Child("uuid").Value() }

// Tags are what the administrator says of the domain to lull, sorted. What is no tag, because
// it is too long, is left out.
func (d *Domain) Tags() []string {
	var tags []string
	meta := d.root.Child("metadata")
	if meta == nil {
		return nil
	}
	for _, backup := range meta.Children {
		if backup.local() != "backup" || backup.namespace() != Namespace {
			continue
		}
		for _, c := range backup.Children {
			if v := c.Value(); c.local() == "tag" && v != "" && len(v) <= maxTag && len(tags) < maxTags {
				tags = append(tags, v)
			}
		}
	}
	slices.Sort(tags)
	return slices.Compact(tags)
}

// Agent tells whether the guest's agent has a channel.
func (d *Domain) Agent() bool {
	return slices.ContainsFunc(d.devices().All("channel"), func(c *Node) bool {
		return c.Child("target").Attr("name") == AgentChannel
	})
}

func (d *Domain) devices() *Node { return d.root.Child("devices") }

// UEFI tells whether the domain has such a firmware.
func (d *Domain) UEFI() bool {
	os := d.root.Child("os")
	return os.Attr("firmware") == "efi" || os.Child("loader").Attr("type") == "pflash" || os.Child("nvram") != nil
}

// NVRAM is the file of the firmware's variables. Empty: there is none, or it is no file.
func (d *Domain) NVRAM() string {
	n := d.root.Child("os", "nvram")
	if file := n.Child("source").Attr("file"); file != "" {
		return file
	}
	return n.Value()
}

// NVRAMFormat is raw, as long as nothing else is said.
func (d *Domain) NVRAMFormat() string {
	if f := d.root.Child("os", "nvram").Attr("format"); f != "" {
		return f
	}
	return "raw"
}

// Kernel and Initrd are what the domain boots from where that is not a disk.
func (d *Domain) Kernel() string { return d.root.Child("os", "kernel").Value() }

// Initrd goes with Kernel.
func (d *Domain) Initrd() string { return d.root.Child("os", "initrd").Value() }

// TPM is a domain's TPM.
type TPM struct {
	Emulated  bool   // by swtpm, which keeps its state in files
	Kind      string // emulator, passthrough, external
	Path      string // of its state; empty: where libvirt puts it
	Secret    string // libvirt's secret that its state is encrypted with; empty: none
	Version12 bool   // 1.2, not 2.0
}

// TPM of the domain, if it has one.
func (d *Domain) TPM() (TPM, bool) {
	b := d.devices().Child("tpm", "backend")
	if b == nil {
		return TPM{}, false
	}
	return TPM{
		Kind: b.Attr("type"), Emulated: b.Attr("type") == "emulator", Path: b.Child("source").Attr("path"),
		Secret: b.Child("encryption").Attr("secret"), Version12: b.Attr("version") == "1.2",
	}, true
}

// Hardware describes the domain as far as its definition goes.
func (d *Domain) Hardware() snapshot.Hardware {
	os := d.root.Child("os")
	hw := snapshot.Hardware{
		UUID: d.UUID(), Machine: os.Child("type").Attr("machine"), Arch: os.Child("type").Attr("arch"),
		CPU: d.root.Child("cpu", "model").Value(), Memory: memory(d.root.Child("memory")),
		Firmware: "bios", Accelerator: "tcg",
	}
	if n, err := strconv.Atoi(d.root.Child("vcpu").Value()); err == nil && n > 0 && n < 1<<16 {
		hw.VCPUs = n
	}
	if d.root.Attr("type") == "kvm" {
		hw.Accelerator = "kvm"
	}
	if d.UEFI() {
		hw.Firmware = "uefi"
	}
	switch d.root.Child("cpu").Attr("mode") {
	case "host-passthrough":
		hw.CPU = "host"
	case "maximum":
		hw.CPU = "max"
	}
	for _, disk := range d.Disks() {
		hw.Devices = append(hw.Devices, snapshot.Device{ID: disk.Target, Driver: disk.device(), Disk: disk.Target})
	}
	return hw
}

// memory is an amount of it in bytes; KiB is libvirt's own unit.
func memory(n *Node) int64 {
	value, err := strconv.ParseInt(n.Value(), 10, 64)
	if err != nil || value < 0 {
		return 0
	}
	shift, known := map[string]uint{
		"b": 0, "bytes": 0, "": 10, "k": 10, "KiB": 10, "M": 20, "MiB": 20, "G": 30, "GiB": 30, "T": 40, "TiB": 40,
	}[n.Attr("unit")]
	if !known || value > 1<<62>>shift {
		return 0
	}
	return value << shift
}

// Networks are the names of libvirt's networks and of bridges that the domain's
// interfaces are on.
func (d *Domain) Networks() (networks, bridges []string) {
	for _, n := range d.devices().All("interface") {
		switch src := n.Child("source"); n.Attr("type") {
		case "network":
			networks = append(networks, src.Attr("network"))
		case "bridge":
			bridges = append(bridges, src.Attr("bridge"))
		}
	}
	return networks, bridges
}

// Emulator is the program that the domain runs in; empty: libvirt's choice.
func (d *Domain) Emulator() string { return strings.TrimSpace(d.devices().Child("emulator").Value()) }

// qemuNamespace is that of what libvirt hands on to QEMU as it is.
const qemuNamespace = "http://libvirt.org/schemas/domain/qemu/1.0"

// Reach is what of the host a domain has beside its disks and networks, and what programs it
// has run there: each as text that is the same in the definition of one that runs.
func (d *Domain) Reach() []string {
	var list []string
	for _, c := range d.root.Children {
		if c.namespace() == qemuNamespace {
			list = append(list, c.String())
		}
	}
	for _, e := range d.devices().All("emulator") {
		list = append(list, "emulator "+e.Value())
	}
	for _, kind := range []string{"hostdev", "filesystem"} {
		for _, n := range d.devices().All(kind) {
			bare := *n
			bare.Children = slices.Clone(n.Children)
			bare.drop("alias", "address") // where the guest sees it
			list = append(list, bare.String())
		}
	}
	for _, n := range d.devices().All("interface") {
		for _, script := range append(n.All("script"), n.All("downscript")...) {
			list = append(list, script.String())
		}
	}
	return list
}
