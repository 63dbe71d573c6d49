package libvirt

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/image"
	"github.com/lull-backup/lull/snapshot/libvirt/domainxml"
	"github.com/lull-backup/lull/snapshot/libvirt/rpc"
	"github.com/lull-backup/lull/snapshot/qemu"
)

// Discover names all domains, running and not, sorted, and looks no further. One whose
// definition cannot be had hides no other: it has its problem.
func (h *Host) Discover(ctx context.Context) ([]snapshot.Found, error) {
	all, err := h.domains(ctx)
	if err != nil {
		return nil, err
	}
	var list []snapshot.Found
	for _, d := range all {
		def, err := h.definition(ctx, d, 0)
		switch {
		case errors.Is(err, snapshot.ErrNotFound): // undefined meanwhile
			continue
		case errors.Is(err, rpc.ErrClosed), errors.Is(err, snapshot.ErrUnreachable), err != nil && ctx.Err() != nil:
			return nil, fmt.Errorf("domain %s: %w", d.Name, err) // there is nobody to ask for the rest
		case err != nil:
			list = append(list, snapshot.Found{Name: d.Name, Problem: oneLine(err)})
		default:
			list = append(list, snapshot.Found{Name: d.Name, Tags: def.Tags()})
		}
	}
	return list, nil
}

// domains are all of the daemon, sorted by name.
func (h *Host) domains(ctx context.Context) (all []rpc.Domain, err error) {
	err = h.link.ask(ctx, func(c *rpc.Conn) (err error) {
		all, err = c.Domains(ctx)
		return err
	})
	slices.SortFunc(all, func(a, b rpc.Domain) int { return strings.Compare(a.Name, b.Name) })
	return all, err
}

// definition is a domain's XML; flags are rpc's XML constants.
func (h *Host) definition(ctx context.Context, d rpc.Domain, flags uint32) (*domainxml.Domain, error) {
	var text string
	err := h.link.ask(ctx, func(c *rpc.Conn) (err error) {
		text, err = c.XML(ctx, d, flags)
		return err
	})
	if err != nil {
		return nil, err
	}
	return domainxml.Parse(text)
}

// maxAsked bounds how many domains are looked at at a time.
const maxAsked = 8

// VMs lists all domains.
func (h *Host) VMs(ctx context.Context) ([]snapshot.VM, error) {
	all, err := h.domains(ctx)
	if err != nil {
		return nil, err
	}
	list := make([]snapshot.VM, len(all))
	slots := make(chan struct{}, maxAsked)
	var work sync.WaitGroup
	for i, d := range all {
		work.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			list[i] = h.describe(ctx, d)
		})
	}
	work.Wait()
	return list, ctx.Err()
}

// describe lists a domain; what stands in the way of a backup is its problem.
func (h *Host) describe(ctx context.Context, d rpc.Domain) snapshot.VM {
	vm := snapshot.VM{Name: d.Name, State: snapshot.StateOff}
	def, err := h.definition(ctx, d, 0)
	if err == nil && d.ID >= 0 {
		var list []snapshot.VM
		err = h.use(identity{d.UUID, d.Name}, func(q *qemu.Host) (err error) {
			list, err = q.VMs(ctx)
			return err
		})
		if err == nil {
			vm = list[0]
		}
	}
	if err != nil {
		vm.State, vm.Problem = snapshot.StateUnreachable, oneLine(err)
		return vm
	}
	vm.Guest = def.Agent()
	if d.ID < 0 {
		specs, excluded := sortDisks(def)
		vm.Disks, err = sizes(specs)
		switch {
		case err != nil:
			vm.Problem = oneLine(err)
		case len(specs) == 0:
			vm.Problem = noDisk(excluded)
		}
	}
	return vm
}

// noDisk says why nothing of a domain can be backed up.
func noDisk(excluded []snapshot.Excluded) string {
	why := "it has no disk that can be backed up"
	for _, x := range excluded {
		if !x.Expected {
			why += fmt.Sprintf("; %s: %s", x.Disk.Name, x.Reason)
		}
	}
	return why
}

// sizes looks at the images of a domain that is off.
func sizes(specs []image.DiskSpec) ([]snapshot.Disk, error) {
	var list []snapshot.Disk
	for _, s := range specs {
		info, err := image.Inspect(s.Path, s.Format)
		if err != nil {
			return list, fmt.Errorf("disk %s: %w", s.Name, err)
		}
		list = append(list, snapshot.Disk{Name: s.Name, Path: s.Path, Format: s.Format, Size: info.Size})
	}
	return list, nil
}

func oneLine(err error) string { return strings.Join(strings.Fields(err.Error()), " ") }
