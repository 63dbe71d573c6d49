package domainxml

import (
	"github.com/lull-backup/lull/snapshot"
)

// Disk is a drive of a domain.
type Disk struct {
	Target string // such as vda: unique in the domain, and what libvirt calls it
	Bus    string // virtio, scsi, sata, ...
	Device string // disk, cdrom, floppy, lun
	Type   string // file, block, network, volume, nvme, ...
	Format string // as libvirt's word says, which is raw where nothing is said
	Path   string // of a file or a block device; empty: it is neither, or the drive is empty
	// Pool and Volume say where the disk is, in place of a path.
	Pool, Volume string

	ReadOnly, Shareable, Transient bool
	Encrypted                      bool // by QEMU
	Sliced                         bool // it is a part of its file only
	Mirrored                       bool // a block job copies it or moves it to another layer
	// Backing are the layers below as libvirt's word says: of a domain that runs they are all,
	// of one that is off only what its administrator has written there.
	Backing []snapshot.Layer

	node *Node
}

// Disks of the domain, in order.
func (d *Domain) Disks() []Disk {
	var list []Disk
	for _, n := range d.devices().All("disk") {
		list = append(list, disk(n))
	}
	return list
}

func disk(n *Node) Disk {
	src := n.Child("source")
	d := Disk{
		Target: n.Child("target").Attr("dev"), Bus: n.Child("target").Attr("bus"),
		Device: n.Attr("device"), Type: n.Attr("type"), Format: n.Child("driver").Attr("type"), Path: pathOf(src),
		Pool: src.Attr("pool"), Volume: src.Attr("volume"),
		ReadOnly: n.Child("readonly") != nil, Shareable: n.Child("shareable") != nil, Transient: n.Child("transient") != nil,
		Encrypted: n.Child("encryption") != nil || src.Child("encryption") != nil, Sliced: src.Child("slices") != nil,
		Mirrored: n.Child("mirror") != nil, node: n,
	}
	if d.Device == "" {
		d.Device = "disk"
	}
	if d.Format == "" {
		d.Format = string(snapshot.FormatRaw)
	}
	for b := n.Child("backingStore"); b.Child("source") != nil && len(d.Backing) < maxDepth; b = b.Child("backingStore") {
		d.Backing = append(d.Backing, snapshot.Layer{Path: pathOf(b.Child("source")), Format: snapshot.Format(b.Child("format").Attr("type"))})
	}
	return d
}

func pathOf(source *Node) string {
	if file := source.Attr("file"); file != "" {
		return file
	}
	return source.Attr("dev")
}

// Move has the domain start from other images: qcow2 files, by target. What it says of the
// layers below it says no more, as the images name them.
func (d *Domain) Move(images map[string]string) {
	for _, disk := range d.Disks() {
		path, ok := images[disk.Target]
		if !ok {
			continue
		}
		n := disk.node
		n.drop("backingStore", "mirror")
		n.set("type", "file")
		driver := n.need("driver")
		driver.set("name", "qemu")
		driver.set("type", string(snapshot.FormatQcow2))
		source := n.need("source")
		source.set("file", path)
		source.set("index", "")
	}
}

// Rename gives the domain another name.
func (d *Domain) Rename(name string) { d.root.need("name").Text = name }

// device is QEMU's device model for the drive.
func (d Disk) device() string {
	switch d.Bus {
	case "virtio":
		return "virtio-blk-pci"
	case "scsi":
		return "scsi-hd"
	case "sata", "ide":
		return "ide-hd"
	case "usb":
		return "usb-storage"
	}
	return d.Bus
}
