package inguest_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lull-backup/lull/plugins/sdk"
	"github.com/lull-backup/lull/plugins/writers/internal/inguest"
	"github.com/lull-backup/lull/quiesce"
	"github.com/lull-backup/lull/quiesce/quiescetest"
	"github.com/lull-backup/lull/snapshot"
)

// answering is a guest whose every command answers alike.
type answering struct {
	*quiescetest.Guest
	result snapshot.ExecResult
	err    error
}

func (a *answering) Exec(context.Context, snapshot.Command) (snapshot.ExecResult, error) {
	return a.result, a.err
}

func TestRunFailures(t *testing.T) {
	for name, test := range map[string]struct {
		guest snapshot.Guest
		class quiesce.Class
		says  string
	}{
		"no guest":  {nil, quiesce.NotPresent, ""},
		"silent":    {&answering{err: snapshot.ErrGuestSilent}, quiesce.Timeout, ""},
		"late":      {&answering{err: context.DeadlineExceeded}, quiesce.Timeout, ""},
		"missing":   {&answering{result: snapshot.ExecResult{ExitCode: 76, Stderr: []byte("flock\n")}}, quiesce.NotRetryable, "no flock"},
		"truncated": {&answering{result: snapshot.ExecResult{Truncated: true}}, quiesce.NotRetryable, "more than"},
		"exit":      {&answering{result: snapshot.ExecResult{ExitCode: 1, Stderr: []byte("bad\x1b[2J\nthings")}}, quiesce.NotRetryable, "bad [2J"},
		"no words":  {&answering{result: snapshot.ExecResult{ExitCode: 9}}, quiesce.NotRetryable, "exit code 9"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := inguest.Shell{Guest: test.guest, Writer: "x"}.Run(t.Context(), "true")
			var f *quiesce.Failure
			if !errors.As(err, &f) || f.Class != test.class || !strings.Contains(err.Error(), test.says) || strings.ContainsAny(err.Error(), "\x1b\n") {
				t.Errorf("%q, want %q of class %v", err, test.says, test.class)
			}
		})
	}
}

func TestLies(t *testing.T) {
	for _, answer := range []string{"", "0", "-1", "x", "1 2", "99999999999999999999", "held held", strings.Repeat("9", 1000)} {
		h := inguest.Hold{Shell: inguest.Shell{Guest: &answering{result: snapshot.ExecResult{Stdout: []byte(answer)}}, Writer: "x"}, State: "/run/x"}
		if turn, err := h.Begin(t.Context()); err == nil {
			t.Errorf("begin took %q for turn %d", answer, turn)
		}
		if held, err := h.Release(t.Context(), ""); err == nil {
			t.Errorf("release took %q for an answer: %v", answer, held)
		}
		if lines, err := h.Take(t.Context(), 1, ""); err == nil {
			t.Errorf("take took %q for an answer: %q", answer, lines)
		}
	}
}

// A freeze whose turn has ended, since it was given up, did nothing.
func TestOver(t *testing.T) {
	h := inguest.Hold{Shell: inguest.Shell{Guest: &answering{result: snapshot.ExecResult{Stdout: []byte("over\n")}}, Writer: "x"}, State: "/run/x"}
	var f *quiesce.Failure
	if lines, err := h.Take(t.Context(), 1, ""); !errors.As(err, &f) || f.Class != quiesce.Retryable || !errors.Is(err, inguest.ErrOver) {
		t.Errorf("%q, %v; want a retryable failure", lines, err)
	}
}

func TestReleaseSurely(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		for err, want := range map[error]bool{snapshot.ErrGone: true, snapshot.ErrNoGuest: true, sdk.ErrDenied: false, snapshot.ErrGuestSilent: false} {
			h := inguest.Hold{Shell: inguest.Shell{Guest: &answering{err: err}, Writer: "x"}, State: "/run/x"}
			if got := h.ReleaseSurely(ctx, ""); (got == nil) != want {
				t.Errorf("%v: %v", err, got)
			}
		}
	})
}
