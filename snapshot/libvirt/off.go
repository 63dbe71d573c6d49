package libvirt

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/image"
	"github.com/lull-backup/lull/snapshot/libvirt/domainxml"
	"github.com/lull-backup/lull/snapshot/libvirt/rpc"
)

// A domain that is off is its images, which package image reads and holds QEMU's locks on
// from Prepare to Merge: a start of the domain meanwhile is refused by QEMU, and goes
// through again afterwards.

// sortDisks tells the disks of a domain that is off from those that are left out.
func sortDisks(def *domainxml.Domain) (specs []image.DiskSpec, excluded []snapshot.Excluded) {
	for _, d := range def.Disks() {
		disk := snapshot.Disk{Name: d.Target, Path: d.Path, Format: formatOf(d.Format)}
		if reason, expected := unfit(d); reason != "" {
			excluded = append(excluded, snapshot.Excluded{Disk: disk, Reason: reason, Expected: expected})
			continue
		}
		specs = append(specs, image.DiskSpec{Name: d.Target, Path: d.Path, Format: disk.Format})
	}
	return specs, excluded
}

// formatOf is lull's word for a format of libvirt's; empty: it has none.
func formatOf(driver string) snapshot.Format {
	if driver == "vpc" {
		return snapshot.FormatVHD
	}
	if f := snapshot.Format(driver); slices.Contains(snapshot.ReadFormats(), f) {
		return f
	}
	return ""
}

// unfit says why a disk is left out, or nothing.
func unfit(d domainxml.Disk) (reason string, expected bool) {
	const running = "; back the domain up while it runs"
	switch {
	case d.Device == "cdrom" || d.Device == "floppy":
		return "removable medium", true
	case d.ReadOnly:
		return "read-only drive", true
	case d.Device == "lun":
		return "SCSI passthrough: the guest's commands go past QEMU's layers", false
	case d.Transient || d.Shareable:
		return unkept(d.Shareable, d.Transient)
	case d.Encrypted:
		return "encrypted by QEMU", false
	case d.Sliced:
		return "a part of its file only", false
	case d.Type == "volume":
		return fmt.Sprintf("volume %s of the storage pool %s: its file is not in the definition%s", d.Volume, d.Pool, running), false
	case d.Path == "":
		return fmt.Sprintf("of type %s: it is no file%s", d.Type, running), false
	case formatOf(d.Format) == "":
		return fmt.Sprintf("format %s is not supported", d.Format), false
	}
	if info, err := os.Stat(d.Path); err == nil && !info.Mode().IsRegular() {
		return "no regular file" + running, false
	}
	return "", false
}

// planOff looks at a domain that is off.
func (h *Host) planOff(ctx context.Context, id identity, run string) (snapshot.Plan, error) {
	vm := id.name
	d, def, err := h.lookAt(ctx, id)
	if err != nil {
		return snapshot.Plan{}, fmt.Errorf("plan %s: %w", vm, err)
	}
	specs, excluded := sortDisks(def)
	if len(specs) == 0 {
		return snapshot.Plan{}, fmt.Errorf("plan %s: %s: %w", vm, noDisk(excluded), snapshot.ErrUnsupported)
	}
	p, err := imagesOf(vm, specs).Plan(ctx, vm, run)
	if err != nil {
		return snapshot.Plan{}, err
	}
	if err := errors.Join(sameChains(def, p.Disks), h.fits(d, p)); err != nil {
		return snapshot.Plan{}, fmt.Errorf("plan %s: %w", vm, err)
	}
	p.Host, p.Excluded, p.Hardware = Kind, excluded, def.Hardware()
	p.Hardware.Hypervisor = Kind
	_, version, err := h.Versions(ctx)
	if err != nil {
		return snapshot.Plan{}, fmt.Errorf("plan %s: %w", vm, err)
	}
	p.Hardware.Version = version.String()
	p.Files = ownFiles(def)
	h.addFiles(&p, def)
	return p, h.warnOfSave(ctx, &p, d)
}

// imagesOf is a host of the domain's images alone.
func imagesOf(vm string, specs []image.DiskSpec) snapshot.Host {
	return image.NewHost([]image.VM{{Name: vm, Disks: specs}})
}

// lookAt finds a domain and its definition, as it is for the next start.
func (h *Host) lookAt(ctx context.Context, id identity) (rpc.Domain, *domainxml.Domain, error) {
	d, on, err := (&domain{identity: id, link: h.link}).find(ctx)
	if err == nil && on {
		err = snapshot.WithHint(fmt.Errorf("the domain has just been started: %w", snapshot.ErrBusy), "run the backup again")
	}
	if err != nil {
		return d, nil, err
	}
	def, err := h.definition(ctx, d, rpc.XMLInactive)
	return d, def, err
}

