package blob

import (
	"context"
	"errors"
	"fmt"
)

// Errors that every store reports alike; test with errors.Is.
var (
	ErrNotFound    = errors.New("no such object")
	ErrExists      = errors.New("object exists")
	ErrRange       = errors.New("object is shorter than the range asked for")
	ErrDenied      = errors.New("access denied")
	ErrNoBucket    = errors.New("no such bucket or folder")
	ErrNoSpace     = errors.New("store is full")
	ErrUnreachable = errors.New("store is unreachable")
	ErrBadName     = errors.New("not an object name")
	ErrTooBig      = errors.New("object is too big")
	ErrLocked      = errors.New("object is locked")
	ErrNoLocks     = errors.New("store has no object lock")
	ErrBadLock     = errors.New("not a lock")
	ErrNoVersions  = errors.New("store keeps no older versions")

	// ErrUntrusted is an ErrUnreachable that waiting does not heal.
	ErrUntrusted = fmt.Errorf("%w: its certificate is not trusted", ErrUnreachable)
)

// Permanent reports whether trying again is of no use.
func Permanent(err error) bool {
	for _, e := range []error{
		ErrNotFound, ErrExists, ErrRange, ErrDenied, ErrNoBucket, ErrNoSpace, ErrBadName, ErrTooBig, ErrUntrusted,
		ErrLocked, ErrNoLocks, ErrBadLock, ErrNoVersions, context.Canceled,
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// WithHint adds the next step for the administrator to err: an imperative clause,
// no full stop. The command prints what Hint returns after the message.
func WithHint(err error, next string) error { return &hinted{err, next} }

type hinted struct {
	err  error
	next string
}

func (h *hinted) Error() string { return h.err.Error() }
func (h *hinted) Unwrap() error { return h.err }
func (h *hinted) Hint() string  { return h.next }
