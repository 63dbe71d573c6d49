package qemu

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/lull-backup/lull/snapshot"
)

// maxLayers bounds a backing chain; QEMU gets slow long before.
const maxLayers = 200

// disk is a drive that goes into a restore point.
type disk struct {
	snapshot.Disk
	block
	layers  []snapshot.Layer
	regular bool              // the top layer is a regular file
	moved   bool              // the file at its path is not the one that QEMU has open
	plain   bool              // all layers are files that lull reads itself
	thread  bool              // its nodes may run in an I/O thread
	managed bool              // the VM has a Manager
	key     string            // the object that holds the key of an encrypted disk
	passed  bool              // the guest's commands go past QEMU's layers to the device
	leftOut snapshot.Excluded // by the VM's manager, where there is a Reason
}

// found is what a look at a VM's drives gives.
type found struct {
	disks    []disk
	excluded []snapshot.Excluded
	warnings []string // of disks that are backed up
	nvram    []snapshot.File
	uefi     bool
}

// inspect sorts the drives of a VM into those to back up and the others.
func (m *monitor) inspect(ctx context.Context) (found, error) {
	drives, err := m.drives(ctx)
	if err != nil {
		return found{}, err
	}
	var threads []struct{}
	if err := m.ask(ctx, "query-iothreads", nil, &threads); err != nil {
		return found{}, err
	}
	var f found
	taken := map[string]bool{}
	for i, b := range drives {
		d := disk{block: b, managed: m.vm.Manager != nil, thread: len(threads) > 0, leftOut: m.leftOut[qdevID(b.QDev)]}
		d.Name = m.diskName(b, i, taken)
		if b.Inserted != nil {
			if err := m.follow(&d); err != nil {
				return found{}, fmt.Errorf("disk %s: %w", d.Name, err)
			}
			if b.Inserted.Encrypted {
				if d.key, err = m.keyOf(ctx, b); err != nil {
					return found{}, fmt.Errorf("disk %s: %w", d.Name, err)
				}
			}
		}
		if d.passed, err = m.passed(ctx, b.QDev); err != nil {
			return found{}, fmt.Errorf("disk %s: %w", d.Name, err)
		}
		f.sort(d)
		if n := len(f.disks); n == 0 || f.disks[n-1].Name != d.Name {
			continue // left out
		}
		action, err := m.werror(ctx, b)
		if err != nil {
			return found{}, fmt.Errorf("disk %s: %w", d.Name, err)
		}
		if action != "" {
			f.warnings = append(f.warnings, risky(d.Name, action))
		}
	}
	return f, nil
}

func (f *found) sort(d disk) {
	if strings.HasPrefix(d.QDev, "/machine/system.flash") || strings.HasPrefix(d.Device, "pflash") {
		f.uefi = true
		if d.Inserted != nil && !d.Inserted.ReadOnly && d.Format != snapshot.FormatRaw {
			f.exclude(d, fmt.Sprintf("firmware variables by driver %s, which only QEMU can read: keep them in a raw file", d.Inserted.Driver), false)
			return
		}
		if d.Inserted != nil && !d.Inserted.ReadOnly && d.Path != "" {
			f.nvram = append(f.nvram, snapshot.File{Role: snapshot.RoleNVRAM, Path: d.Path})
			f.exclude(d, "firmware variables, kept as a file", true)
			return
		}
		f.exclude(d, "firmware", true)
		return
	}
	switch reason, expected := d.unfit(); {
	case reason != "":
		f.exclude(d, reason, expected)
	default:
		f.disks = append(f.disks, d)
	}
}

func (f *found) exclude(d disk, reason string, expected bool) {
	f.excluded = append(f.excluded, snapshot.Excluded{Disk: d.Disk, Reason: reason, Expected: expected})
}

// removable is the reason of a drive with a medium in it that the guest may eject.
const removable = "removable medium"

