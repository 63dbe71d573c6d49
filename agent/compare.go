package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/lull-backup/lull/agent/journal"
	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/transport/repo"
)

// compare holds hypervisor, files and journal of a VM against each other, where the host
// can.
func compare(ctx context.Context, host snapshot.Host, vm string, owned *snapshot.Plan) ([]snapshot.Finding, error) {
	c, ok := host.(snapshot.Comparer)
	if !ok {
		return nil, nil
	}
	return c.Compare(ctx, vm, owned)
}

// compareBefore looks at the VM before anything is done to it, when nothing is owed to it
// any more. What blocks a backup is its error, anything else goes to the log.
func (b *backup) compareBefore(ctx context.Context) error {
	found, err := compare(ctx, b.job.Host, b.job.VM, nil)
	if err != nil {
		return Interrupted(ctx, err)
	}
	for _, f := range found {
		if f.Blocks() {
			return snapshot.WithHint(fmt.Errorf("disk %s: %s: %w", f.Disk, f.Text, snapshot.ErrMergePending), f.Next)
		}
	}
	for _, f := range found {
		b.Log.Warn("something is left", "vm", b.job.Name, "kind", f.Kind, "disk", f.Disk, "path", f.Path, "what", f.Text, "next", f.Next)
	}
	return nil
}

// compareAfter proves that nothing of the run is left.
func (b *backup) compareAfter(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
	defer cancel()
	found, err := compare(ctx, b.job.Host, b.job.VM, nil)
	if err != nil {
		b.Log.Info("the VM was not looked at after its merge", "vm", b.job.Name, "run", b.run, "error", err)
	}
	for _, f := range found {
		if f.Run == b.run || f.Blocks() {
			b.warnOnce(said(f))
		}
	}
}

// drift takes down which disks came and went while the point was made.
func (b *backup) drift(ctx context.Context, point *repo.Point) {
	found, err := compare(ctx, b.job.Host, b.job.VM, &b.plan)
	if err != nil {
		b.Log.Info("the VM was not looked at after the reading", "vm", b.job.Name, "run", b.run, "error", err)
	}
	for _, f := range found {
		switch f.Kind {
		case snapshot.FindingAdded:
			point.Excluded = append(slices.Clone(point.Excluded), snapshot.Excluded{
				Disk: snapshot.Disk{Name: f.Disk, Path: f.Path}, Reason: "it was plugged in after the run had begun"})
			b.warnOnce(fmt.Sprintf("disk %s is not in this point: it was plugged in after the run had begun; the next point has it", f.Disk))
		case snapshot.FindingRemoved:
			b.warnOnce(fmt.Sprintf("disk %s was unplugged after the disks froze; the point has it as it was then", f.Disk))
		}
	}
}

// Look compares a VM of the configuration with what the journal has of it. busy: a run is
// under way, which looks itself.
func (r *Runner) Look(ctx context.Context, name string, resolve Resolve) (found []snapshot.Finding, busy bool, err error) {
	host, vm, err := resolve(name)
	if err != nil {
		return nil, false, err
	}
	if idle, err := r.idle(name); err != nil || !idle {
		return nil, true, err
	}
	e, there, err := r.Journal.Read(name)
	if err != nil {
		return nil, false, err
	}
	var owned *snapshot.Plan
	if there {
		owned = &e.Plan
	}
	if found, err = compare(ctx, host, vm, owned); err != nil {
		return nil, false, err
	}
	idle, err := r.idle(name) // a run that has begun meanwhile is no leftover
	return found, !idle, err
}

// idle tells whether no run of the VM is under way on this machine. It keeps none from
// beginning.
func (r *Runner) idle(name string) (bool, error) {
	lock, err := r.Journal.Lock(name)
	if errors.Is(err, journal.ErrLocked) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	lock.Unlock()
	return true, nil
}

// lookAround looks at every VM once, when the agent starts: an operation on checkpoints that
// was interrupted is brought to its end, and what else it finds is logged, and
// shown until the VM is backed up.
func (d *Daemon) lookAround(ctx context.Context) {
	looked := map[string]bool{}
	for _, g := range d.Groups {
		for _, vm := range g.VMs {
			if looked[vm] || ctx.Err() != nil {
				continue
			}
			looked[vm] = true
			d.lookAt(ctx, vm)
		}
	}
}

func (d *Daemon) lookAt(ctx context.Context, vm string) {
	if _, owed, err := d.Runner.Journal.Read(vm); owed || err != nil {
		return // it is being repaired, or shown as what cannot be
	}
	// No journal entry tells of an operation on checkpoints; a VM may stand still for it.
	err := contain(d.Log, vm, func() error { return d.Runner.recoverLocked(ctx, vm, d.Resolve) })
	if err != nil && ctx.Err() == nil {
		d.Log.Error("repair what was interrupted", "vm", vm, "error", err)
	}
	if err != nil {
		return // and keeps from looking
	}
	found, busy, err := d.Runner.Look(ctx, vm, d.Resolve)
	if busy {
		return
	}
	if err != nil { // its next run says more
		d.Log.Info("the VM was not looked at", "vm", vm, "error", err)
		return
	}
	d.Board.looked(vm, found)
	for _, f := range found {
		d.Log.Warn("something is left", "vm", vm, "kind", f.Kind, "disk", f.Disk, "path", f.Path, "what", f.Text, "next", f.Next)
	}
}

// said is a finding as a warning.
func said(f snapshot.Finding) string {
	if f.Next == "" {
		return f.Text
	}
	return f.Text + "; " + f.Next
}
