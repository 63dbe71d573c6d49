package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/qmp"
)

// Prepare makes the deltas and opens them beside the running disks. From here
// to the end of Merge the connection is kept, so that Take need not dial.
func (h *Host) Prepare(ctx context.Context, p snapshot.Plan) error {
	err := h.during(ctx, p, func(m *monitor) error {
		if err := h.enough(p); err != nil {
			return err
		}
		drives, err := m.drives(ctx)
		if err != nil {
			return err
		}
		for i, d := range p.Disks {
			in, err := asPlanned(drives, d)
			if err != nil {
				return err
			}
			err = h.prepareDisk(ctx, m, d, in)
			if err == nil {
				err = h.tidy(ctx, m, p.Run, d, in)
			}
			if err != nil {
				return fmt.Errorf("disk %d, %s: %w", i, d.Name, err)
			}
		}
		if err := h.dropAnchor(ctx, m, p); err != nil {
			return err
		}
		h.lines[p.VM].hold(true)
		_ = holdVariables(p) // Take finds them in memory
		return nil
	})
	if err != nil {
		return fmt.Errorf("prepare %s: %w", p.VM, err)
	}
	return nil
}

// asPlanned finds the node of a disk and makes sure that it still is what the
// plan says.
func asPlanned(drives []block, d snapshot.DiskPlan) (*inserted, error) {
	for _, b := range drives {
		if b.QDev == d.Device && b.Inserted != nil && b.Inserted.Node == d.Node && b.Inserted.Image.Size == d.Size {
			return b.Inserted, nil
		}
	}
	return nil, changed(d)
}

func changed(d snapshot.DiskPlan) error {
	return fmt.Errorf("disk %s has changed since the plan was made: %w", d.Name, snapshot.ErrBusy)
}

func (h *Host) prepareDisk(ctx context.Context, m *monitor, d snapshot.DiskPlan, in *inserted) error {
	if filepath.Dir(d.Delta) == filepath.Clean(h.opt.DeltaDir) {
		if err := os.MkdirAll(h.opt.DeltaDir, 0o755); err != nil { // QEMU's user has to get at its delta
			return fmt.Errorf("create folder for deltas: %w", err)
		}
	}
	var image []byte // what the manager opens; else QEMU itself makes it
	if m.vm.Manager != nil {
		var err error
		if image, err = h.emptyImage(ctx, d.Chain[0].Path, d.Format, d.Size); err != nil {
			return fmt.Errorf("format delta %s: %w", d.Delta, err)
		}
	}
	if err := fileOf(d).createWith(d.Path, image); err != nil {
		return err
	}
	if err := fileOf(d).makeLink(); err != nil {
		return err
	}
	if err := makeStamp(d); err != nil || m.vm.Manager != nil {
		return err
	}
	cache := args{"direct": in.Cache.Direct, "no-flush": in.Cache.NoFlush}
	err := m.Execute(ctx, "blockdev-add", args{"driver": "file", "node-name": fileNode(d.DeltaNode),
		"filename": d.Delta, "cache": cache, "discard": discardOf(d.Wipe)}, nil)
	if err != nil {
		return deltaRefused(err)
	}
	if err := m.format(ctx, d); err != nil {
		return err
	}
	node := args{"driver": "qcow2", "node-name": d.DeltaNode, "file": fileNode(d.DeltaNode), "backing": nil,
		"cache": cache, "discard": discardOf(d.Wipe)}
	if in.DetectZeroes != "" {
		node["detect-zeroes"] = in.DetectZeroes
	}
	if d.Key != "" {
		node["encrypt"] = encryption(d)
	}
	return m.Execute(ctx, "blockdev-add", node, nil)
}

// discardOf says what becomes of what the guest discards: in a file that is to be wiped it is
// kept for that, as nobody knows who gets the blocks next.
func discardOf(wiped bool) string {
	if wiped {
		return "ignore"
	}
	return "unmap"
}