// unfit says why a drive is left out, or nothing.
func (d disk) unfit() (reason string, expected bool) {
	switch {
	case d.Inserted == nil:
		return "empty drive", true
	case d.Removable:
		return removable, true
	case d.Inserted.ReadOnly:
		return "read-only drive", true
	case d.QDev == "":
		return "drive without a device", true
	case d.leftOut.Reason != "":
		return d.leftOut.Reason, d.leftOut.Expected
	case d.passed:
		return "SCSI passthrough: the guest's commands go past QEMU's layers, and would fail on a delta", false
	case d.Inserted.Encrypted && d.managed:
		return "encrypted by QEMU: a delta that its manager opens would not be", false
	case d.Inserted.Encrypted && d.key == "":
		return "encrypted by QEMU, and it cannot be told with which of its keys: name it in -blockdev or -drive (key-secret)", false
	case d.thread && !d.plain:
		return "in a VM with I/O threads only disks that are files can be read safely", false
	case d.moved:
		return fmt.Sprintf("%s is not the file that QEMU has open: it was moved, or QEMU sees other folders", d.Path), false
	case d.Format == "":
		return fmt.Sprintf("driver %s is not supported", d.Inserted.Driver), false
	}
	return "", false
}

// passed tells whether a device hands the guest's SCSI commands to the disk below as
// they are. With a delta upon it there is none to take them.
func (m *monitor) passed(ctx context.Context, qdev string) (bool, error) {
	if qdev == "" || len(m.vm.Nodes) > 0 {
		return false, nil
	}
	kind, err := m.typeOf(ctx, qomPath(qdev))
	return kind == "scsi-block" || kind == "scsi-generic", err
}

// unseen are the disks that another process serves to the guest: QEMU's block layer
// knows nothing of them.
func unseen(devices []snapshot.Device) (list []snapshot.Excluded) {
	for _, d := range devices {
		for _, kind := range []string{"vhost-user-blk", "vhost-user-scsi", "vhost-scsi"} {
			if !strings.HasPrefix(d.Driver, kind) {
				continue
			}
			list = append(list, snapshot.Excluded{Disk: snapshot.Disk{Name: cmp.Or(d.ID, path.Base(d.Path))},
				Reason: fmt.Sprintf("%s: another process serves it, and QEMU cannot freeze it", d.Driver)})
		}
	}
	return list
}

// unkept warns of devices that keep something for the guest which no point has.
func unkept(devices []snapshot.Device) (warnings []string) {
	for _, d := range devices {
		if strings.HasPrefix(d.Driver, "tpm-") {
			warnings = append(warnings, fmt.Sprintf("the TPM %s: what it keeps is another program's (swtpm) and not in the restore point; "+
				"back its state folder up too, and have the guest's recovery keys at hand (BitLocker, LUKS)", cmp.Or(d.ID, d.Driver)))
		}
	}
	return warnings
}

// diskName prefers the manager's name, where there is one.
func (m *monitor) diskName(b block, place int, taken map[string]bool) string {
	if name := m.targets[qdevID(b.QDev)]; wellFormed(name) && !taken[name] {
		taken[name] = true
		return name
	}
	return diskName(b, place, taken)
}

// diskName finds the name that stays the same: the device's id, else the
// drive's, else the node's, else the place in the list.
func diskName(b block, place int, taken map[string]bool) string {
	choices := []string{qdevID(b.QDev), b.Device, "", fmt.Sprintf("disk%d", place)}
	if b.Inserted != nil && !strings.HasPrefix(b.Inserted.Node, nodePrefix) {
		choices[2] = b.Inserted.Node
	}
	for _, name := range choices {
		if wellFormed(name) && !taken[name] {
			taken[name] = true
			return name
		}
	}
	name := fmt.Sprintf("disk%d-%d", place, len(taken)) // an administrator named another drive "disk<place>"
	taken[name] = true
	return name
}

// qdevID is the id of a device from what query-block calls it: the id itself, or
// a path that holds it.
func qdevID(qdev string) string {
	id, inPath := strings.CutPrefix(qdev, "/machine/peripheral/")
	if !inPath && strings.HasPrefix(qdev, "/") {
		return ""
	}
	id, _, _ = strings.Cut(id, "/")
	return id
}

