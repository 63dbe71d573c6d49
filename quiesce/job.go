package quiesce

import (
	"context"
	"errors"
	"log/slog"
	"time"
)

// Step is a moment that Do tells the caller about. The names are those of the
// agent's events.
type Step string

const (
	StepFreezing Step = "freezing" // the first writer is about to freeze
	StepFrozen   Step = "frozen"   // every writer of the rung holds still
	StepTaken    Step = "taken"    // Take has returned without error
	StepThawed   Step = "thawed"   // every writer was asked to go on
	StepRetrying Step = "retrying" // a level has failed, and is tried again later
)

// Job is one guest to hold still for one snapshot.
type Job struct {
	Run    string // unique; passed to the writers
	VM     string
	Policy Policy
	// Writers may be empty; then only rungs without writers can be reached.
	// They belong to this job until Held.Complete or Held.Abort has returned.
	Writers []Writer
	// Disks are those of the VM, for the writers. Nil: nothing is known of them.
	Disks []Disk
	// Guest thaws past all writers. Nil where there is no way into the guest.
	Guest Thawer
	// Guards are in force from before the first Freeze until the guest is proven
	// thawed. Where one fails to arm, nothing is frozen.
	Guards []Guard
	// NoGuest says why there is no way into the guest and so no writer, for the
	// report. Nil where there is one, or where none is needed.
	NoGuest error
	// Take freezes the disks. It is called once at most, inside the window,
	// and must return soon after its context has ended: Do waits for it.
	Take func(ctx context.Context) error
	// Saved takes the guest's memory too. Nil: the host cannot.
	Saved *Saved
	Log   *slog.Logger // nil: nothing is logged
	// Step, where set, is called inside the window, one step after the other.
	// What it is slow with does not lengthen the window, but Do waits for it
	// before it returns.
	Step func(Step)
	// Progress, where set, hears how far writers say their calls are, one after the other,
	// until Do, Held.Complete or Held.Abort returns. No writer waits for it; of what comes
	// faster than it returns it hears the last of each writer.
	Progress func(Progress)
	// Rest, where set, calls wait once and returns its error: it has the time between two
	// attempts at a level, in which the guest runs and nothing is owed to the writers, so that
	// others may have what this job holds. It may return later than wait; an error ends the job.
	Rest   func(ctx context.Context, wait func(context.Context) error) error
	Limits Limits
}

// Saved takes the memory of a guest together with its disks.
type Saved struct {
	// Check says why Take would not do; nil: it would. Called outside the window.
	Check func(ctx context.Context) error
	// Take is called once at most, and then Job.Take is not. The same holds for it;
	// and when it returns the guest goes on. snapshot.ErrNotSaved: only the disks
	// were taken. snapshot.ErrNotTaken: nothing was, and the next rung is tried. After
	// any other error the guest may stand still, and the guards see to it. goesOn ends
	// the window, and ctx's deadline with it: the guest goes on, and its memory is still
	// written. It may be called from any goroutine, once or not at all.
	Take func(ctx context.Context, goesOn func()) error
	// Guards are in force while Take runs. Where one fails to arm, Take is not called.
	Guards []Guard
}

// Limits are the deadlines of calls outside the window. Zero: the default.
type Limits struct {
	Identify     time.Duration // 10 s
	Arm          time.Duration // 30 s, for all guards; and to disarm them
	CheckSaved   time.Duration // 30 s
	Prepare      time.Duration // 10 min
	PostSnapshot time.Duration // 2 min
	Complete     time.Duration // 5 min
	Abort        time.Duration // 30 s for one try
	// Follow is how long a freeze that may still be in force is followed,
	// with as many tries as fit: 5 min.
	Follow time.Duration
}

func (l Limits) withDefaults() Limits {
	set := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	set(&l.Identify, 10*time.Second)
	set(&l.Arm, 30*time.Second)
	set(&l.CheckSaved, 30*time.Second)
	set(&l.Prepare, 10*time.Minute)
	set(&l.PostSnapshot, 2*time.Minute)
	set(&l.Complete, 5*time.Minute)
	set(&l.Abort, 30*time.Second)
	set(&l.Follow, 5*time.Minute)
	return l
}

func (j Job) check() error {
	if j.Take == nil {
		return errors.New("quiesce job without a Take")
	}
	return j.Policy.Check()
}

func (j Job) request() Request { return Request{Run: j.Run, VM: j.VM} }
