package main

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/lull-backup/lull/config"
	"github.com/lull-backup/lull/quiesce"
)

// unable stands for a writer that could not be started: nothing that needs it is
// reached, and the restore point says why.
type unable struct {
	name string
	err  error
	run  atomic.Bool // it was asked who it is, as each run does first
}

var _ quiesce.Writer = (*unable)(nil)

func (u *unable) failure() error {
	return &quiesce.Failure{Writer: u.name, Err: fmt.Errorf("%w: %w", quiesce.ErrWriterGone, u.err), Next: hintOf(u.err)}
}

// Identify answers as the writer would, as far as its name tells.
func (u *unable) Identify(context.Context) (quiesce.Identity, error) {
	u.run.Store(true)
	if u.name == config.FilesystemWriter {
		return quiesce.Identity{Name: u.name, Tier: quiesce.System, Level: quiesce.LevelFilesystem}, nil
	}
	return quiesce.Identity{Name: u.name, Tier: quiesce.BackEnd, Level: quiesce.LevelApplication}, nil
}

// Prepare fails, before anything is frozen.
func (u *unable) Prepare(context.Context, quiesce.PrepareRequest) ([]quiesce.Component, error) {
	return nil, u.failure()
}

// Freeze is not reached.
func (u *unable) Freeze(context.Context, quiesce.Request) error { return u.failure() }

// Thaw is not reached.
func (u *unable) Thaw(context.Context, quiesce.Request) (quiesce.ThawResult, error) {
	return quiesce.ThawResult{}, u.failure()
}

// PostSnapshot is not reached.
func (u *unable) PostSnapshot(context.Context, quiesce.Request) ([]byte, error) {
	return nil, u.failure()
}

// Complete is not reached.
func (u *unable) Complete(context.Context, quiesce.CompleteRequest) error { return nil }

// Abort has nothing to undo of a run in which it took no part. Without one, it is an earlier
// process that may have held the application still, and nobody lets go of that.
func (u *unable) Abort(context.Context, quiesce.Request) error {
	if u.run.Load() {
		return nil
	}
	return u.failure()
}

// PreRestore fails.
func (u *unable) PreRestore(context.Context, quiesce.RestoreRequest) error { return u.failure() }

// PostRestore fails.
func (u *unable) PostRestore(context.Context, quiesce.RestoreRequest) error { return u.failure() }
