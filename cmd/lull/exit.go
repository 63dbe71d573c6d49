package main

import (
	"errors"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/transport/blob"
	"github.com/lull-backup/lull/transport/repo"
)

// Exit codes. They are stable; docs/cli.md lists them.
const (
	exitDone     = 0 // done
	exitFailed   = 1 // something went wrong on the way
	exitUsage    = 2 // the command line or the configuration is wrong; nothing was done
	exitWarnings = 3 // a restore point was made, but less than was asked for
	exitNotFound = 4 // no such VM, restore point, image or repository
	exitLocked   = 5 // the repository cannot be reached or opened
)

// Errors that the command line itself reports.
var (
	errUsage    = errors.New("usage")          // exit 2
	errNotFound = errors.New("not found")      // exit 4
	errReported = errors.New("reported above") // the line is printed already
)

// exitRule maps an error to an exit code.
type exitRule struct {
	is   error
	code int
}

// exitRules is the whole mapping from errors to exit codes. The first rule that
// matches counts, so the more telling error stands higher. What matches none is
// exitFailed.
func exitRules() []exitRule {
	return []exitRule{
		{errUsage, exitUsage},
		{repo.ErrPassphrase, exitLocked},
		{repo.ErrVersion, exitLocked},
		{repo.ErrRole, exitLocked},
		{repo.ErrReadOnly, exitLocked},
		{repo.ErrPaper, exitLocked},
		{repo.ErrLabel, exitUsage},
		{blob.ErrUnreachable, exitLocked},
		{blob.ErrDenied, exitLocked},
		{blob.ErrNoBucket, exitLocked},
		{errNotFound, exitNotFound},
		{snapshot.ErrNotFound, exitNotFound},
		{snapshot.ErrNoCheckpoint, exitNotFound},
		{repo.ErrNoRepository, exitNotFound},
		{repo.ErrNotFound, exitNotFound},
		{repo.ErrNoKey, exitNotFound},
	}
}

// exitCode is the code that a command ends with for err.
func exitCode(err error) int {
	if err == nil {
		return exitDone
	}
	for _, r := range exitRules() {
		if errors.Is(err, r.is) {
			return r.code
		}
	}
	return exitFailed
}

// worse returns the code that counts when several VMs end differently. From
// best to worst: done, done with warnings, not found, failed, repository locked
// out, usage.
func worse(a, b int) int {
	for _, c := range []int{exitUsage, exitLocked, exitFailed, exitNotFound, exitWarnings} {
		if a == c || b == c {
			return c
		}
	}
	return exitDone
}
