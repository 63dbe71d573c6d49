package libvirt

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/durable"
	"github.com/lull-backup/lull/snapshot/libvirt/domainxml"
	"github.com/lull-backup/lull/snapshot/libvirt/rpc"
)

// recordName is what Define writes beside the disks: the definition that libvirt was given.
const recordName = "domain.xml"

// Definer defines restored VMs in libvirt. A domain comes back as the same, with its UUID and
// the addresses of its network interfaces, unless it gets another name: then it is another
// domain, which may run beside the first. A domain that is there is never changed but when
// Replace says so. It implements snapshot.Definer.
//
// The firmware's variables stay with the disks; the state of a TPM goes to where libvirt
// looks for it.
type Definer struct {
	Address rpc.Address
	RPC     rpc.Options
	Name    string // of another domain; empty: it is the same
	Replace bool   // the definition of the domain that is there, which has to be off
	TPMDir  string // empty: DefaultTPMDir
	// Remark hears what will not be as it was; nil: nobody.
	Remark func(string)
}

var _ snapshot.CheckedDefiner = Definer{}

// Writes is domain.xml.
func (Definer) Writes(dir string) []string { return []string{filepath.Join(dir, recordName)} }

// Check sees that libvirt answers and that no domain is in the way.
func (d Definer) Check(ctx context.Context, name string, hw snapshot.Hardware) error {
	c, err := rpc.Dial(ctx, d.Address, d.RPC)
	if err != nil {
		return fmt.Errorf("define %s: %w", name, err)
	}
	_, err = d.identity(ctx, c, name[strings.LastIndexByte(name, '/')+1:], hw.UUID)
	if err = errors.Join(err, c.Close()); err != nil {
		return fmt.Errorf("define %s: %w", name, err)
	}
	return nil
}

// Define tells libvirt of a VM. It does not start it.
func (d Definer) Define(ctx context.Context, dir string, vm snapshot.Restored) error {
	c, err := rpc.Dial(ctx, d.Address, d.RPC)
	if err != nil {
		return fmt.Errorf("define %s: %w", vm.Name, err)
	}
	err = d.define(ctx, c, dir, vm)
	if err = errors.Join(err, c.Close()); err != nil {
		return fmt.Errorf("define %s: %w", vm.Name, err)
	}
	return nil
}

func (d Definer) define(ctx context.Context, c *rpc.Conn, dir string, vm snapshot.Restored) (err error) {
	def, remarks, err := d.compose(vm)
	if err != nil {
		return err
	}
	r, err := d.place(vm)
	if err != nil {
		return err
	}
	if r.UUID, err = d.identity(ctx, c, def.Name(), def.UUID()); err != nil {
		return err
	}
	remarks = append(remarks, def.Restore(r)...)
	text := def.String()
	if err := durable.Put(filepath.Join(dir, recordName), []byte(text), 0o600, vm.Overwrite); err != nil { // it may hold secrets
		return existsOr(err)
	}
	tpm, more, err := d.stageTPM(def, vm)
	defer tpm.discard()
	if err != nil {
		return errors.Join(err, os.Remove(filepath.Join(dir, recordName)))
	}
	if _, err := c.Define(ctx, text); err != nil {
		return errors.Join(err, os.Remove(filepath.Join(dir, recordName)))
	}
	if err := tpm.put(d.Replace); err != nil {
		return fmt.Errorf("the domain is defined; put state of TPM in place: %w", err)
	}
	for _, remark := range append(remarks, more...) {
		if d.Remark != nil {
			d.Remark(remark)
		}
	}
	return nil
}

// compose makes the definition of the one that was backed up, or of what else is known.
func (d Definer) compose(vm snapshot.Restored) (*domainxml.Domain, []string, error) {
	i := slices.IndexFunc(vm.Files, func(f snapshot.RestoredFile) bool { return f.Path == definitionPath })
	if i < 0 {
		def, remarks := domainxml.New(vm)
		return def, remarks, nil
	}
	def, err := restored(vm.Files[i])
	return def, nil, err
}

// restored reads a definition of the restore point.
func restored(f snapshot.RestoredFile) (*domainxml.Domain, error) {
	text, err := readSmall(f.Now)
	if err != nil {
		return nil, err
	}
	def, err := domainxml.Parse(string(text))
	if err != nil {
		return nil, fmt.Errorf("definition in the restore point: %w", err)
	}
	return def, nil
}

// place says where everything is.
func (d Definer) place(vm snapshot.Restored) (r domainxml.Restored, err error) {
	r = domainxml.Restored{Name: d.Name, GenerationID: newUUID(), Exists: func(path string) bool {
		_, err := os.Stat(path)
		return err == nil
	}}
	for _, disk := range vm.Disks {
		if disk.Path, err = filepath.Abs(disk.Path); err != nil {
			return r, err
		}
		r.Disks = append(r.Disks, disk)
	}
	for _, f := range vm.Files {
		path, err := filepath.Abs(f.Now)
		if err != nil {
			return r, err
		}
		switch f.Role {
		case snapshot.RoleNVRAM:
			r.NVRAM = path
		case snapshot.RoleKernel:
			r.Kernel = path
		case snapshot.RoleInitrd:
			r.Initrd = path
		}
	}
	return r, nil
}

