package sdk

import (
	"context"

	"github.com/lull-backup/lull/quiesce"
	"github.com/lull-backup/lull/snapshot"
)

// The types of the contract, so that a plugin imports this package alone.
type (
	// Request is the run that a call belongs to.
	Request = quiesce.Request
	// PrepareRequest is what a writer is told before the window.
	PrepareRequest = quiesce.PrepareRequest
	// CompleteRequest is what it is told of the restore point.
	CompleteRequest = quiesce.CompleteRequest
	// Disk is one disk of the VM.
	Disk = quiesce.Disk
	// Component is a part of an application.
	Component = quiesce.Component
	// Outcome is what became of one in a restore point.
	Outcome = quiesce.Outcome
	// RestoreRequest is the restore that a call belongs to.
	RestoreRequest = quiesce.RestoreRequest
	// ThawResult is what Thaw found.
	ThawResult = quiesce.ThawResult
	// Identity is what a writer says of itself.
	Identity = quiesce.Identity
	// Failure is a typed error.
	Failure = quiesce.Failure
	// Guest reaches into the guest of this plugin. What was not granted to the
	// plugin fails with ErrDenied; freezing file systems is allowed only
	// inside Freeze. Close does nothing.
	Guest = snapshot.Guest
	// Command is a program to run in the guest.
	Command = snapshot.Command
	// ExecResult is how it ended.
	ExecResult = snapshot.ExecResult
	// GuestInfo is what a guest says of itself.
	GuestInfo = snapshot.GuestInfo
)

// The values of the contract: classes of failures, tiers, levels.
const (
	NotRetryable   = quiesce.NotRetryable
	Retryable      = quiesce.Retryable
	Timeout        = quiesce.Timeout
	OutOfResources = quiesce.OutOfResources
	Vetoed         = quiesce.Vetoed
	NotPresent     = quiesce.NotPresent

	FrontEnd = quiesce.FrontEnd
	BackEnd  = quiesce.BackEnd
	System   = quiesce.System

	LevelFilesystem  = quiesce.LevelFilesystem
	LevelApplication = quiesce.LevelApplication
)

// Errors of the guest, and of FindDisk, to test for.
var (
	ErrNoGuest     = snapshot.ErrNoGuest     // there is no way into the guest
	ErrGuestSilent = snapshot.ErrGuestSilent // its agent does not answer
	ErrGone        = snapshot.ErrGone        // the VM went away
	ErrNotFound    = snapshot.ErrNoFile      // a file or program is not there
	ErrUnsupported = snapshot.ErrUnsupported // the guest's agent cannot do that
	ErrLeftOut     = quiesce.ErrLeftOut      // a disk will not be in the restore point
)

// Writer is the least that a plugin does. The rules of both calls are those of
// quiesce.Writer.
type Writer interface {
	Freeze(ctx context.Context, r Request) error
	Thaw(ctx context.Context, r Request) (ThawResult, error)
}

// Connector gets the guest before any other call, once. Guest is nil where the
// VM has none.
type Connector interface {
	Connect(ctx context.Context, g Guest) error
}

// Identifier says who the writer is. Without it the writer is an application of
// the back-end tier named after its program.
type Identifier interface {
	Identify(ctx context.Context) (Identity, error)
}

// Preparer works ahead of the freeze window, and says what it found in the guest. FindDisk
// helps to tell which disks of the guest will not be in the restore point.
type Preparer interface {
	Prepare(ctx context.Context, r PrepareRequest) ([]Component, error)
}

// PostSnapshoter returns a document to store with the restore point.
type PostSnapshoter interface {
	PostSnapshot(ctx context.Context, r Request) ([]byte, error)
}

// Completer hears that the restore point is durable, and what became of each component.
// Where logs are truncated, it is here, and only for components that succeeded.
type Completer interface {
	Complete(ctx context.Context, r CompleteRequest) error
}

// Aborter undoes whatever was done, by an earlier process of this plugin, too: one
// that died in the freeze window. Without it, Abort thaws where no Thaw went well
// since the start of the process or the last Freeze.
type Aborter interface {
	Abort(ctx context.Context, r Request) error
}

// PreRestorer is called before a restore, perhaps again.
type PreRestorer interface {
	PreRestore(ctx context.Context, r RestoreRequest) error
}

// PostRestorer is called after a restore, perhaps again.
type PostRestorer interface {
	PostRestore(ctx context.Context, r RestoreRequest) error
}
