package qmp

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/lull-backup/lull/snapshot"
)

// ErrClosed: the other side closed the connection, or Close was called. For a
// monitor that is how the end of its QEMU process shows.
var ErrClosed = errors.New("connection closed")

// ErrProtocol: the other side sent what the protocol does not allow.
var ErrProtocol = errors.New("protocol violated")

// ErrSilent: QEMU holds the connection but does not answer. What it was asked it
// may yet do.
var ErrSilent = errors.New("QEMU does not answer")

func silent(after time.Duration) error {
	return snapshot.WithHint(fmt.Errorf("%w within %v", ErrSilent, after),
		"look whether QEMU hangs, on storage that does not answer for instance")
}

// Error is a command that QEMU or the agent refused.
type Error struct {
	Command string
	Class   string // such as GenericError, CommandNotFound, DeviceNotFound
	Desc    string // for people; not stable between versions
}

func (e *Error) Error() string { return fmt.Sprintf("%s: %s", e.Command, e.Desc) }

// noFile is how the agent's C library says what has no code of its own on the wire.
const noFile = "No such file or directory"

// Is tells a file or program that the guest does not have.
func (e *Error) Is(target error) bool {
	return target == snapshot.ErrNoFile && strings.Contains(e.Desc, noFile) &&
		(e.Command == "guest-file-open" || e.Command == "guest-exec")
}

// Classes of Error.
const (
	ClassGeneric         = "GenericError"
	ClassCommandNotFound = "CommandNotFound"
	ClassDeviceNotFound  = "DeviceNotFound"
)

// HasClass tells whether err is an Error of that class.
func HasClass(err error, class string) bool {
	var e *Error
	return errors.As(err, &e) && e.Class == class
}

// dialError says what it means that a socket cannot be connected to.
func dialError(path, what string, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return snapshot.WithHint(fmt.Errorf("connect to %s %s: %w: no such socket", what, path, snapshot.ErrUnreachable),
			"check that the VM runs and that the path in the configuration is right")
	case errors.Is(err, syscall.ECONNREFUSED):
		return snapshot.WithHint(fmt.Errorf("connect to %s %s: %w: nobody listens", what, path, snapshot.ErrUnreachable),
			"check that the VM still runs: the socket was left behind by a process that has ended")
	case errors.Is(err, fs.ErrPermission):
		return snapshot.WithHint(fmt.Errorf("connect to %s %s: %w: permission denied", what, path, snapshot.ErrUnreachable),
			"run lull as root or as the user of the VM")
	}
	return fmt.Errorf("connect to %s %s: %w: %w", what, path, snapshot.ErrUnreachable, err)
}

// knockAgain is how often connect tries a socket whose queue is full.
const knockAgain = 20 * time.Millisecond

// connect dials a unix socket. QEMU's queue has room for one client beside the
// one it serves; while it is full, a socket that is not waited for says EAGAIN.
func connect(ctx context.Context, path, what string) (*net.UnixConn, error) {
	tick := time.NewTicker(knockAgain)
	defer tick.Stop()
	for {
		var d net.Dialer
		c, err := d.DialContext(ctx, "unix", path)
		if err == nil {
			return c.(*net.UnixConn), nil
		}
		if !errors.Is(err, syscall.EAGAIN) {
			return nil, dialError(path, what, err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, queueFull(path, what, ctx.Err())
		}
	}
}

func queueFull(path, what string, err error) error {
	return snapshot.WithHint(fmt.Errorf("connect to %s %s: other clients hold and await it: %w: %w", what, path, snapshot.ErrBusy, err),
		"close the other clients of this socket, or give lull a socket of its own")
}

func timedOut(err error) bool {
	return errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded)
}
