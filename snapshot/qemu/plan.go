package qemu

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/space"
)

// Plan looks at the VM and writes nothing.
func (h *Host) Plan(ctx context.Context, vm, run string) (snapshot.Plan, error) {
	l, err := h.line(vm)
	if err != nil {
		return snapshot.Plan{}, err
	}
	if err := checkRun(run); err != nil {
		return snapshot.Plan{}, fmt.Errorf("plan %s: run %q: %w", vm, run, err)
	}
	var p snapshot.Plan
	err = l.use(ctx, func(m *monitor) error {
		p, err = h.plan(ctx, m, run)
		return err
	})
	if err != nil {
		return snapshot.Plan{}, fmt.Errorf("plan %s: %w", vm, err)
	}
	return p, nil
}

func (h *Host) plan(ctx context.Context, m *monitor, run string) (snapshot.Plan, error) {
	p := snapshot.Plan{Host: h.opt.Kind, VM: m.vm.Name, Run: run, Instance: m.proc.instance}
	f, err := m.inspect(ctx)
	if err == nil {
		err = h.adopt(m, &f)
	}
	if err != nil {
		return p, err
	}
	if dir := m.vm.DeltaDir; dir != "" {
		if err := space.CheckFolder(dir); err != nil {
			return p, err
		}
	}
	if len(f.disks) == 0 {
		return p, fmt.Errorf("it has no disk that can be backed up: %w", snapshot.ErrUnsupported)
	}
	limits, err := m.limits(ctx)
	if err != nil {
		return p, err
	}
	for i, d := range f.disks {
		dp, err := h.planDisk(m, d, run, i)
		if err != nil {
			return p, err
		}
		dp.Limits = limits[d.QDev]
		p.Disks = append(p.Disks, dp)
	}
	if err := m.addRecords(ctx, p.Disks); err != nil {
		return p, err
	}
	p.Excluded, p.Warnings = f.excluded, f.warnings
	if err := m.free(ctx); err != nil {
		return p, err
	}
	if err := m.settled(ctx); err != nil {
		return p, err
	}
	if p.State, err = m.state(ctx); err != nil {
		return p, err
	}
	if p.Hardware, err = m.hardware(ctx, f); err != nil {
		return p, err
	}
	p.Excluded = append(p.Excluded, unseen(p.Hardware.Devices)...)
	if m.vm.Manager == nil { // it knows where such programs keep what
		p.Warnings = append(p.Warnings, unkept(p.Hardware.Devices)...)
	}
	p.Files = m.smallFiles(f)
	p.Warnings = append(p.Warnings, wipedInVain(p)...)
	p.Saved, err = planSaved(ctx, m, p)
	return p, err
}

func (h *Host) planDisk(m *monitor, d disk, run string, i int) (snapshot.DiskPlan, error) {
	delta, link, err := h.place(m.vm, d, run)
	if err != nil {
		return snapshot.DiskPlan{}, err
	}
	if err := pending(d, run, delta, link); err != nil {
		return snapshot.DiskPlan{}, err
	}
	node := deltaNode(m.vm.Name, run, i)
	p := snapshot.DiskPlan{
		Disk: d.Disk, Device: d.QDev, Node: d.Inserted.Node,
		Delta: delta, DeltaNode: node, Link: link, Wipe: m.vm.Wipe, Export: node, Chain: d.layers, Local: d.plain && !h.opt.Served, Key: d.key,
	}
	if d.thread {
		p.Export = "" // read from its files, see the package's documentation
	}
	return p, nil
}

// pending looks for the delta of an earlier run, in the chain, beside it, and where the
// one of this run is to be.
func pending(d disk, run string, places ...string) error {
	err := func(path string) error {
		return snapshot.WithHint(fmt.Errorf("disk %s: %s: %w", d.Name, path, snapshot.ErrMergePending),
			"let lull recover: start the agent, or run the backup again with the same repository")
	}
	for _, l := range d.layers {
		if isDelta(l.Path) {
			return err(l.Path)
		}
	}
	if strings.HasPrefix(d.Inserted.Node, nodePrefix) {
		return err("node " + d.Inserted.Node)
	}
	for _, place := range places {
		if place == "" {
			continue
		}
		found, lookErr := earlier(place, run)
		if lookErr != nil {
			return fmt.Errorf("look for earlier deltas: %w", lookErr)
		}
		if found != "" {
			return err(found)
		}
	}
	return nil
}

// earlier finds the delta of another run of the disk that has one of this run at path.
func earlier(path, run string) (string, error) {
	stem := strings.TrimSuffix(path, ".lull-"+run+".delta") + ".lull-"
	entries, err := os.ReadDir(filepath.Dir(path))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	for _, e := range entries {
		if other := filepath.Join(filepath.Dir(path), e.Name()); strings.HasPrefix(other, stem) && isDelta(other) {
			return other, nil
		}
	}
	return "", err
}

// free fails while another tool works on the VM's disks.
func (m *monitor) free(ctx context.Context) error {
	jobs, err := m.jobs(ctx)
	if err != nil {
		return err
	}
	for _, j := range jobs {
		if slices.Contains([]string{"commit", "stream", "mirror", "backup"}, j.Type) && j.Status != "concluded" {
			return snapshot.WithHint(fmt.Errorf("QEMU runs the %s job %q: %w", j.Type, j.ID, snapshot.ErrBusy),
				"wait until the other tool has finished, or end its job")
		}
	}
	exports, err := m.exports(ctx)
	if err != nil {
		return err
	}
	for _, e := range exports {
		if e.Type == "nbd" {
			return foreignServer(e.ID)
		}
	}
	return nil
}

// settled fails while the VM moves to or from another host: a delta made here
// would not go with it.
func (m *monitor) settled(ctx context.Context) error {
	status, err := m.status(ctx)
	if err != nil {
		return err
	}
	var migration struct {
		Status string `json:"status"`
	}
	if err := m.ask(ctx, "query-migrate", nil, &migration); err != nil {
		return err
	}
	over := slices.Contains([]string{"", "none", "completed", "failed", "cancelled"}, migration.Status)
	if over && !slices.Contains([]string{"inmigrate", "finish-migrate", "postmigrate", "colo"}, status) {
		return nil
	}
	return snapshot.WithHint(fmt.Errorf("the VM is being migrated (%s, %s): %w", status, migration.Status, snapshot.ErrBusy),
		"back it up on the host where it runs, once the migration is over")
}

func foreignServer(id string) error {
	return snapshot.WithHint(fmt.Errorf("QEMU's NBD server is in use (export %q): %w", id, snapshot.ErrBusy),
		"end the other tool's export, or send nbd-server-stop to the monitor")
}