// format makes the file a qcow2 image whose header names the disk, for the road
// without QEMU.
func (m *monitor) format(ctx context.Context, d snapshot.DiskPlan) error {
	options := args{"driver": "qcow2", "file": fileNode(d.DeltaNode), "size": d.Size, "backing-file": d.Chain[0].Path, "backing-fmt": d.Format}
	if d.Key != "" {
		cipher := encryption(d)
		cipher["iter-time"], cipher["hash-alg"] = deltaIteration, deltaHash
		options["encrypt"], options["backing-fmt"] = cipher, d.Chain[0].Format
	}
	if err := m.create(ctx, createJob(d.DeltaNode), options); err != nil {
		return fmt.Errorf("format delta %s: %w", d.Delta, err)
	}
	return nil
}

// create makes an image of a file that is open. For an encrypted one QEMU measures how fast
// the host is, and where the kernel counts processor time by ticks, an older QEMU now and
// then finds that it took none, and fails (crypto/pbkdf.c): then it is asked again. See
// also deltaHash.
func (m *monitor) create(ctx context.Context, job string, options args) (err error) {
	for range createTries {
		if err = m.Execute(ctx, "blockdev-create", args{"job-id": job, "options": options}, nil); err != nil {
			return err
		}
		if err = m.finish(ctx, job); err == nil || !strings.Contains(err.Error(), unmeasured) {
			return err
		}
	}
	return err
}

const (
	createTries = 30
	unmeasured  = "Unable to get accurate CPU usage"
)

// deltaRefused adds what to do when QEMU cannot open the new file.
func deltaRefused(err error) error {
	var refused *qmp.Error
	if errors.As(err, &refused) && strings.Contains(refused.Desc, "Permission denied") {
		return snapshot.WithHint(err, "let QEMU's user write to the folder's new files, and check AppArmor or SELinux")
	}
	return err
}

// Take is one transaction: all disks change layers, or none does. The firmware's
// variables are read around it.
func (h *Host) Take(ctx context.Context, p snapshot.Plan) error {
	if err := h.freeze(ctx, p); err != nil {
		return fmt.Errorf("take %s: %w", p.VM, err)
	}
	h.stampFrozen(p)
	return nil
}

// freeze is what Take does while the guest waits.
func (h *Host) freeze(ctx context.Context, p snapshot.Plan) error {
	var actions []args
	for _, d := range p.Disks {
		actions = append(actions, args{"type": "blockdev-snapshot",
			"data": args{"node": d.Node, "overlay": d.DeltaNode}})
	}
	records := startRecords(p)
	variables := holdVariables(p)
	err := h.during(ctx, p, func(m *monitor) error {
		if err := m.sameSizes(ctx, p); err != nil {
			return err
		}
		if m.vm.Manager != nil {
			return h.freezeManaged(ctx, m, p, records)
		}
		if err := m.unanchored(ctx, p); err != nil {
			return err
		}
		err := m.Execute(ctx, "transaction", args{"actions": slices.Concat(records, actions)}, nil)
		if len(records) > 0 && refused(err) {
			// A point without a record is worth more than none.
			h.opt.Log.Warn("freeze again, without records of changes", "vm", p.VM, "error", err)
			err = m.Execute(ctx, "transaction", args{"actions": actions}, nil)
		}
		return err
	})
	if err != nil {
		return err
	}
	variables.unmoved()
	h.keep(p, variables)
	return nil
}

// sameSizes makes sure that no disk was resized since its delta was made: upon a delta of
// another size the guest would lose the end of its disk until the merge.
func (m *monitor) sameSizes(ctx context.Context, p snapshot.Plan) error {
	drives, err := m.drives(ctx)
	if err != nil {
		return err
	}
	for _, b := range drives {
		for _, d := range p.Disks {
			if b.QDev == d.Device && b.Inserted != nil && b.Inserted.Image.Size != d.Size {
				return changed(d)
			}
		}
	}
	return nil
}

// stampFrozen notes what the images were like when they froze.
func (h *Host) stampFrozen(p snapshot.Plan) {
	for _, d := range p.Disks {
		if err := noteFrozen(d, false); err != nil && !errors.Is(err, errNoStamp) {
			h.opt.Log.Warn("no stamp beside delta", "delta", d.Delta, "error", err)
		}
	}
}
