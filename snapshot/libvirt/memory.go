package libvirt

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/libvirt/domainxml"
	"github.com/lull-backup/lull/snapshot/libvirt/rpc"
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
// The image is removed then. A second start would find disks that have gone on without it.

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

// Define tells libvirt of a VM, and gives it the memory. The VM does not run afterwards.
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
	err = errors.Join(err, d.discard(ctx, vm.Files[i].Now))
	if err != nil {
		err = fmt.Errorf("define %s: the domain is defined, but without its memory: %w", vm.Name, err)
		return snapshot.WithHint(err, "start it from its disks (virsh start), or restore again with --cold")
	}
	if d.Remark != nil {
		name := snapshot.ShellWord(def.Name())
		d.Remark(fmt.Sprintf("the guest goes on from its saved memory at the first start (virsh start %s); its clock is behind then: virsh domtime %[1]s --now", name))
	}
	return nil
}

// asItRan is the definition of the domain when its memory was saved, with the restored files.
func (d MemoryDefiner) asItRan(vm snapshot.Restored) (*domainxml.Domain, error) {
	i := slices.IndexFunc(vm.Files, func(f snapshot.RestoredFile) bool { return f.Path == livePath })
	if i < 0 {
		return nil, fmt.Errorf("the restore point lacks the definition that the domain ran with: %w", snapshot.ErrUnsupported)
	}
	text, err := readSmall(vm.Files[i].Now)
	if err != nil {
		return nil, err
	}
	def, err := domainxml.Parse(string(text))
	if err != nil {
		return nil, fmt.Errorf("definition in the restore point: %w", err)
	}
	r, err := d.place(vm)
	if err == nil {
		def.Restore(r) // Define has said what is not as before
		def.Forget()
	}
	return def, err
}

// giveMemory makes a managed save of a memory.
func (d MemoryDefiner) giveMemory(ctx context.Context, def *domainxml.Domain, path string) (err error) {
	if err := writeHead(path, def.String()); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, memoryLimit)
	defer cancel()
	c, err := rpc.Dial(ctx, d.Address, d.RPC)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	id, err := rpc.ParseUUID(def.UUID())
	if err != nil {
		return fmt.Errorf("definition in the restore point: UUID %q: %w", def.UUID(), err)
	}
	if err := c.Restore(ctx, path, "", rpc.SavePaused); err != nil {
		return err
	}
	found, err := c.LookupUUID(ctx, id)
	if err == nil {
		err = c.ManagedSave(ctx, found, rpc.SaveRunning)
	}
	if err == nil {
		return nil
	}
	ending, stop := context.WithTimeout(context.WithoutCancel(ctx), settle)
	defer stop()
	return errors.Join(err, c.Destroy(ending, rpc.Domain{Name: def.Name(), UUID: id}, false))
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
