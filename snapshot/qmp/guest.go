package qmp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/lull-backup/lull/snapshot"
)

// Chunks of a file on its way through the agent, in bytes before base64. The
// channel is slow; small chunks keep other calls from waiting long.
const (
	readChunk  = 512 << 10
	writeChunk = 128 << 10
)

// Executor runs a command in the agent, as Agent.Execute does.
type Executor interface {
	Execute(ctx context.Context, command string, args, result any) error
}

// Calls are those of snapshot.Guest but for Close, over any road to an agent.
type Calls struct{ Executor }

// closeFile is how long an agent may take to close a file.
const closeFile = 10 * time.Second

// Info asks for what there is; only the agent's version is sure to be there.
func (a Calls) Info(ctx context.Context) (snapshot.GuestInfo, error) {
	var info struct {
		Version string `json:"version"`
	}
	if err := a.Execute(ctx, "guest-info", nil, &info); err != nil {
		return snapshot.GuestInfo{}, err
	}
	g := snapshot.GuestInfo{AgentVersion: clip(info.Version)}
	var os struct {
		ID string `json:"id"`
	}
	if err := a.optional(ctx, "guest-get-osinfo", &os); err != nil {
		return g, err
	}
	var host struct {
		Name string `json:"host-name"`
	}
	if err := a.optional(ctx, "guest-get-host-name", &host); err != nil {
		return g, err
	}
	g.OS, g.Hostname = clip(os.ID), clip(host.Name)
	return g, nil
}

// optional runs a command that an agent may lack or have disabled.
func (a Calls) optional(ctx context.Context, command string, result any) error {
	err := a.Execute(ctx, command, nil, result)
	var refused *Error
	if errors.As(err, &refused) {
		return nil
	}
	return err
}

// clip bounds a word of the guest.
func clip(s string) string { return s[:min(len(s), 256)] }

// Exec starts a program and asks for its end, more and more rarely.
func (a Calls) Exec(ctx context.Context, c snapshot.Command) (snapshot.ExecResult, error) {
	if c.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.Timeout)
		defer cancel()
	}
	var started struct {
		PID int64 `json:"pid"`
	}
	args := struct {
		Path    string   `json:"path"`
		Args    []string `json:"arg,omitempty"`
		Env     []string `json:"env,omitempty"`
		Input   []byte   `json:"input-data,omitempty"` // base64, by encoding/json
		Capture bool     `json:"capture-output"`
	}{c.Path, c.Args, c.Env, c.Stdin, true}
	if err := a.Execute(ctx, "guest-exec", args, &started); err != nil {
		return snapshot.ExecResult{}, err
	}
	return a.wait(ctx, started.PID)
}

// execStatus is the answer of guest-exec-status.
type execStatus struct {
	Exited       bool   `json:"exited"`
	ExitCode     int    `json:"exitcode"`
	Signal       int    `json:"signal"`
	Out          []byte `json:"out-data"`
	Err          []byte `json:"err-data"`
	OutTruncated bool   `json:"out-truncated"`
	ErrTruncated bool   `json:"err-truncated"`
}

func (a Calls) wait(ctx context.Context, pid int64) (snapshot.ExecResult, error) {
	const longest = 500 * time.Millisecond
	// A pause is about a quarter of what has passed: a freeze window waits here.
	for pause := 4 * time.Millisecond; ; pause = min(pause+pause/4, longest) {
		var s execStatus
		if err := a.Execute(ctx, "guest-exec-status", map[string]int64{"pid": pid}, &s); err != nil {
			return snapshot.ExecResult{}, err
		}
		if s.Exited {
			return s.result(), nil
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return snapshot.ExecResult{}, fmt.Errorf("wait for process %d in the guest: %w", pid, ctx.Err())
		}
	}
}

// result counts a program that a signal ended as shells do.
func (s execStatus) result() snapshot.ExecResult {
	r := snapshot.ExecResult{ExitCode: s.ExitCode, Truncated: s.OutTruncated || s.ErrTruncated}
	if s.Signal != 0 {
		r.ExitCode = 128 + s.Signal
	}
	cut := func(b []byte) []byte {
		if len(b) > snapshot.MaxGuestOutput {
			r.Truncated = true
			return b[:snapshot.MaxGuestOutput:snapshot.MaxGuestOutput]
		}
		return b
	}
	r.Stdout, r.Stderr = cut(s.Out), cut(s.Err)
	return r
}