// wellFormed is QEMU's rule for ids; what it makes up itself begins with '#'.
func wellFormed(id string) bool {
	ok, err := regexp.MatchString(`^[A-Za-z][A-Za-z0-9._-]{0,127}$`, id)
	return ok && err == nil
}

// follow fills in what is known of a drive's chain.
func (m *monitor) follow(d *disk) error {
	in := d.Inserted
	d.Size = in.Image.Size
	d.Format = formatOf(in.Driver)
	d.plain = true
	for l := &in.Image; l != nil; l = l.Backing {
		if len(d.layers) == maxLayers {
			return fmt.Errorf("more than %d layers: %w", maxLayers, snapshot.ErrUnsupported)
		}
		path, ok := m.path(l.Filename)
		if !ok {
			path = l.Filename
		}
		info, err := os.Stat(path)
		d.plain = d.plain && ok && err == nil && direct(formatOf(l.Format)) && !m.moved(info)
		d.layers = append(d.layers, snapshot.Layer{Path: path, Format: formatOf(l.Format)})
	}
	if in.Encrypted {
		d.plain = false
	}
	if d.Format == formatLUKS {
		d.Format = snapshot.FormatRaw
	}
	if path, ok := m.path(in.Image.Filename); ok {
		d.Path = path
		info, err := os.Stat(path)
		d.regular = err == nil && info.Mode().IsRegular()
		d.moved = err == nil && m.moved(info)
	}
	return nil
}

// moved tells whether a file is another than the one that QEMU opened under its
// path: an image can be renamed under a running VM, and QEMU can live in another
// mount namespace. Merged after a crash, the delta would go into that other file.
func (m *monitor) moved(file fs.FileInfo) bool {
	is, known := m.proc.opened(file)
	return file.Mode().IsRegular() && known && !is
}

// formatOf is the format of an image by its driver. A protocol without a format
// upon it shows the guest its bytes as they are.
func formatOf(driver string) snapshot.Format {
	switch driver {
	case "qcow2":
		return snapshot.FormatQcow2
	case "raw", "file", "host_device", "nbd", "rbd", "iscsi", "nvme":
		return snapshot.FormatRaw
	case "vhdx":
		return snapshot.FormatVHDX
	case "vmdk":
		return snapshot.FormatVMDK
	case "luks":
		return formatLUKS
	}
	return ""
}

// direct tells whether an image of that format is read from its file while QEMU has it
// open: then there is nothing in it that QEMU has yet to put in its place.
func direct(f snapshot.Format) bool { return f == snapshot.FormatRaw || f == snapshot.FormatQcow2 }

// path finds the file behind a filename of QEMU. That is a path, or a protocol
// and an address, or a description in JSON where no filename says it all.
func (m *monitor) path(filename string) (string, bool) {
	if doc, ok := strings.CutPrefix(filename, "json:"); ok {
		return m.pathInJSON(doc)
	}
	if p, ok := strings.CutPrefix(filename, "file:"); ok {
		filename = p
	} else if !strings.HasPrefix(filename, "/") && schemed(filename) {
		return "", false
	}
	if filename == "" {
		return "", false
	}
	return m.find(filename)
}

func schemed(filename string) bool {
	scheme, _, ok := strings.Cut(filename, ":")
	return ok && !strings.Contains(scheme, "/")
}

// pathInJSON follows the "file" children down to a file. Options that shift the
// content within it make it no path.
func (m *monitor) pathInJSON(doc string) (string, bool) {
	type node struct {
		Driver   string          `json:"driver"`
		Filename string          `json:"filename"`
		Offset   json.RawMessage `json:"offset"`
		Size     json.RawMessage `json:"size"`
		File     json.RawMessage `json:"file"`
	}
	raw := json.RawMessage(doc)
	for range 8 { // format, filters, protocol
		var n node
		if err := json.Unmarshal(raw, &n); err != nil || n.Offset != nil || n.Size != nil {
			return "", false
		}
		if slices.Contains([]string{"file", "host_device"}, n.Driver) {
			return m.find(n.Filename)
		}
		raw = n.File
	}
	return "", false
}
