package guesttest

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/lull-backup/lull/snapshot"
)

// Bus is the virtual controller of a disk.
type Bus string

const (
	VirtioBlk  Bus = "virtio-blk"
	VirtioSCSI Bus = "virtio-scsi"
)

// Style is how a disk is given to QEMU.
type Style string

const (
	StyleBlockdev Style = "blockdev" // -blockdev nodes and a -device
	StyleDrive    Style = "drive"    // -drive if=none and a -device
	StyleLegacy   Style = "legacy"   // -drive if=virtio; virtio-blk only
)

// Options of a guest. The zero value is useful.
type Options struct {
	Name   string        // "guest"
	Disks  []Disk        // two with defaults
	Memory int64         // bytes; 256 MiB
	UEFI   bool          // OVMF with an NVRAM file, instead of the BIOS
	Pause  time.Duration // between two records; 5 ms; negative: no recorder
	Args   []string      // more arguments for QEMU
	// System is a raw image with a file system labelled "system", which the
	// agents and the recorder live in instead of the initramfs; the guest gets an
	// overlay over it as its first disk, mounted read-only. Its /etc/rc runs at the
	// end of the boot, its /sbin/shutdown is the orderly end.
	System string
}

// Disk of a guest. The zero value is useful.
type Disk struct {
	Format snapshot.Format // qcow2
	Size   int64           // bytes; 128 MiB
	Bus    Bus             // VirtioBlk
	Style  Style           // StyleBlockdev
	// Content is a folder whose files the new file system holds.
	Content string
	// Path is an image that exists already, to be used instead of a new one.
	Path string
	// Backing is a raw image below a new qcow2 one.
	Backing string
}

const (
	systemLabel = "system"
	systemSize  = 256 << 20

	defaultMemory   = 256 << 20
	defaultDiskSize = 128 << 20
	defaultPause    = 5 * time.Millisecond
)

// withDefaults fills in what is not set and refuses what cannot be.
func (o Options) withDefaults() (Options, error) {
	o.Name = cmp.Or(o.Name, "guest")
	o.Memory = cmp.Or(o.Memory, defaultMemory)
	o.Pause = cmp.Or(o.Pause, defaultPause)
	o.Disks = slices.Clone(o.Disks)
	if o.Disks == nil {
		o.Disks = make([]Disk, 2)
	}
	if o.System != "" {
		o.Disks = append([]Disk{{Backing: o.System}}, o.Disks...)
	}
	for i := range o.Disks {
		d := &o.Disks[i]
		d.Format = cmp.Or(d.Format, snapshot.FormatQcow2)
		d.Size = cmp.Or(d.Size, defaultDiskSize)
		d.Bus = cmp.Or(d.Bus, VirtioBlk)
		d.Style = cmp.Or(d.Style, StyleBlockdev)
		if err := d.check(); err != nil {
			return Options{}, fmt.Errorf("check disk %d: %w", i, err)
		}
	}
	return o, nil
}

// label of the file system on disk i.
func (o Options) label(i int) string {
	if o.System != "" {
		i--
	}
	return fmt.Sprintf("data%d", i)
}

func (d *Disk) check() error {
	switch {
	case d.Format != snapshot.FormatRaw && d.Format != snapshot.FormatQcow2:
		return fmt.Errorf("unknown format %q", d.Format)
	case d.Bus != VirtioBlk && d.Bus != VirtioSCSI:
		return fmt.Errorf("unknown bus %q", d.Bus)
	case d.Style != StyleBlockdev && d.Style != StyleDrive && d.Style != StyleLegacy:
		return fmt.Errorf("unknown style %q", d.Style)
	case d.Backing != "" && d.Format != snapshot.FormatQcow2:
		return errors.New("only qcow2 has a backing file")
	case d.Style == StyleLegacy && d.Bus != VirtioBlk:
		return errors.New("style legacy is for virtio-blk only")
	}
	return nil
}
