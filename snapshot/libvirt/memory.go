package libvirt

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/libvirt/domainxml"
	"github.com/lull-backup/lull/snapshot/qemu"
	"github.com/lull-backup/lull/snapshot/wipe"
)

// A saved state of a domain comes back as its managed save: what libvirt itself keeps of a
// domain that it put to sleep, with which the next start goes on, once. The way there:
//
//	save image  header, definition, and the stream that lull has, as libvirt writes
//	            them (qemu/qemu_saveimage.h, unchanged since libvirt 0.9)
//	restore     paused: the guest does not run, and libvirt and QEMU have proven that
//	            the state fits the restored disks and this host
//	managed     saved again, by libvirt, to be running when it is started
//	save
//
// The image is good for nothing from the moment on at which it was read, and is removed then: a
// second start would find disks that have gone on without it.

// Sizes in a save image, in bytes.
const (
	imageHeader = 92
	// imageText is how long the definition may be. The header says where the stream
	// begins, so the room for a definition that is not known yet is simply left.
	imageText = 1 << 20
)

// memoryLimit bounds how long libvirt may take to read a memory, or to write it.
const memoryLimit = 2 * time.Hour

// MemoryDefiner is a Definer of domains that go on from their saved memory. They come back
// as the same ones: a guest that runs knows its addresses, and would keep them beside the
// first. It implements snapshot.StateDefiner.
type MemoryDefiner struct {
	Definer
	Wipe bool // what was in memory is overwritten where lull has put it
}

var (
	_ snapshot.StateDefiner   = MemoryDefiner{}
	_ snapshot.CheckedDefiner = MemoryDefiner{}
)

// HasMemory tells whether a point with these files has a memory that libvirt can take: that
// of a domain that ran, with its definition of then.
func HasMemory(files []snapshot.File) bool {
	return slices.ContainsFunc(files, func(f snapshot.File) bool { return f.Role == snapshot.RoleSavedState }) &&
		slices.ContainsFunc(files, func(f snapshot.File) bool { return f.Path == livePath })
}

// FitsState looks at the QEMU of this host, which is libvirt's.
func (MemoryDefiner) FitsState(ctx context.Context, hw snapshot.Hardware) error {
	return qemu.Definer{}.FitsState(ctx, hw)
}

// RestoreState leaves room for what Define puts before the stream.
func (MemoryDefiner) RestoreState(ctx context.Context, w io.Writer, src io.ReaderAt, size int64) error {
	if _, err := w.Write(make([]byte, imageHeader+imageText)); err != nil {
		return err
	}
	return qemu.Definer{}.RestoreState(ctx, w, src, size)
}

// Define tells libvirt of a VM, and gives it the memory. The VM does not run afterwards. Where
// the memory could not be given, snapshot.ErrNoMemory: all else is done.
func (d MemoryDefiner) Define(ctx context.Context, dir string, vm snapshot.Restored) error {
	if err := d.Definer.Define(ctx, dir, vm); err != nil {
		return err
	}
	i := slices.IndexFunc(vm.Files, func(f snapshot.RestoredFile) bool { return f.Role == snapshot.RoleSavedState })
	if i < 0 {
		return nil
	}
	def, err := d.asItRan(vm)
	if err == nil {
		err = d.giveMemory(ctx, def, vm.Files[i].Now)
	}
	removed := d.discard(ctx, vm.Files[i].Now)
	name := snapshot.ShellWord(vm.Name[strings.LastIndexByte(vm.Name, '/')+1:])
	if err != nil {
		err = errors.Join(err, removed)
		next := "start it from its disks: virsh start " + name
		if errors.Is(err, errStands) {
			next = "once libvirt answers, end the domain (virsh destroy " + name + "), then " + next
		}
		return snapshot.WithHint(fmt.Errorf("define %s: %w: %w", vm.Name, snapshot.ErrNoMemory, err), next)
	}
	if removed != nil { // it is libvirt's already
		return fmt.Errorf("define %s: remove the file of its memory: %w", vm.Name, removed)
	}
	if d.Remark != nil {
		d.Remark(fmt.Sprintf("the guest goes on from its saved memory at the first start (virsh start %s); its clock is behind then: virsh domtime %[1]s --now", name))
	}
	return nil
}

// asItRan is the definition of the domain when its memory was saved, with the restored files.
// It is started, which that of the next start is not: so it has to be of the same domain, and
// may not ask more of the host.
func (d MemoryDefiner) asItRan(vm snapshot.Restored) (*domainxml.Domain, error) {
	i := slices.IndexFunc(vm.Files, func(f snapshot.RestoredFile) bool { return f.Path == livePath })
	if i < 0 {
		return nil, fmt.Errorf("the restore point lacks the definition that the domain ran with: %w", snapshot.ErrUnsupported)
	}
	def, err := restored(vm.Files[i])
	if err != nil {
		return nil, err
	}
	next, _, err := d.compose(vm)
	if err == nil {
		err = sameDomain(def, next)
	}
	if err != nil {
		return nil, err
	}
	r, err := d.place(vm)
	if err != nil {
		return nil, err
	}
	said := next.Restore(r) // by Define
	for _, remark := range def.Restore(r) {
		if d.Remark != nil && !slices.Contains(said, remark) {
			d.Remark("with its memory: " + remark)
		}
	}
	def.Forget()
	return def, nil
}

// sameDomain refuses a definition that a domain ran with where it is of another domain than
// that of its next start, or has more of the host.
func sameDomain(ran, next *domainxml.Domain) error {
	if ran.Name() != next.Name() || !strings.EqualFold(ran.UUID(), next.UUID()) {
		return fmt.Errorf("the definition is of the domain %s (%s), but its memory is of %s (%s): %w",
			next.Name(), next.UUID(), ran.Name(), ran.UUID(), snapshot.ErrCorrupt)
	}
	for _, part := range ran.Reach() {
		if !slices.Contains(next.Reach(), part) {
			return fmt.Errorf("the domain ran with what its definition does not have, and what reaches into the host (%s): %w",
				strings.Join(strings.Fields(part[:min(len(part), 200)]), " "), snapshot.ErrUnsupported)
		}
	}
	return nil
}

// writeHead writes what comes before the stream of a save image.
func writeHead(path, definition string) error {
	if len(definition) >= imageText { // a zero ends it
		return fmt.Errorf("a definition of %d bytes: %w", len(definition), snapshot.ErrUnsupported)
	}
	const version, running = 2, 1
	head := append(make([]byte, 0, imageHeader+len(definition)), "LibvirtQemudSave"...)
	// What follows is not compressed, and has no cookie.
	for _, v := range []uint32{version, imageText, running, 0, 0} {
		head = binary.NativeEndian.AppendUint32(head, v)
	}
	head = append(head[:imageHeader], definition...)
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(head, 0)
	return errors.Join(err, f.Close())
}

// discard removes the image: the memory is libvirt's now, or fits no more.
func (d MemoryDefiner) discard(ctx context.Context, path string) error {
	if d.Wipe {
		return wipe.Remove(context.WithoutCancel(ctx), path, wipe.Sparse)
	}
	return os.Remove(path)
}
