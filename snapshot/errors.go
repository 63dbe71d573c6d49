package snapshot

import "errors"

// Errors that every host reports alike; test with errors.Is.
var (
	ErrNotFound     = errors.New("no such VM")
	ErrUnreachable  = errors.New("hypervisor does not answer")
	ErrBusy         = errors.New("in use by another process")
	ErrMergePending = errors.New("an earlier delta is not merged yet")
	ErrDiverged     = errors.New("the VM was started without its delta")
	ErrUncertain    = errors.New("cannot tell which image has all that the VM wrote")
	ErrGone         = errors.New("the VM went away during the run")
	ErrNoGuest      = errors.New("no guest agent channel")
	ErrGuestSilent  = errors.New("guest agent does not answer")
	ErrNoFile       = errors.New("no such file or program in the guest")
	ErrCorrupt      = errors.New("damaged or untrue image")
	ErrUnsupported  = errors.New("not supported")
	ErrExists       = errors.New("file exists")
	ErrInexact      = errors.New("changed while the disks froze")
	ErrNoSpace      = errors.New("no space left")
	ErrNotSaved     = errors.New("the disks froze without the VM's memory")
	ErrNotTaken     = errors.New("nothing was taken")
	ErrNoMemory     = errors.New("the VM is defined, but without its memory")
	ErrNoCheckpoint = errors.New("no such checkpoint")
)

// Hinted is an error with the next step for the administrator. The command
// prints the hint after the message.
type Hinted struct {
	Err  error
	Next string // an imperative clause, no full stop
}

func (h *Hinted) Error() string { return h.Err.Error() }
func (h *Hinted) Unwrap() error { return h.Err }

// Hint is the next step.
func (h *Hinted) Hint() string { return h.Next }

// WithHint adds a next step to err.
func WithHint(err error, next string) error { return &Hinted{Err: err, Next: next} }