// identity sees that no domain is in the way. It returns the UUID of another domain; empty:
// it is the same.
func (d Definer) identity(ctx context.Context, c *rpc.Conn, name, uuid string) (string, error) {
	name = cmp.Or(d.Name, name)
	there, err := c.Lookup(ctx, name)
	if err != nil && !errors.Is(err, snapshot.ErrNotFound) {
		return "", err
	}
	taken := err == nil
	switch {
	case d.Name != "" && taken:
		return "", snapshot.WithHint(fmt.Errorf("there is a domain %s: %w", name, snapshot.ErrExists), "choose another name")
	case d.Name != "":
		return newUUID(), nil
	case taken && there.UUID.String() != uuid:
		return "", snapshot.WithHint(fmt.Errorf("there is another domain %s: %w", name, snapshot.ErrExists), "restore it under another name: --as NAME")
	}
	list, err := c.Domains(ctx)
	if err != nil {
		return "", err
	}
	i := slices.IndexFunc(list, func(x rpc.Domain) bool { return x.UUID.String() == uuid })
	switch {
	case i < 0:
		return "", nil
	case list[i].Name != name:
		return "", snapshot.WithHint(fmt.Errorf("the domain is there under the name %s: %w", list[i].Name, snapshot.ErrExists), "restore it as another domain: --as NAME")
	case !d.Replace:
		return "", snapshot.WithHint(fmt.Errorf("the domain %s is there: %w", name, snapshot.ErrExists),
			"--replace-vm gives it the restored disks, --as NAME makes another domain")
	}
	return "", replaceable(ctx, c, list[i])
}

// replaceable sees that a domain is off, and does not wait to go on with the disks it has.
func replaceable(ctx context.Context, c *rpc.Conn, d rpc.Domain) error {
	state, _, err := c.State(ctx, d)
	if err != nil {
		return err
	}
	if state != rpc.StateShutoff && state != rpc.StateCrashed {
		return snapshot.WithHint(fmt.Errorf("the domain %s runs: %w", d.Name, snapshot.ErrBusy), "shut it down first")
	}
	saved, err := c.HasManagedSave(ctx, d)
	if err == nil && saved {
		err = snapshot.WithHint(fmt.Errorf("the domain %s was saved with its memory, which does not fit the restored disks: %w", d.Name, snapshot.ErrBusy),
			"throw that memory away first: virsh managedsave-remove "+snapshot.ShellWord(d.Name))
	}
	return err
}

// staged is files that wait beside their places.
type staged []*durable.Staged

// put gives the files their places. The folders' entries are durable then.
func (s staged) put(overwrite bool) error {
	for _, f := range s {
		if err := existsOr(f.Put(overwrite)); err != nil {
			return err
		}
	}
	return nil
}

// discard removes what was not given its place.
func (s staged) discard() {
	for _, f := range s {
		_ = f.Discard()
	}
}

// stageTPM writes the state of the TPM beside the place where libvirt looks for it: the state
// that is there is that of the domain as it is, until libvirt has taken the new definition.
func (d Definer) stageTPM(def *domainxml.Domain, vm snapshot.Restored) (files staged, remarks []string, err error) {
	tpm, ok := def.TPM()
	if !ok || !tpm.Emulated {
		return files, nil, nil
	}
	if tpm.Path != "" {
		return files, []string{"the state of the TPM has to be put to " + tpm.Path}, nil
	}
	dir := stateDir(cmp.Or(d.TPMDir, DefaultTPMDir), def, tpm)
	for _, f := range vm.Files {
		if f.Role != snapshot.RoleTPM {
			continue
		}
		s, err := d.stageState(filepath.Join(dir, filepath.Base(f.Path)), f.Now)
		if err != nil {
			return files, nil, fmt.Errorf("put state of TPM in place: %w", err)
		}
		files = append(files, s)
	}
	if len(files) == 0 {
		remarks = append(remarks, "the TPM starts as new: have the guest's recovery keys at hand (BitLocker, LUKS)")
	}
	if tpm.Secret != "" {
		remarks = append(remarks, "the state of the TPM is encrypted with libvirt's secret "+tpm.Secret+", which has to be on this host")
	}
	return files, remarks, nil
}

func (d Definer) stageState(path, from string) (*durable.Staged, error) {
	data, err := readSmall(from)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o711); err != nil {
		return nil, err
	}
	if _, err := os.Lstat(path); err == nil && !d.Replace {
		return nil, fmt.Errorf("%s: %w", path, snapshot.ErrExists)
	}
	return durable.Stage(path, func(f *os.File) error {
		_, err := f.Write(data)
		return err
	})
}

// existsOr makes a taken name ErrExists.
func existsOr(err error) error {
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%w: %w", snapshot.ErrExists, err)
	}
	return err
}

// newUUID is a random one (RFC 9562, version 4).
func newUUID() string {
	var u rpc.UUID
	_, _ = rand.Read(u[:]) // never fails
	u[6], u[8] = u[6]&0x0f|0x40, u[8]&0x3f|0x80
	return strings.ToLower(u.String())
}
