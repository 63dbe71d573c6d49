package agent

import (
	"context"
	"errors"
	"time"

	"github.com/lull-backup/lull/agent/control"
	"github.com/lull-backup/lull/agent/journal"
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
	of  map[string]control.RepairStatus // by VM
	bad string                          // what could not be read of the journal, told once
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
	if e.FreezeSent {
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

// keepRepairing tries again what earlier runs still owe: a guest that would not
// be proven thawed, a merge that failed.
func (d *Daemon) keepRepairing(ctx context.Context) {
	tick := time.NewTicker(repairEvery)
	defer tick.Stop()
	var r repairs
	for {
		d.repair(ctx, &r)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (d *Daemon) repair(ctx context.Context, r *repairs) {
	now := d.Runner.Now()
	entries, err := d.Runner.Journal.Pending()
	d.unreadable(r, err)
	r.only(entries)
	var due []journal.Entry
	for _, e := range entries {
		if r.due(e, now) {
			due = append(due, e)
		}
	}
	for i, err := range d.Runner.recoverAll(ctx, due, d.Resolve) {
		if errors.Is(err, context.Canceled) {
			continue // the daemon ends
		}
		r.tried(due[i], now, err)
		if err != nil {
			d.Log.Error("repair what an earlier run left", "vm", due[i].VM, "error", err, "next", r.of[due[i].VM].Next)
		}
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
