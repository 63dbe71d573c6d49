package script

import (
	"bytes"
	"context"
	"errors"
	"os/exec"
	"syscall"
	"time"

	"github.com/lull-backup/lull/snapshot"
)

// host runs programs on this host, as a guest's agent does in there.
type host struct{}

// waitDelay is how long the output of a program is read once that has ended.
const waitDelay = time.Second

// Exec runs a program with an environment that has nothing of this process's. Its end is
// no script's end: those are process groups of their own, with limits of their own.
func (host) Exec(ctx context.Context, c snapshot.Command) (snapshot.ExecResult, error) {
	var out, errs limited
	cmd := exec.CommandContext(ctx, c.Path, c.Args...)
	cmd.Env = append([]string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"}, c.Env...)
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = &out, &errs, waitDelay
	// The plugin's own group is killed with it; a thaw must go on.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return snapshot.ExecResult{}, ctx.Err()
	case err != nil && !errors.As(err, &exit) && !errors.Is(err, exec.ErrWaitDelay):
		return snapshot.ExecResult{}, err
	}
	return snapshot.ExecResult{ExitCode: cmd.ProcessState.ExitCode(), Stdout: out.Bytes(), Stderr: errs.Bytes()}, nil
}

// limited keeps the beginning of what is written.
type limited struct{ bytes.Buffer }

func (l *limited) Write(p []byte) (int, error) {
	l.Buffer.Write(p[:min(len(p), 2*maxOutput-l.Len())])
	return len(p), nil
}
