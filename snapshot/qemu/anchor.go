package qemu

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/qmp"
)

// A VM that moves to another host while a delta takes its writes goes on there from its
// image, without them. QEMU is therefore made to refuse a migration from Prepare to the
// end of Merge: an open image of a format that cannot be migrated blocks it, and the
// error names the image's node, which is lull's. Such an anchor is an empty VDI image of a
// kilobyte beside the first delta; nothing reads it. While a migration goes on QEMU does
// not open one, so a run cannot begin then either.
//
// QEMU with -only-migratable opens none at all, and some builds lack the format. There
// Watch ends the run as soon as a migration has begun, and Merge touches nothing once
// the VM is gone (see movedAway).

// anchorSuffix is added to the path of the first delta.
const anchorSuffix = ".anchor"

func anchorPath(p snapshot.Plan) string {
	if len(p.Disks) == 0 || p.Disks[0].Delta == "" {
		return ""
	}
	return p.Disks[0].Delta + anchorSuffix
}

func anchorNode(p snapshot.Plan) string { return runName(p.VM, p.Run) + "-anchor" }

// dropAnchor makes QEMU refuse to migrate the VM. That it cannot is no error, that the VM
// is being migrated is.
func (h *Host) dropAnchor(ctx context.Context, m *monitor, p snapshot.Plan) error {
	if !m.anchors() {
		return nil
	}
	if err := m.weighAnchor(ctx, p); err != nil { // left by a process that died
		return err
	}
	file := deltaFile{path: anchorPath(p)}
	if err := file.createWith(p.Disks[0].Path, anchorImage()); err != nil {
		return fmt.Errorf("drop anchor against migration: %w", err)
	}
	node := anchorNode(p)
	err := m.Execute(ctx, "blockdev-add", args{"driver": "file", "node-name": fileNode(node), "filename": file.path, "read-only": true}, nil)
	if err == nil {
		err = m.Execute(ctx, "blockdev-add", args{"driver": "vdi", "node-name": node, "file": fileNode(node), "read-only": true}, nil)
	}
	if !refused(err) {
		return err
	}
	if underMigration(err) {
		return migrating(err)
	}
	h.opt.Log.Warn("the VM can be migrated away during the backup, which ends it", "vm", p.VM, "error", err)
	return m.weighAnchor(ctx, p)
}

// anchors tells whether lull keeps the VM in its place: a storage daemon is not migrated,
// and a manager takes the delta along, which its record names.
func (m *monitor) anchors() bool { return len(m.vm.Nodes) == 0 && m.vm.Manager == nil }

func underMigration(err error) bool {
	var no *qmp.Error
	return errors.As(err, &no) && strings.Contains(no.Desc, "in progress")
}

// leaver is the error of a VM that is on its way to another host, or there.
type leaver struct{ error }

func (l leaver) Unwrap() error { return l.error }

func migrating(err error) error {
	return leaver{snapshot.WithHint(fmt.Errorf("the VM is being migrated: %w: %w", snapshot.ErrBusy, err),
		"back it up on the host where it runs, once the migration is over")}
}

// weighAnchor lets the VM be migrated again.
func (m *monitor) weighAnchor(ctx context.Context, p snapshot.Plan) error {
	if !m.anchors() {
		return nil
	}
	nodes, err := m.nodes(ctx, true)
	if err != nil {
		return err
	}
	for _, name := range []string{anchorNode(p), fileNode(anchorNode(p))} {
		if findNode(nodes, name) == nil {
			continue
		}
		if err := m.Execute(ctx, "blockdev-del", args{"node-name": name}, nil); err != nil {
			return fmt.Errorf("weigh anchor: %w", err)
		}
	}
	return removeAnchor(p)
}

func removeAnchor(p snapshot.Plan) error {
	path := anchorPath(p)
	if path == "" {
		return nil
	}
	err := os.Remove(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = syncDir(path)
	}
	if err != nil {
		return fmt.Errorf("weigh anchor: %w", err)
	}
	return nil
}

