package main

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/lull-backup/lull/agent/journal"
	"github.com/lull-backup/lull/config"
	"github.com/lull-backup/lull/quiesce"
	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/transport/blob"
	"github.com/lull-backup/lull/transport/repo"
)

func TestExitCode(t *testing.T) {
	wrap := func(err error) error { return fmt.Errorf("back up lab/web: %w", err) }
	for _, c := range []struct {
		name string
		err  error
		want int
	}{
		{"nothing", nil, exitDone},
		{"anything", errors.New("boom"), exitFailed},
		{"usage", usagef("no such flag"), exitUsage},
		{"configuration", &marked{config.Errors{{File: "f", What: "w"}}, errUsage}, exitUsage},
		{"missing image", missingf("no such file"), exitNotFound},
		{"missing VM", wrap(snapshot.ErrNotFound), exitNotFound},
		{"missing point", wrap(repo.ErrNotFound), exitNotFound},
		{"no repository", wrap(repo.ErrNoRepository), exitNotFound},
		{"wrong passphrase", wrap(repo.ErrPassphrase), exitLocked},
		{"newer repository", wrap(repo.ErrVersion), exitLocked},
		{"store unreachable", wrap(blob.ErrUnreachable), exitLocked},
		{"store denied", wrap(blob.ErrDenied), exitLocked},
		{"no bucket", wrap(blob.ErrNoBucket), exitLocked},
		{"no bucket, so no repository", errors.Join(repo.ErrNoRepository, blob.ErrNoBucket), exitLocked},
		{"hint outside", withHint(wrap(repo.ErrPassphrase), "try"), exitLocked},
		{"a second run", wrap(journal.ErrLocked), exitFailed},
		{"below the floor", wrap(quiesce.ErrBelowFloor), exitFailed},
		{"store full", wrap(blob.ErrNoSpace), exitFailed},
		{"interrupted", wrap(context.Canceled), exitFailed},
		{"image in use", wrap(snapshot.ErrBusy), exitFailed},
		{"target exists", wrap(snapshot.ErrExists), exitFailed},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := exitCode(c.err); got != c.want {
				t.Errorf("exitCode(%v) = %d, want %d", c.err, got, c.want)
			}
		})
	}
}

// TestWorse: the order is total, and the same whichever code comes first.
func TestWorse(t *testing.T) {
	order := []int{exitDone, exitWarnings, exitNotFound, exitFailed, exitLocked, exitUsage}
	for i, a := range order {
		for j, b := range order {
			if got, want := worse(a, b), order[max(i, j)]; got != want {
				t.Errorf("worse(%d, %d) = %d, want %d", a, b, got, want)
			}
		}
	}
}

// TestEveryHintSaysSomething: no error kind with an exit code of its own is left
// without a next step.
func TestEveryHintSaysSomething(t *testing.T) {
	for _, r := range exitRules() {
		if r.is == errUsage || r.is == errNotFound {
			continue // the place that makes one knows the next step
		}
		if hintOf(fmt.Errorf("do: %w", r.is)) == "" {
			t.Errorf("no hint for %v", r.is)
		}
	}
}