// ReadFile reads in chunks.
func (a Calls) ReadFile(ctx context.Context, path string, limit int64) ([]byte, error) {
	var content []byte
	err := a.withFile(ctx, path, "r", func(handle int64) error {
		for {
			var part struct {
				Buf []byte `json:"buf-b64"`
				EOF bool   `json:"eof"`
			}
			args := map[string]int64{"handle": handle, "count": readChunk}
			if err := a.Execute(ctx, "guest-file-read", args, &part); err != nil {
				return err
			}
			if int64(len(content))+int64(len(part.Buf)) > limit {
				return fmt.Errorf("file is longer than %d bytes", limit)
			}
			content = append(content, part.Buf...)
			if part.EOF {
				return nil
			}
			if len(part.Buf) == 0 {
				return fmt.Errorf("%w: %w", ErrProtocol, io.ErrNoProgress)
			}
		}
	})
	if err != nil {
		return nil, fmt.Errorf("read %s in the guest: %w", path, err)
	}
	return content, nil
}

// WriteFile writes in chunks and flushes.
func (a Calls) WriteFile(ctx context.Context, path string, data []byte) error {
	err := a.withFile(ctx, path, "w", func(handle int64) error {
		for len(data) > 0 {
			n, err := a.writeSome(ctx, handle, data[:min(len(data), writeChunk)])
			if err != nil {
				return err
			}
			data = data[n:]
		}
		return a.Execute(ctx, "guest-file-flush", map[string]int64{"handle": handle}, nil)
	})
	if err != nil {
		return fmt.Errorf("write %s in the guest: %w", path, err)
	}
	return nil
}

func (a Calls) writeSome(ctx context.Context, handle int64, b []byte) (int, error) {
	args := struct {
		Handle int64  `json:"handle"`
		Buf    []byte `json:"buf-b64"`
	}{handle, b}
	var done struct {
		Count int `json:"count"`
	}
	if err := a.Execute(ctx, "guest-file-write", args, &done); err != nil {
		return 0, err
	}
	if done.Count <= 0 || done.Count > len(b) {
		return 0, fmt.Errorf("%w: %d of %d bytes written", ErrProtocol, done.Count, len(b))
	}
	return done.Count, nil
}

// withFile opens a file in the guest around use, and closes it even when ctx is
// over: the agent keeps its handles for good.
func (a Calls) withFile(ctx context.Context, path, mode string, use func(handle int64) error) (err error) {
	var handle int64
	if err := a.Execute(ctx, "guest-file-open", map[string]string{"path": path, "mode": mode}, &handle); err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeFile)
		defer cancel()
		closeErr := a.Execute(ctx, "guest-file-close", map[string]int64{"handle": handle}, nil)
		if err == nil {
			err = closeErr
		}
	}()
	return use(handle)
}

// FreezeFilesystems freezes the listed mount points, or all.
func (a Calls) FreezeFilesystems(ctx context.Context, mountPoints []string) (int, error) {
	var n int
	if len(mountPoints) == 0 {
		err := a.Execute(ctx, "guest-fsfreeze-freeze", nil, &n)
		return n, err
	}
	err := a.Execute(ctx, "guest-fsfreeze-freeze-list", map[string][]string{"mountpoints": mountPoints}, &n)
	return n, err
}

// ThawFilesystems thaws all.
func (a Calls) ThawFilesystems(ctx context.Context) (int, error) {
	var n int
	err := a.Execute(ctx, "guest-fsfreeze-thaw", nil, &n)
	return n, err
}

// FilesystemsFrozen asks for the state.
func (a Calls) FilesystemsFrozen(ctx context.Context) (bool, error) {
	var state string
	if err := a.Execute(ctx, "guest-fsfreeze-status", nil, &state); err != nil {
		return false, err
	}
	switch state {
	case "frozen":
		return true, nil
	case "thawed":
		return false, nil
	}
	return false, fmt.Errorf("guest-fsfreeze-status in the guest: %w: state %.40q", ErrProtocol, state)
}
