package control

import "errors"

// Errors to test for with errors.Is.
var (
	// ErrRunning: another agent serves the socket.
	ErrRunning = errors.New("an agent is running")
	// ErrNotRunning: nobody serves the socket.
	ErrNotRunning = errors.New("no agent is running")
	// ErrForbidden: the socket is another user's.
	ErrForbidden = errors.New("the agent's socket is another user's")
)

// hinted is an error with the next step.
type hinted struct {
	error
	next string
}

func (h *hinted) Unwrap() error { return h.error }

// Hint is the next step.
func (h *hinted) Hint() string { return h.next }
