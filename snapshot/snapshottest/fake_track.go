package snapshottest

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/lull-backup/lull/snapshot"
)

// A Fake keeps the records of a disk as sets of pages that were written to, as long as
// its VM is not crashed.

var _ snapshot.Tracker = (*fakeHost)(nil)

func (h *fakeHost) Track(ctx context.Context, p snapshot.Plan, series string, since map[string]string) (snapshot.Plan, error) {
	p.Disks = slices.Clone(p.Disks)
	err := h.fake.lock(ctx, p.VM, "Track", func(v *fakeVM) error {
		for i, d := range p.Disks {
			t := snapshot.TrackPlan{Stem: fmt.Sprintf("%q-%q-", series, d.Name), Grain: page}
			t.Record = t.Stem + p.Run
			switch name := since[d.Name]; {
			case name == "":
			case v.disks[d.Name].records[name] == nil || !strings.HasPrefix(name, t.Stem):
				t.Reason = "the record is gone"
			default:
				t.Since = name
			}
			p.Disks[i].Track = t
		}
		return nil
	})
	return p, err
}

func (h *fakeHost) Settle(ctx context.Context, p snapshot.Plan, keep map[string]string) error {
	return h.fake.lock(ctx, p.VM, "Settle", func(v *fakeVM) error {
		if err := v.gone(p); err != nil {
			return fmt.Errorf("settle: %w", err)
		}
		for _, d := range p.Disks {
			v.disks[d.Name].dropRecords(d.Track.Stem, keep[d.Name])
		}
		return nil
	})
}

// dropRecords drops all records of a series but one.
func (d *fakeDisk) dropRecords(stem, keep string) {
	maps.DeleteFunc(d.records, func(name string, _ map[int64]bool) bool {
		return stem != "" && strings.HasPrefix(name, stem) && name != keep
	})
}

// record notes a write to the base.
func (d *fakeDisk) record(off, length int64) {
	for _, pages := range d.records {
		for at := off / page * page; at < off+length; at += page {
			pages[at] = true
		}
	}
}

// startRecord begins the record of a plan, when it has one.
func (d *fakeDisk) startRecord(t snapshot.TrackPlan) {
	if t.Record == "" {
		return
	}
	if d.records == nil {
		d.records = map[string]map[int64]bool{}
	}
	d.records[t.Record] = map[int64]bool{}
}

func (f *fakeFrozen) Changes(ctx context.Context, disk string) (c snapshot.Changes, err error) {
	i := slices.IndexFunc(f.plan.Disks, func(d snapshot.DiskPlan) bool { return d.Name == disk })
	if i < 0 {
		return c, fmt.Errorf("no disk %q in the plan", disk)
	}
	t := f.plan.Disks[i].Track
	err = f.use(ctx, "Changes", func(v *fakeVM) error {
		d := v.disks[disk]
		c.Reason = t.Reason
		if d.records[t.Record] != nil {
			c.Record = t.Record
		}
		pages := d.records[t.Since]
		if pages == nil {
			return nil
		}
		if c.Since, err = snapshot.NewChangeSet(int64(len(d.base)), page); err != nil {
			return err
		}
		for at := range pages {
			c.Since.Add(at, page)
		}
		return nil
	})
	return c, err
}

// Lose makes a VM forget what changed on its disks.
func (f *Fake) Lose(vm string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if v := f.vms[vm]; v != nil {
		for _, d := range v.disks {
			d.records = nil
		}
	}
}

// Tamper changes a disk so that no record knows of it.
func (f *Fake) Tamper(vm, disk string, off int64, p []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, d, err := f.disk(vm, disk)
	if err == nil {
		copy(d.base[off:], p)
	}
	return err
}