// withoutAnchor tells whether nothing but lull's anchor keeps the VM from being migrated.
func withoutAnchor(blocked []string) []string {
	return slices.DeleteFunc(slices.Clone(blocked), func(reason string) bool {
		return strings.Contains(reason, "'"+nodePrefix) && strings.Contains(reason, "-anchor'")
	})
}

// movedAway fails where the VM went to another host, or is about to: it writes to its disks
// from there, and whatever a delta here holds does not belong to them any more.
func (m *monitor) movedAway(ctx context.Context, p snapshot.Plan) error {
	if len(m.vm.Nodes) > 0 {
		return nil
	}
	status, err := m.status(ctx)
	if err != nil {
		return err
	}
	switch status {
	case "inmigrate", "finish-migrate", "colo":
		return migrating(fmt.Errorf("QEMU says %s", status))
	case "postmigrate":
	default:
		return nil
	}
	deltas := make([]string, len(p.Disks))
	for i, d := range p.Disks {
		deltas[i] = snapshot.ShellWord(d.Delta)
	}
	err = fmt.Errorf("the VM was migrated to another host while its deltas were in use, and has its disks without them there: %w", snapshot.ErrDiverged)
	return leaver{snapshot.WithHint(err, fmt.Sprintf("stop the VM on the other host before it writes more, and send cont to its monitor here: it goes on as it was, and lull merges; "+
		"or to keep it there as its disks are, end QEMU here and rm %s", strings.Join(deltas, " ")))}
}

// leaving notes beside the deltas that the VM moves away, where err says so: once QEMU here has
// gone nothing else tells. QEMU 10 has the disks of a VM that arrives paused open without
// locks until it goes on. What merges a delta in QEMU, as the VM came back, notes another thing.
func (m *monitor) leaving(p snapshot.Plan, err error) error {
	if m.vm.Manager != nil || !errors.As(err, new(leaver)) { // a manager's record tells
		return err
	}
	for _, d := range p.Disks {
		there, lookErr := exists(d.Delta)
		if lookErr == nil && there {
			lookErr = note(d, stampMoved)
		}
		err = errors.Join(err, lookErr)
	}
	return err
}

// unanchored fails where a migration goes on that no anchor could keep from it.
func (m *monitor) unanchored(ctx context.Context, p snapshot.Plan) error {
	if there, err := exists(anchorPath(p)); err != nil || there {
		return err
	}
	return m.underway(ctx)
}

// underway fails while the VM is being migrated.
func (m *monitor) underway(ctx context.Context) error {
	if len(m.vm.Nodes) > 0 {
		return nil
	}
	var migration struct {
		Status string `json:"status"`
	}
	if err := m.ask(ctx, "query-migrate", nil, &migration); err != nil {
		return err
	}
	if underWay(migration.Status) {
		return migrating(fmt.Errorf("QEMU says %s", migration.Status))
	}
	return nil
}

// Parts of a VDI image: QEMU's block/vdi.c.
const (
	vdiSignature = 0xbeda107f
	vdiVersion   = 0x00010001
	vdiBlock     = 1 << 20
	vdiSector    = 512
)

// anchorImage is a VDI image of one sector in which nothing is allocated.
func anchorImage() []byte {
	b := make([]byte, 2*vdiSector)
	copy(b, "lull: while this is open the VM cannot be migrated\n")
	for at, v := range map[int]uint32{
		0x40: vdiSignature, 0x44: vdiVersion, 0x48: 0x180, 0x4c: 1, // length of the header; it grows as it is written to
		0x154: vdiSector, 0x158: 2 * vdiSector, 0x168: vdiSector, // where the map and the data are
		0x170: vdiSector, 0x178: vdiBlock, 0x180: 1, // size of the disk and of a block, number of blocks
		vdiSector: 0xffffffff, // the block is not there
	} {
		binary.LittleEndian.PutUint32(b[at:], v)
	}
	return b
}
