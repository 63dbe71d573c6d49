package guesttest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"time"
)

// Ping asks the agent behind a socket for a sign of life.
func Ping(ctx context.Context, socket string) error {
	a, err := dialAgent(ctx, socket)
	if err != nil {
		return err
	}
	return a.close()
}

// Exec runs a program through the agent behind a socket and returns what it
// printed. An exit code other than 0 is an error. It waits while another client
// holds the socket.
func Exec(ctx context.Context, socket, path string, args ...string) ([]byte, error) {
	a, err := dialAgent(ctx, socket)
	if err != nil {
		return nil, err
	}
	out, err := a.exec(ctx, path, args)
	return out, errors.Join(err, a.close())
}

// Call sends one command to the agent behind a socket, such as
// guest-fsfreeze-freeze, and decodes its answer into result unless that is nil.
func Call(ctx context.Context, socket, command string, arguments, result any) error {
	a, err := dialAgent(ctx, socket)
	if err != nil {
		return err
	}
	return errors.Join(a.call(command, arguments, result), a.close())
}

// agentConn is a connection to a guest agent that is in step.
type agentConn struct {
	conn net.Conn
	in   *bufio.Reader
	stop func() bool // lets go of the context
}

// syncTries is how long one try to get in step lasts; a guest that boots may
// lose what was sent to it.
const syncTries = 3 * time.Second

// dialAgent connects and gets in step: what an earlier client asked for and did
// not wait for is skipped.
func dialAgent(ctx context.Context, socket string) (*agentConn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, fmt.Errorf("connect to agent: %w", err)
	}
	a := &agentConn{conn: conn, in: bufio.NewReader(conn)}
	a.stop = context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	id := rand.Int64N(1 << 30)
	err = a.sync(ctx, id)
	for err != nil && ctx.Err() == nil && isTimeout(err) {
		id++
		err = a.sync(ctx, id)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("sync with agent: %w", err), a.close())
	}
	return a, nil
}

func isTimeout(err error) bool {
	var e net.Error
	return errors.As(err, &e) && e.Timeout()
}

// sync sends the delimiter and a number and reads up to the same number.
func (a *agentConn) sync(ctx context.Context, id int64) error {
	if err := a.conn.SetReadDeadline(time.Now().Add(syncTries)); err != nil {
		return err
	}
	if ctx.Err() != nil { // else the deadline just set would undo the context's
		return ctx.Err()
	}
	if _, err := fmt.Fprintf(a.conn, "\xff{\"execute\":\"guest-sync-delimited\",\"arguments\":{\"id\":%d}}\n", id); err != nil {
		return err
	}
	for {
		line, err := a.in.ReadBytes('\n')
		if err != nil {
			return err
		}
		line = line[bytes.LastIndexByte(line, 0xff)+1:]
		var answer struct{ Return json.RawMessage }
		if json.Unmarshal(line, &answer) == nil && string(answer.Return) == fmt.Sprint(id) {
			return a.conn.SetReadDeadline(time.Time{})
		}
	}
}

func (a *agentConn) close() error {
	a.stop()
	return a.conn.Close()
}

func (a *agentConn) call(command string, arguments, result any) error {
	request := map[string]any{"execute": command}
	if arguments != nil {
		request["arguments"] = arguments
	}
	if err := json.NewEncoder(a.conn).Encode(request); err != nil {
		return fmt.Errorf("send %s: %w", command, err)
	}
	line, err := a.in.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("read answer to %s: %w", command, err)
	}
	var answer struct {
		Return json.RawMessage
		Error  *struct{ Desc string }
	}
	if err := json.Unmarshal(line, &answer); err != nil {
		return fmt.Errorf("read answer to %s: %w", command, err)
	}
	if answer.Error != nil {
		return fmt.Errorf("%s: %s", command, answer.Error.Desc)
	}
	if result == nil {
		return nil
	}
	return json.Unmarshal(answer.Return, result)
}

// exec starts a program and polls until it has ended.
func (a *agentConn) exec(ctx context.Context, path string, args []string) ([]byte, error) {
	var started struct{ PID int }
	err := a.call("guest-exec", map[string]any{"path": path, "arg": append([]string{}, args...), "capture-output": true}, &started)
	if err != nil {
		return nil, err
	}
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		var s struct {
			Exited   bool
			ExitCode int
			Out      []byte `json:"out-data"`
			Err      []byte `json:"err-data"`
		}
		if err := a.call("guest-exec-status", map[string]any{"pid": started.PID}, &s); err != nil {
			return nil, err
		}
		if s.Exited && s.ExitCode != 0 {
			return s.Out, fmt.Errorf("%s in the guest: exit code %d: %s", path, s.ExitCode, bytes.TrimSpace(s.Err))
		}
		if s.Exited {
			return s.Out, nil
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%s in the guest: %w", path, ctx.Err())
		case <-tick.C:
		}
	}
}
