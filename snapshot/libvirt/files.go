package libvirt

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/durable"
	"github.com/lull-backup/lull/snapshot/libvirt/domainxml"
	"github.com/lull-backup/lull/snapshot/libvirt/rpc"
)

// Paths of definitions in a plan: they name no files of the host. The first is what the
// domain starts from the next time, secrets included; the other, what it runs with.
const (
	definitionPath = "libvirt:/domain.xml"
	livePath       = "libvirt:/domain-live.xml"
)

// DefaultTPMDir is where libvirt's system daemon keeps the state of emulated TPMs.
const DefaultTPMDir = "/var/lib/libvirt/swtpm"

// maxTPMFiles bounds the files of one TPM; there are one or two.
const maxTPMFiles = 16

// docs are the definitions of a run's domain, by their paths. They are read before the disks
// freeze, as libvirt's then name the deltas.
type docs map[string]string

func (d docs) read(path string) ([]byte, error) {
	text, ok := d[path]
	if !ok {
		return nil, fmt.Errorf("the definition was noted by another process: %w", fs.ErrNotExist)
	}
	return []byte(text), nil
}

// note reads the definitions of a domain for a run.
func (h *Host) note(ctx context.Context, p snapshot.Plan) error {
	read := docs{}
	for _, f := range p.Files {
		if f.Role != snapshot.RoleDefinition {
			continue
		}
		flags := uint32(rpc.XMLSecure)
		if f.Path == definitionPath {
			flags |= rpc.XMLInactive
		}
		err := h.link.ask(ctx, func(c *rpc.Conn) error {
			d, err := (&domain{identity: identityOf(p)}).lookUp(ctx, c)
			if err == nil {
				read[f.Path], err = c.XML(ctx, d, flags)
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("note definition of %s: %w", p.VM, err)
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.docs[keyOf(p)] = read
	return nil
}

func (h *Host) docsOf(p snapshot.Plan) docs {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.docs[keyOf(p)]
}

func (h *Host) forget(p snapshot.Plan) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.docs, keyOf(p))
}

// ownFiles are the files that a domain that is off needs, by its definition. Of one that runs
// its QEMU tells.
func ownFiles(def *domainxml.Domain) (files []snapshot.File) {
	for role, path := range map[snapshot.FileRole]string{
		snapshot.RoleNVRAM: def.NVRAM(), snapshot.RoleKernel: def.Kernel(), snapshot.RoleInitrd: def.Initrd(),
	} {
		if _, err := os.Stat(path); err == nil && filepath.IsAbs(path) { // libvirt makes the variables at the first start
			files = append(files, snapshot.File{Role: role, Path: path})
		}
	}
	return files
}

// addFiles adds to a plan what libvirt and its helpers keep of a domain.
func (h *Host) addFiles(p *snapshot.Plan, def *domainxml.Domain) {
	p.Files = append(p.Files, snapshot.File{Role: snapshot.RoleDefinition, Path: definitionPath})
	if p.State != snapshot.StateOff {
		p.Files = append(p.Files, snapshot.File{Role: snapshot.RoleDefinition, Path: livePath})
	}
	tpm, ok := def.TPM()
	if !ok {
		return
	}
	warn := func(what string) {
		p.Warnings = append(p.Warnings, "the TPM: "+what+"; have the guest's recovery keys at hand (BitLocker, LUKS)")
	}
	if !tpm.Emulated {
		warn(fmt.Sprintf("what a TPM of kind %s keeps is not in the restore point", tpm.Kind))
		return
	}
	files, err := tpmFiles(h.tpmDir(def, tpm))
	switch {
	case err != nil:
		warn(fmt.Sprintf("its state cannot be read (%s) and is not in the restore point", oneLine(err)))
	case len(files) == 0 && p.State != snapshot.StateOff:
		warn("no state of it was found in " + h.tpmDir(def, tpm))
	}
	if len(files) > 0 && tpm.Secret != "" {
		warn(fmt.Sprintf("its state is encrypted with libvirt's secret %s, which is not in the restore point: keep it elsewhere", tpm.Secret))
	}
	p.Files = append(p.Files, files...)
}

// tpmDir is where the state of an emulated TPM is.
func (h *Host) tpmDir(def *domainxml.Domain, tpm domainxml.TPM) string {
	if tpm.Path != "" {
		return tpm.Path
	}
	return stateDir(h.tpm, def, tpm)
}

// stateDir is where libvirt keeps it, in the folder of all TPMs.
func stateDir(all string, def *domainxml.Domain, tpm domainxml.TPM) string {
	if tpm.Version12 {
		return filepath.Join(all, def.UUID(), "tpm1.2")
	}
	return filepath.Join(all, def.UUID(), "tpm2")
}

// tpmFiles are the files of a TPM's state. The TPM puts a new one in the place of the one
// before, so each is whole at any time.
func tpmFiles(dir string) (files []snapshot.File, err error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) { // it has never been started
		return nil, nil
	}
	for _, e := range entries {
		if e.Type().IsRegular() && filepath.Ext(e.Name()) != ".lock" && e.Name() != ".lock" && len(files) < maxTPMFiles {
			files = append(files, snapshot.File{Role: snapshot.RoleTPM, Path: filepath.Join(dir, e.Name())})
		}
	}
	return files, err
}

// readSmall reads a file that travels whole in a restore point.
func readSmall(path string) ([]byte, error) { return durable.ReadFile(path, snapshot.MaxFileSize) }

// whole is what QEMU's host freezes.
type whole interface {
	snapshot.FrozenChanges
	snapshot.FrozenState
}

// frozenOn adds the definitions to what QEMU's host has frozen.
type frozenOn struct {
	whole
	docs docs
}

// File reads one of the plan's files.
func (f *frozenOn) File(ctx context.Context, path string) ([]byte, error) {
	if path == definitionPath || path == livePath {
		return f.docs.read(path)
	}
	return f.whole.File(ctx, path)
}
