package inguest_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"github.com/lull-backup/lull/plugins/writers/internal/inguest"
	"github.com/lull-backup/lull/quiesce/quiescetest"
	"github.com/lull-backup/lull/snapshot"
)

// bare is a guest without flock, as one of busybox alone may be.
type bare struct{ *quiescetest.Guest }

func (bare) Exec(context.Context, snapshot.Command) (snapshot.ExecResult, error) {
	return snapshot.ExecResult{ExitCode: 76, Stderr: []byte("flock\n")}, nil
}

// Where no hold can begin there is none to end: an abort does not try for long.
func TestNothingToRelease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := inguest.Hold{Shell: inguest.Shell{Guest: bare{quiescetest.NewGuest()}, Writer: "db"}, State: "/run/db"}
		if _, err := h.Begin(t.Context()); !errors.Is(err, inguest.ErrMissing) {
			t.Errorf("begin: %v", err)
		}
		if err := h.ReleaseSurely(t.Context(), ""); err != nil {
			t.Errorf("release: %v", err)
		}
	})
}
