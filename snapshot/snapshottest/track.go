package snapshottest

import (
	"github.com/lull-backup/lull/snapshot"
)

// tracks takes a Tracker through points that are made one upon the other.
func (k *kit) tracks() {
	if _, ok := k.Host.(snapshot.Tracker); !ok || k.Fixture.Write == nil {
		return
	}
	var since map[string]string
	k.write(1)
	since = k.trackedRun("one", since, nil, true)
	before := k.Copy()
	k.write(2)
	k.trackedRun("two", since, before, false) // it fails: the record of the first point stays true
	k.Host = k.Reopen(k.t)
	k.write(3)
	since = k.trackedRun("three", since, before, true)
	before = k.Copy()
	k.trackedRun("four", since, before, false)

	p := k.track("five", since)
	k.settle(p, nil)
	k.settle(p, nil)
	p = k.track("six", since)
	for _, d := range p.Disks {
		if d.Track.Since != "" || d.Track.Reason == "" {
			k.t.Errorf("disk %s: a record that was removed is in the plan: %+v", d.Name, d.Track)
		}
	}
	k.asBefore()
}

func (k *kit) track(run string, since map[string]string) snapshot.Plan {
	k.t.Helper()
	p, err := k.Host.(snapshot.Tracker).Track(k.ctx, k.plan(run), "kit", since)
	if err != nil {
		k.t.Fatalf("Track: %v", err)
	}
	return journaled(k.t, p)
}

func (k *kit) settle(p snapshot.Plan, keep map[string]string) {
	k.t.Helper()
	if err := k.Host.(snapshot.Tracker).Settle(k.ctx, p, keep); err != nil {
		k.t.Fatalf("Settle: %v", err)
	}
}

// trackedRun is a whole run. before is what the disks held at the point that since
// says; nil: there is none. It returns the records that began with this one.
func (k *kit) trackedRun(run string, since map[string]string, before map[string][]byte, committed bool) map[string]string {
	k.t.Helper()
	p := k.track(run, since)
	k.prepare(p)
	k.take(p)
	want := k.Copy()
	k.write(0x70)
	f := k.open(p)
	records := map[string]string{}
	for _, d := range k.disks {
		c, err := f.(snapshot.FrozenChanges).Changes(k.ctx, d.Name)
		if err != nil {
			k.t.Fatalf("Changes of %s: %v", d.Name, err)
		}
		if records[d.Name] = c.Record; c.Record == "" {
			k.t.Errorf("run %s: nothing records what changes on %s: %s", run, d.Name, c.Reason)
		}
		k.changes(d, c, before[d.Name], want[d.Name])
	}
	if _, err := f.(snapshot.FrozenChanges).Changes(k.ctx, "no such disk"); err == nil {
		k.t.Error("changes of a disk that is not in the plan")
	}
	k.close(f)
	k.merge(p)
	keep := since
	if committed {
		keep = records
	}
	k.settle(p, keep)
	return records
}

// changes holds what is said to have changed against what has.
func (k *kit) changes(d snapshot.Disk, c snapshot.Changes, before, now []byte) {
	k.t.Helper()
	if before == nil {
		if c.Since != nil {
			k.t.Errorf("disk %s: changes since no point", d.Name)
		}
		return
	}
	if c.Since == nil {
		k.t.Errorf("disk %s: changes are not known: %s", d.Name, c.Reason)
		return
	}
	if c.Since.Size() != d.Size || c.Since.Bytes() >= d.Size {
		k.t.Errorf("disk %s: %d bytes of %d changed", d.Name, c.Since.Bytes(), c.Since.Size())
	}
	for i := range now {
		if now[i] != before[i] && !c.Since.Any(int64(i), 1) {
			k.t.Errorf("disk %s: byte %d changed, and is said not to have", d.Name, i)
			return
		}
	}
}
