package agent

import (
	"context"
	"errors"
	"time"

	"github.com/lull-backup/lull/agent/control"
	"github.com/lull-backup/lull/agent/journal"
	"github.com/lull-backup/lull/snapshot"
)

const (
	// repairEvery is how often the daemon looks for what earlier runs still owe,
	// and how long it waits after the first try that failed.
	repairEvery = time.Minute
	// repairPause is the longest that it waits between two tries.
	repairPause = time.Hour
)

// repairs is how far the daemon is with what earlier runs owe: each try that
// fails doubles the wait for the next. A guest that may be frozen is never kept
// waiting. One goroutine uses it; a run of the VM tries at once, whatever it says.
type repairs struct {
	of   map[string]control.RepairStatus // by VM
	busy map[string]bool                 // VMs that are being repaired
	bad  string                          // what could not be read of the journal, told once
}

// due says whether it is time for an entry. One of another run than the last
// starts anew.
func (r *repairs) due(e journal.Entry, now time.Time) bool {
	s, known := r.of[e.VM]
	// The timer that asks is late now and then, and early never.
	return !known || s.Run != e.Run || e.FreezeSent || !now.Add(repairEvery/2).Before(s.Next)
}

// tried notes how a try that began at now went.
func (r *repairs) tried(e journal.Entry, now time.Time, err error) {
	if err == nil {
		delete(r.of, e.VM)
		return
	}
	s := r.of[e.VM]
	if s.Run != e.Run {
		s = control.RepairStatus{VM: e.VM, Run: e.Run, Since: e.Started}
	}
	pause := repairPause
	if s.Tries < 6 { // 2^6 minutes are more than an hour
		pause = min(pause, repairEvery<<s.Tries)
	}
	if e.FreezeSent || errors.Is(err, snapshot.ErrNoSpace) { // the VM may stand still until there is room
		pause = repairEvery
	}
	s.Tries++
	s.LastError, s.Next = err.Error(), now.Add(pause)
	r.of[e.VM] = s
}

// only forgets every VM that is not among the entries: a run has repaired it.
func (r *repairs) only(entries []journal.Entry) {
	kept := map[string]control.RepairStatus{}
	for _, e := range entries {
		if s, ok := r.of[e.VM]; ok {
			kept[e.VM] = s
		}
	}
	r.of = kept
}

// attempt is one try to repair what an entry tells of.
type attempt struct {
	entry journal.Entry
	began time.Time
	err   error
}

// keepRepairing tries again what earlier runs still owe: a guest that would not
// be proven thawed, a merge that failed. Each VM is repaired beside the others: a
// merge that takes an hour keeps no other guest frozen. It returns when the last try
// has ended.
func (d *Daemon) keepRepairing(ctx context.Context) {
	tick := time.NewTicker(repairEvery)
	defer tick.Stop()
	r := repairs{busy: map[string]bool{}}
	ended := make(chan attempt)
	d.repair(ctx, &r, ended)
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-tick.C:
			d.repair(ctx, &r, ended)
		case a := <-ended:
			d.repaired(&r, a)
		}
	}
	for len(r.busy) > 0 {
		d.repaired(&r, <-ended)
	}
}

// repair begins to repair what is due; each attempt goes to ended.
func (d *Daemon) repair(ctx context.Context, r *repairs, ended chan<- attempt) {
	now := d.Runner.Now()
	entries, err := d.Runner.Journal.Pending()
	d.unreadable(r, err)
	r.only(entries)
	d.Board.owed(r.of)
	for _, e := range entries {
		if r.busy[e.VM] || !r.due(e, now) {
			continue
		}
		r.busy[e.VM] = true
		go func() { // keepRepairing waits for it
			ended <- attempt{entry: e, began: now, err: d.Runner.recover(ctx, e, d.Resolve)}
		}()
	}
}

// repaired notes how an attempt went.
func (d *Daemon) repaired(r *repairs, a attempt) {
	delete(r.busy, a.entry.VM)
	if errors.Is(a.err, context.Canceled) {
		return // the daemon ends
	}
	r.tried(a.entry, a.began, a.err)
	if a.err != nil {
		d.Log.Error("repair what an earlier run left", "vm", a.entry.VM, "error", a.err, "next", r.of[a.entry.VM].Next)
	}
	d.Board.owed(r.of)
}

// unreadable logs what is wrong with the journal, when that changes.
func (d *Daemon) unreadable(r *repairs, err error) {
	said := ""
	if err != nil {
		said = err.Error()
	}
	if said != r.bad && err != nil {
		d.Log.Error("read what earlier runs left", "error", err)
	}
	r.bad = said
}
