package inguest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/lull-backup/lull/plugins/sdk"
	"github.com/lull-backup/lull/quiesce"
	"github.com/lull-backup/lull/snapshot"
)

// Shell runs scripts in one guest for one writer.
type Shell struct {
	Guest  snapshot.Guest // nil: the VM has no way into its guest
	Writer string
}

const (
	// HintAgent is what to do about a guest without an agent.
	HintAgent = "install qemu-guest-agent in the guest, start it, and give the VM a channel for it"
	hintGrant = "the writer needs the grant exec"
)

// The exit code by which scripts say what is missing; others are failures.
const exitMissing = 76 // a program that the script needs is not in the guest

// ErrOver: the call came after one that ended its turn. Nothing was done.
var ErrOver = errors.New("the call was given up before it began")

// ErrMissing: the guest lacks a program that every script of a Hold needs.
var ErrMissing = errors.New("the guest has no")

// Run runs a script of /bin/sh, and returns what it printed. args are $1 and so on.
// An exit code other than 0 is an error, which has the first line of what
// the script said of it.
func (s Shell) Run(ctx context.Context, script string, args ...string) ([]byte, error) {
	if s.Guest == nil {
		return nil, s.Fail(snapshot.ErrNoGuest)
	}
	res, err := s.Guest.Exec(ctx, snapshot.Command{Path: "/bin/sh", Args: append([]string{"-c", script, "lull-" + s.Writer}, args...)})
	switch {
	case err != nil:
		return nil, s.Fail(err)
	case res.Truncated:
		return nil, s.Fail(fmt.Errorf("the guest answered with more than %d bytes", snapshot.MaxGuestOutput))
	case res.ExitCode == exitMissing:
		return nil, &quiesce.Failure{Writer: s.Writer, Err: fmt.Errorf("%w %s", ErrMissing, Line(res.Stderr)), Next: "install it in the guest"}
	case res.ExitCode != 0:
		return nil, s.Fail(&ExitError{Code: res.ExitCode, Said: Line(res.Stderr)})
	}
	return res.Stdout, nil
}

// Windows is the system of guests that have no shell.
const Windows = "mswindows"

// HasShell says of a guest that cannot run scripts that it has no such application.
func (s Shell) HasShell(ctx context.Context) error {
	if s.Guest == nil {
		return s.Fail(snapshot.ErrNoGuest)
	}
	info, err := s.Guest.Info(ctx)
	if errors.Is(err, sdk.ErrDenied) {
		return nil // Run will tell
	}
	if err == nil && info.OS == Windows {
		return &quiesce.Failure{Class: quiesce.NotPresent, Writer: s.Writer, Err: errors.New("databases of Windows guests are not looked after")}
	}
	return s.Fail(err)
}

// ExitError is how a script ended.
type ExitError struct {
	Code int
	Said string // first line of its standard error, cleaned
}

func (e *ExitError) Error() string {
	if e.Said == "" {
		return fmt.Sprintf("exit code %d in the guest", e.Code)
	}
	return e.Said
}

// Fail types an error of the guest; one that is typed already stays.
func (s Shell) Fail(err error) error { return Fail(s.Writer, err) }

// Fail is Shell.Fail of a writer without one.
func Fail(writer string, err error) error {
	if f := (*quiesce.Failure)(nil); err == nil || errors.As(err, &f) {
		return err
	}
	f := &quiesce.Failure{Writer: writer, Err: err}
	switch {
	case errors.Is(err, snapshot.ErrNoGuest):
		f.Class, f.Next = quiesce.NotPresent, HintAgent
	case errors.Is(err, snapshot.ErrGuestSilent), errors.Is(err, context.DeadlineExceeded):
		f.Class, f.Next = quiesce.Timeout, HintAgent
	case errors.Is(err, ErrOver):
		f.Class = quiesce.Retryable
	}
	var h interface{ Hint() string }
	if errors.As(err, &h) && h.Hint() != "" {
		f.Next = h.Hint()
	}
	return f
}

// maxLine bounds what is shown of a guest's words, in bytes.
const maxLine = 300

// Line is the first line of what a guest said, fit to be shown.
func Line(b []byte) string {
	b = bytes.TrimSpace(b)
	b, _, _ = bytes.Cut(b, []byte("\n"))
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(string(b[:min(len(b), maxLine)]), "?"))
}

// Clean says whether text of a guest is a plain word or path: not empty, at most 4096
// bytes of UTF-8, without control characters.
func Clean(s string) bool {
	if s == "" || len(s) > 4096 || strings.ToValidUTF8(s, "") != s {
		return false
	}
	return !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f })
}
