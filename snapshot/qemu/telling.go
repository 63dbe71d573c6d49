package qemu

import (
	"context"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lull-backup/lull/snapshot"
)

var _ snapshot.Merger = (*Host)(nil)

// telling is how far the merge of a plan is. One goroutine uses it.
type telling struct {
	host *Host
	plan snapshot.Plan
	tell func(snapshot.Merging)

	before int64   // bytes of the disks that are merged
	after  []int64 // what the deltas take, by disk: the size of those that are not begun
	disk   int     // that is merged now
}

func (h *Host) newTelling(p snapshot.Plan, tell func(snapshot.Merging)) *telling {
	t := &telling{host: h, plan: p, tell: tell, after: make([]int64, len(p.Disks))}
	for i, d := range p.Disks {
		t.after[i] = allocated(d.Delta)
	}
	return t
}

// allocated is the room that a file takes.
func allocated(path string) int64 {
	var s unix.Stat_t
	if path == "" || unix.Stat(path, &s) != nil {
		return 0
	}
	return s.Blocks * 512
}

// begin turns to a disk.
func (t *telling) begin(disk int) {
	for i := t.disk; i < disk; i++ {
		t.before += t.after[i]
	}
	t.disk = disk
}

// job tells how far the commit of the disk is.
func (t *telling) job(j *job) {
	t.after[t.disk] = j.Total
	total := t.before
	for _, n := range t.after[t.disk:] {
		total += n
	}
	t.say(snapshot.Merging{Done: t.before + j.Current, Total: total})
}

func (t *telling) say(m snapshot.Merging) {
	if t.tell != nil {
		t.tell(m)
	}
}

// commitWatch follows the commit of one disk.
type commitWatch struct {
	*telling
	slow *slower
}

func (t *telling) commit(d snapshot.DiskPlan) *commitWatch {
	return &commitWatch{telling: t, slow: newSlower(t.plan, d)}
}

// look is told of the job each time that it is looked at.
func (w *commitWatch) look(ctx context.Context, m *monitor, j *job) error {
	if j == nil || j.Total == 0 {
		return nil
	}
	w.job(j)
	did, err := w.slow.look(ctx, m, j.Total-j.Current, time.Now())
	if did != "" {
		w.host.opt.Log.Warn("slow guest down", "vm", w.plan.VM, "disk", w.slow.disk.Name, "left", j.Total-j.Current)
		w.say(snapshot.Merging{Done: w.before + j.Current, Total: w.before + j.Total, Slowed: did})
	}
	return err
}
