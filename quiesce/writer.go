package quiesce

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Level is how consistent a restore point is. Higher is better.
type Level int

const (
	LevelNone Level = iota // nothing was achieved
	LevelCrash
	LevelSavedState
	LevelFilesystem
	LevelApplication
)

var levelNames = [...]string{"none", "crash", "saved-state", "filesystem", "application"}

// String is the level's name in configuration and reports.
func (l Level) String() string {
	if l < 0 || int(l) >= len(levelNames) {
		return fmt.Sprintf("level(%d)", int(l))
	}
	return levelNames[l]
}

// ParseLevel reads a level's name.
func ParseLevel(s string) (Level, error) {
	for i, n := range levelNames {
		if i > 0 && n == s {
			return Level(i), nil
		}
	}
	return LevelNone, fmt.Errorf("unknown consistency level %q: use application, filesystem, saved-state or crash", s)
}

// MarshalText makes a Level readable in JSON and YAML.
func (l Level) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (l *Level) UnmarshalText(b []byte) error {
	if string(b) == levelNames[LevelNone] {
		*l = LevelNone
		return nil
	}
	v, err := ParseLevel(string(b))
	if err == nil {
		*l = v
	}
	return err
}

// Tier orders writers within the window: front-ends freeze first and thaw last,
// the system (the file systems) freezes last and thaws first.
type Tier int

const (
	FrontEnd Tier = iota
	BackEnd
	System
)

// Writer makes one application, or the file systems, of one guest hold still,
// after VSS writers. The coordinator calls it from one goroutine at a time, but
// for Abort, which may come while another call is under way. Every call ends
// with its context; the coordinator does not wait longer, whatever a writer does.
type Writer interface {
	// Identify has no side effects and may be called at any time.
	Identify(ctx context.Context) (Identity, error)
	// Prepare comes before the window and may take minutes. It returns the components that
	// it found in the guest; none: those of Identify. An application with data on a disk
	// that will not be in the restore point it refuses.
	Prepare(ctx context.Context, r PrepareRequest) ([]Component, error)
	// Freeze makes the application hold still until Thaw or Abort. On an error
	// the coordinator calls Abort.
	Freeze(ctx context.Context, r Request) error
	// Thaw lets it go on and says whether the freeze had held until now.
	Thaw(ctx context.Context, r Request) (ThawResult, error)
	// PostSnapshot comes after the window; it may return a document that is
	// stored with the restore point, at most MaxDocument bytes.
	PostSnapshot(ctx context.Context, r Request) ([]byte, error)
	// Complete comes once the restore point is durable, and says what became of each
	// component. Never with Abort.
	Complete(ctx context.Context, r CompleteRequest) error
	// Abort undoes whatever was done, Freeze included: on return without error
	// the application is proven to run. Any number of times, in any state, and
	// beside a Freeze that was given up. An error that wraps ErrWriterGone says
	// that asking again is of no use, and so does one of class NotPresent where Freeze
	// ended with that, too.
	Abort(ctx context.Context, r Request) error
	// PreRestore and PostRestore surround a restore and may be run again.
	PreRestore(ctx context.Context, r RestoreRequest) error
	PostRestore(ctx context.Context, r RestoreRequest) error
}

// MaxDocument bounds a writer's document, in bytes.
const MaxDocument = 1 << 20

// Identity is what a writer says of itself.
type Identity struct {
	Name       string   `json:"name"` // of the writer, [a-z0-9-], at most 64 bytes
	Version    string   `json:"version"`
	Tier       Tier     `json:"tier"`
	Level      Level    `json:"level"` // what its freeze achieves: filesystem or application
	Components []string `json:"components,omitempty"`
	// Budget is how long the writer asks to be frozen at most; 0: the window's.
	Budget time.Duration `json:"budget,omitempty"`
}

// Request is the run that a call belongs to.
type Request struct {
	Run string
	VM  string
}

// PrepareRequest is what a writer is told before the window.
type PrepareRequest struct {
	Request
	// Disks are those of the VM, with those that the restore point will not have. None:
	// nothing is known of them.
	Disks []Disk
}

// CompleteRequest is what a writer is told of the restore point.
type CompleteRequest struct {
	Request
	Point    string    // its name in the repository
	Level    Level     // its consistency
	Outcomes []Outcome // of the writer's own components
}

// ThawResult is what Thaw found.
type ThawResult struct {
	// Held says that nothing was written between Freeze and this Thaw.
	Held bool
}

// RestoreRequest is the restore that a call belongs to.
type RestoreRequest struct {
	VM       string
	Point    string
	Document []byte // as PostSnapshot returned it
}

// Class says what kind of failure a writer met, and so what the agent does.
type Class int

const (
	NotRetryable   Class = iota // the default: move down the ladder
	Retryable                   // may work later in the same run
	Timeout                     // did not answer in time; the guest may still act
	OutOfResources              // no memory, disk or workers in the guest
	Vetoed                      // the application refuses to be backed up now
	NotPresent                  // the application is not in this guest
)

var classNames = [...]string{"not retryable", "retryable", "timeout", "out of resources", "vetoed", "not present"}

// String is the class in plain words.
func (c Class) String() string {
	if c < 0 || int(c) >= len(classNames) {
		return fmt.Sprintf("class(%d)", int(c))
	}
	return classNames[c]
}

// Failure is a writer's typed error.
type Failure struct {
	Class     Class
	Writer    string
	Component string // empty: the writer as a whole
	Err       error
	Next      string // hint for the administrator, an imperative clause
	// Advisory: what was held stays true, and the report says this beside it. Only of
	// PostSnapshot, where the writer has no document then.
	Advisory bool
}

func (f *Failure) Error() string {
	who := f.Writer
	if f.Component != "" {
		who += "/" + f.Component
	}
	return fmt.Sprintf("writer %s: %s: %v", who, f.Class, f.Err)
}

// Unwrap gives the cause.
func (f *Failure) Unwrap() error { return f.Err }

// Hint is the next step for the administrator; empty where there is none.
func (f *Failure) Hint() string { return f.Next }

// ErrWriterGone: the process behind a writer has ended. Nothing that it is asked
// will be answered any more.
var ErrWriterGone = errors.New("writer is gone")

// ErrStillFrozen: the guest could not be proven thawed.
var ErrStillFrozen = errors.New("guest may still be frozen")

// ErrBelowFloor: no rung of the ladder at or above the floor could be reached.
var ErrBelowFloor = errors.New("consistency below the floor")
