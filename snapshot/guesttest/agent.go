package guesttest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/qmp"
)

// Ping asks the agent behind a socket for a sign of life, and waits for one while
// the guest boots or another client holds the socket.
func Ping(ctx context.Context, socket string) error {
	return withAgent(ctx, socket, func(*qmp.Agent) error { return nil })
}

// Call sends one command to the agent behind a socket, such as
// guest-fsfreeze-freeze, and decodes its answer into result unless that is nil.
func Call(ctx context.Context, socket, command string, arguments, result any) error {
	return withAgent(ctx, socket, func(a *qmp.Agent) error {
		return a.Execute(ctx, command, arguments, result)
	})
}

// Exec runs a program through the agent behind a socket and returns what it
// printed. An exit code other than 0 is an error.
func Exec(ctx context.Context, socket, path string, args ...string) ([]byte, error) {
	var r snapshot.ExecResult
	err := withAgent(ctx, socket, func(a *qmp.Agent) (err error) {
		r, err = a.Exec(ctx, snapshot.Command{Path: path, Args: args})
		return err
	})
	if err == nil && r.ExitCode != 0 {
		err = fmt.Errorf("%s in the guest: exit code %d: %s", path, r.ExitCode, bytes.TrimSpace(r.Stderr))
	}
	return r.Stdout, err
}

// syncTry is how long one try to reach the agent lasts.
const syncTry = 3 * time.Second

// withAgent takes the one seat at a socket, as soon as the agent answers there
// and no longer than talk needs it.
func withAgent(ctx context.Context, socket string, talk func(*qmp.Agent) error) error {
	a := qmp.NewAgent(socket, qmp.AgentOptions{Sync: syncTry})
	err := a.Execute(ctx, "guest-ping", nil, nil)
	for errors.Is(err, snapshot.ErrGuestSilent) && ctx.Err() == nil {
		err = a.Execute(ctx, "guest-ping", nil, nil)
	}
	if err == nil {
		err = talk(a)
	}
	return errors.Join(err, a.Close())
}
