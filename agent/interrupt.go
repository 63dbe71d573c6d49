package agent

import (
	"context"
	"errors"
)

// ErrInterrupted is why something ended that was told to. It is context.Canceled,
// in words for people.
var ErrInterrupted error = interruption{}

type interruption struct{}

func (interruption) Error() string        { return "interrupted" }
func (interruption) Is(target error) bool { return target == context.Canceled }

// Interrupted is why ctx has ended, in place of an error that tells no more than that
// it has; any other error it returns as it is. Whoever began the work that failed calls
// it, with the context of that work.
func Interrupted(ctx context.Context, err error) error {
	if ctx.Err() == nil || errors.Is(err, ErrInterrupted) || !onlyCancelled(err) {
		return err
	}
	return why(ctx)
}

// because is why ctx ended, where it did: whatever failed then failed for that.
func because(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return why(ctx)
	}
	return err
}

// why is the cause of a context's end.
func why(ctx context.Context) error {
	if cause := context.Cause(ctx); cause != context.Canceled {
		return cause
	}
	return ErrInterrupted
}

// onlyCancelled tells whether an error, wherever it came from, says nothing else.
func onlyCancelled(err error) bool {
	switch x := err.(type) {
	case nil:
		return false
	case interface{ Unwrap() error }:
		return onlyCancelled(x.Unwrap())
	case interface{ Unwrap() []error }:
		for _, e := range x.Unwrap() {
			if !onlyCancelled(e) {
				return false
			}
		}
		return true
	}
	return errors.Is(err, context.Canceled)
}