// sameChains compares the layers below with those that libvirt's word says, where it says
// any: what an image itself names is followed no further than that.
func sameChains(def *domainxml.Domain, disks []snapshot.DiskPlan) error {
	for _, d := range def.Disks() {
		i := slices.IndexFunc(disks, func(p snapshot.DiskPlan) bool { return p.Name == d.Target })
		if i < 0 || len(d.Backing) == 0 {
			continue
		}
		same := slices.EqualFunc(d.Backing, disks[i].Chain[1:], func(a, b snapshot.Layer) bool {
			return a.Path == b.Path && (a.Format == "" || formatOf(string(a.Format)) == b.Format)
		})
		if !same {
			return snapshot.WithHint(fmt.Errorf("disk %s: its images name other backing files than its definition: %w", d.Target, snapshot.ErrCorrupt),
				"compare qemu-img info --backing-chain of "+snapshot.ShellWord(d.Path)+" with virsh dumpxml, and correct the one that is wrong")
		}
	}
	return nil
}

// warnOfSave warns of a domain that libvirt put to sleep: its disks are those of a guest
// that was running.
func (h *Host) warnOfSave(ctx context.Context, p *snapshot.Plan, d rpc.Domain) error {
	var saved bool
	err := h.link.ask(ctx, func(c *rpc.Conn) (err error) {
		saved, err = c.HasManagedSave(ctx, d)
		return err
	})
	if saved {
		p.Warnings = append(p.Warnings, "the domain was saved with its memory (virsh managedsave), which is not in the restore point: "+
			"restored, it starts as after a power cut; start it before the next backup")
	}
	return err
}

// still is the images of a domain that is off, held for a run.
type still struct{ images snapshot.Host }

// prepareOff takes the locks, and notes the definitions.
func (h *Host) prepareOff(ctx context.Context, p snapshot.Plan) error {
	if _, _, err := h.lookAt(ctx, identityOf(p)); err != nil {
		return fmt.Errorf("prepare %s: %w", p.VM, err)
	}
	var specs []image.DiskSpec
	for _, d := range p.Disks {
		specs = append(specs, image.DiskSpec{Name: d.Name, Path: d.Path, Format: d.Format})
	}
	s := &still{images: imagesOf(p.VM, specs)}
	if err := s.images.Prepare(ctx, p); err != nil {
		if errors.Is(err, snapshot.ErrBusy) {
			err = snapshot.WithHint(err, "the domain was started or changed meanwhile: run the backup again")
		}
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.still[keyOf(p)] = s
	return nil
}

// heldStill is what prepareOff made; nil: it did not, in this process.
func (h *Host) heldStill(p snapshot.Plan) *still {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.still[keyOf(p)]
}

var errNotPrepared = errors.New("it was not prepared by this process")

func (h *Host) takeOff(ctx context.Context, p snapshot.Plan) error {
	s := h.heldStill(p)
	if s == nil {
		return fmt.Errorf("take snapshot of %s: %w: %w", p.VM, errNotPrepared, snapshot.ErrGone)
	}
	return s.images.Take(ctx, p)
}

func (h *Host) openOff(ctx context.Context, p snapshot.Plan) (snapshot.Frozen, error) {
	s := h.heldStill(p)
	if s == nil {
		return nil, fmt.Errorf("open snapshot of %s: %w: %w", p.VM, errNotPrepared, snapshot.ErrGone)
	}
	f, err := s.images.Open(ctx, p)
	if err != nil {
		return nil, err
	}
	return &frozenOff{Frozen: f, plan: p, docs: h.docsOf(p)}, nil
}

// mergeOff gives the locks back. After a crash the kernel did so.
func (h *Host) mergeOff(ctx context.Context, p snapshot.Plan) error {
	h.mu.Lock()
	s := h.still[keyOf(p)]
	delete(h.still, keyOf(p))
	h.mu.Unlock()
	if s == nil {
		return nil
	}
	return s.images.Merge(ctx, p)
}

func keyOf(p snapshot.Plan) string { return p.Run + "/" + p.VM }

// frozenOff reads the files of a domain that is off from where they are: nobody writes
// to them.
type frozenOff struct {
	snapshot.Frozen
	plan snapshot.Plan
	docs docs
}

// File reads one of the plan's files.
func (f *frozenOff) File(ctx context.Context, path string) ([]byte, error) {
	i := slices.IndexFunc(f.plan.Files, func(x snapshot.File) bool { return x.Path == path })
	if i < 0 {
		return nil, fmt.Errorf("no file %q in the plan", path)
	}
	if f.plan.Files[i].Role == snapshot.RoleDefinition {
		return f.docs.read(path)
	}
	b, err := readSmall(path)
	if err != nil {
		return nil, fmt.Errorf("read file of domain: %w", err)
	}
	return b, ctx.Err()
}
