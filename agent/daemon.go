package agent

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/lull-backup/lull/agent/journal"
	"github.com/lull-backup/lull/agent/retention"
	"github.com/lull-backup/lull/agent/schedule"
)

// longestNap bounds how long the daemon trusts a timer: a suspended host or a clock
// that was set shows by then.
const longestNap = time.Minute

// Group is VMs with one schedule and one repository.
type Group struct {
	Name     string
	Schedule schedule.Schedule // zero: runs only by hand
	Jitter   time.Duration     // a scheduled run starts up to this much later
	CatchUp  bool              // a run missed while the daemon was off is made up for
	VMs      []string          // host/vm
	// Members finds the VMs anew before each run, where hosts come to know of others and
	// forget some; nil: VMs are all there are. With an error they are those that are known all
	// the same, and it says of whom more is not. One drive calls it, never twice at a time.
	Members func(ctx context.Context) ([]string, error)
	// Keep says which restore points stay after each run; zero: all.
	Keep retention.Keep
	// Open readies the jobs of the named VMs, those of one repository that is
	// open until close. It is called when they are about to run.
	Open func(ctx context.Context, vms []string) (jobs []Job, close func() error, err error)
}

// Daemon drives the groups of one host by their schedules.
type Daemon struct {
	Runner   *Runner // its Observe hears everything; Board comes before it
	Groups   []Group
	Upkeep   []Upkeep // of the groups' repositories
	Parallel int      // runs at once over all groups
	Resolve  Resolve
	Board    *Board
	Log      *slog.Logger
	Machine  string // this machine's name: jitter spreads machines, not only groups
	// Ready is called once schedules are armed. What earlier runs left is
	// repaired beside them: a long merge keeps no other VM waiting.
	Ready func()

	leftKeep sync.Once // that keep is left to others was said
}

// Run serves until ctx ends; then the runs in progress are ended and merged, and
// Run returns nil.
func (d *Daemon) Run(ctx context.Context) error {
	slots := make(chan struct{}, max(d.Parallel, 1))
	var all sync.WaitGroup
	for _, g := range d.Groups {
		if !g.Schedule.IsZero() {
			all.Go(func() { d.drive(ctx, g, slots) })
		}
	}
	for _, u := range d.Upkeep {
		all.Go(func() { d.keepUp(ctx, u) })
	}
	all.Go(func() { d.keepRepairing(ctx) })
	all.Go(func() { d.lookAround(ctx) })
	d.Ready()
	<-ctx.Done()
	d.Log.Info("stopping: runs in progress are ended and merged")
	all.Wait()
	return nil
}

// lookAgain is how often hosts that have not answered since the start are asked for their VMs.
const lookAgain = time.Minute

// drive runs one group at its times. A run that outlasts the next time makes
// that one late, never double.
func (d *Daemon) drive(ctx context.Context, g Group, slots chan struct{}) {
	met := d.catchUp(ctx, &g, slots)
	for {
		due := d.next(g)
		if due.IsZero() {
			return
		}
		for again := d.Runner.Now().Add(lookAgain); !met && again.Before(due); again = d.Runner.Now().Add(lookAgain) {
			if !d.sleepUntil(ctx, again) {
				return
			}
			met = d.catchUp(ctx, &g, slots)
		}
		if !d.sleepUntil(ctx, due) {
			return
		}
		d.Log.Info("scheduled run", "group", g.Name, "due", due)
		met = d.lookFor(ctx, &g) || met
		if len(g.VMs) > 0 {
			d.run(ctx, g, g.VMs, slots)
		}
	}
}

// catchUp runs what was missed, and tells whether all VMs are known.
func (d *Daemon) catchUp(ctx context.Context, g *Group, slots chan struct{}) bool {
	met := d.lookFor(ctx, g)
	if missed := d.missed(*g); len(missed) > 0 {
		d.Log.Info("catch up on a missed run", "group", g.Name, "vms", missed)
		d.run(ctx, *g, missed, slots)
	}
	return met
}

// lookFor finds the group's VMs, and tells whether all are known. Those of a host that does
// not answer are tried as well: what each lacks is on record then.
func (d *Daemon) lookFor(ctx context.Context, g *Group) bool {
	if g.Members == nil {
		return true
	}
	vms, err := g.Members(ctx)
	if ctx.Err() != nil {
		return false
	}
	g.VMs = vms
	d.Board.members(*g, vms, err)
	if err != nil {
		d.Log.Error("look for the group's VMs", "group", g.Name, "error", err)
		d.Runner.emit(Event{Group: g.Name, Step: StepFailed, Message: "not all VMs of the group are known", Error: err.Error()})
	}
	return err == nil
}

