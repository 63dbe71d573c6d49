package plugintest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"time"

	"github.com/lull-backup/lull/quiesce/quiescetest"
	"github.com/lull-backup/lull/snapshot"
)

// Here is a guest that is this very machine: what a plugin runs, reads and writes in
// the guest, it runs, reads and writes here, as this process's user. For writers
// whose application runs beside the test. Only its file systems are fake.
func Here() Guest { return &here{Guest: quiescetest.NewGuest()} }

type here struct{ *quiescetest.Guest }

// waitDelay is how long a command's output is read after it was killed.
const waitDelay = time.Second

// Exec runs a program here.
func (h *here) Exec(ctx context.Context, c snapshot.Command) (snapshot.ExecResult, error) {
	if _, err := h.Guest.Exec(ctx, snapshot.Command{}); err != nil { // keeps the call
		return snapshot.ExecResult{}, err
	}
	if c.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.Timeout)
		defer cancel()
	}
	var out, errs limited
	cmd := exec.CommandContext(ctx, c.Path, c.Args...)
	cmd.Env = append([]string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}, c.Env...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr, cmd.WaitDelay = bytes.NewReader(c.Stdin), &out, &errs, waitDelay
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return snapshot.ExecResult{}, ctx.Err()
	case errors.Is(err, fs.ErrNotExist):
		return snapshot.ExecResult{}, fmt.Errorf("run %s: %w", c.Path, snapshot.ErrNoFile)
	case err != nil && !errors.As(err, &exit):
		return snapshot.ExecResult{}, err
	}
	return snapshot.ExecResult{
		ExitCode: cmd.ProcessState.ExitCode(), Stdout: out.Bytes(), Stderr: errs.Bytes(), Truncated: out.over || errs.over,
	}, nil
}

// ReadFile reads a file here.
func (h *here) ReadFile(ctx context.Context, path string, limit int64) ([]byte, error) {
	if _, err := h.Guest.ReadFile(ctx, path, limit); !errors.Is(err, snapshot.ErrNoFile) {
		return nil, err
	}
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read %s: %w", path, snapshot.ErrNoFile)
	}
	if err == nil && int64(len(data)) > limit {
		return nil, fmt.Errorf("read %s: %d bytes are more than %d", path, len(data), limit)
	}
	return data, err
}

// WriteFile replaces a file here.
func (h *here) WriteFile(ctx context.Context, path string, data []byte) error {
	if err := h.Guest.WriteFile(ctx, path, data); err != nil {
		return err
	}
	return os.WriteFile(path, data, 0o600)
}

// limited keeps the beginning of what is written.
type limited struct {
	bytes.Buffer
	over bool
}

func (l *limited) Write(p []byte) (int, error) {
	room := snapshot.MaxGuestOutput - l.Len()
	l.over = l.over || len(p) > room
	l.Buffer.Write(p[:min(len(p), room)])
	return len(p), nil
}