// next is the group's next time; zero when none will ever come.
func (d *Daemon) next(g Group) time.Time {
	due := g.Schedule.Next(d.Runner.Now())
	if due.IsZero() {
		return due
	}
	due = due.Add(schedule.Jitter(d.Machine+"/"+g.Name, due, g.Jitter))
	d.Board.next(g, due)
	return due
}

// sleepUntil waits for a time; false when ctx ended first.
func (d *Daemon) sleepUntil(ctx context.Context, due time.Time) bool {
	for {
		left := due.Sub(d.Runner.Now())
		if left <= 0 {
			return ctx.Err() == nil
		}
		timer := time.NewTimer(min(left, longestNap))
		select {
		case <-ctx.Done():
			timer.Stop()
			return false
		case <-timer.C:
		}
	}
}

// missed are the VMs whose last start lies before a time at which they were due.
func (d *Daemon) missed(g Group) []string {
	if !g.CatchUp {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(g.VMs), func(vm string) bool {
		last, err := d.Runner.Journal.Last(vm)
		if err != nil {
			d.Log.Warn("read last result", "vm", vm, "error", err)
			return true
		}
		if last.Start.IsZero() {
			return true // never ran: it waits for its first time
		}
		_, due := g.Schedule.Missed(last.Start, d.Runner.Now())
		return !due
	})
}

// run backs up VMs of a group, as many at a time as there are slots.
func (d *Daemon) run(ctx context.Context, g Group, vms []string, slots chan struct{}) {
	jobs, closeRepo, err := g.Open(ctx, vms)
	if err != nil {
		d.fail(g, vms, fmt.Errorf("group %s: %w", g.Name, err))
		return
	}
	var runs sync.WaitGroup
	for _, job := range jobs {
		at := &place{slots: slots}
		if err := at.take(ctx); err != nil {
			break
		}
		job.Rest = at.rest
		runs.Go(func() {
			defer at.leave()
			if d.one(ctx, job) {
				d.retain(ctx, g, job)
			}
		})
	}
	runs.Wait()
	if err := closeRepo(); err != nil {
		d.Log.Warn("close repository", "group", g.Name, "error", err)
	}
}

// place is that of a run among those that may run at once. It is used by the run alone.
type place struct {
	slots chan struct{}
	taken bool
}

// take waits for the place; an error: ctx has ended.
func (p *place) take(ctx context.Context) error {
	select {
	case p.slots <- struct{}{}:
		p.taken = true
	case <-ctx.Done():
	}
	if err := context.Cause(ctx); err != nil {
		p.leave()
		return err
	}
	return nil
}

func (p *place) leave() {
	if p.taken {
		<-p.slots
		p.taken = false
	}
}

// rest lets another run have the place meanwhile.
func (p *place) rest(ctx context.Context, wait func(context.Context) error) error {
	p.leave()
	if err := wait(ctx); err != nil {
		return err
	}
	return p.take(ctx)
}

// one backs a VM up, and reports whether there is a new point.
func (d *Daemon) one(ctx context.Context, job Job) bool {
	var res Result
	panicked := true
	err := contain(d.Log, job.Name, func() (err error) {
		res, err = d.Runner.Backup(ctx, job)
		panicked = false
		return err
	})
	for _, w := range res.Warnings { // a point is there, but less than was asked for
		d.Log.Warn("backup warns", "vm", job.Name, "run", res.Run, "warning", w)
	}
	if panicked { // what it owes is repaired like after a crash
		d.failVM(job.Name, err)
	}
	if err != nil {
		d.Log.Error("backup failed", "vm", job.Name, "run", res.Run, "error", err)
		return false
	}
	d.Log.Info("backup done", "vm", job.Name, "run", res.Run, "point", res.Point.ID,
		"level", res.Point.Quiesce.Level, "window", res.Point.Quiesce.Window, "memory", res.Memory,
		"read", res.Point.Stats.Read, "stored", res.Point.Stats.Stored, "took", res.Took, "requests", res.Requests, "warnings", len(res.Warnings))
	return true
}

// fail records, for every VM of a run that could not even begin, why.
func (d *Daemon) fail(g Group, vms []string, err error) {
	d.Log.Error("group could not run", "group", g.Name, "error", err)
	for _, vm := range vms {
		d.failVM(vm, err)
	}
}

func (d *Daemon) failVM(vm string, err error) {
	if rerr := d.Runner.record(vm, journal.Result{Start: d.Runner.Now()}, err); rerr != nil {
		d.Log.Error("record result", "vm", vm, "error", rerr)
	}
	d.Runner.emit(Event{VM: vm, Step: StepFailed, Error: err.Error()})
}
