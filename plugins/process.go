package plugins

import (
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	goplugin "github.com/hashicorp/go-plugin"
	"golang.org/x/sys/unix"
)

const (
	// maxHandshake bounds the one line of the handshake; the certificate in it
	// has about a thousand bytes.
	maxHandshake = 16 << 10
	// afterExit is how long what a dead plugin wrote is still read: a child of
	// its own may hold the pipes open for ever.
	afterExit = time.Second
)

// process is the operating system's side of a plugin: go-plugin's runner.
type process struct {
	spec   Spec
	folder string // sockets must lie in it
	lines  *lineLog
	said   tail // on standard error
	flood  *flood

	credential     *syscall.Credential // nil: of this process
	cmd            *exec.Cmd
	stdout, stderr *os.File // our ends
	handshake      *io.PipeReader
	ended          chan struct{} // closed once the process is reaped and its outputs are read

	mu     sync.Mutex
	alive  bool
	killed bool
	cause  error // why it was killed, or how it exited
}

func newProcess(spec Spec, folder string, lines *lineLog) *process {
	p := &process{spec: spec, folder: folder, lines: lines, ended: make(chan struct{})}
	p.flood = newFlood(func() { p.kill(errors.New("killed: it wrote more than a plugin may")) })
	return p
}

// command takes the environment that go-plugin made. The rest of its command is
// not used: it would pass our standard input on.
func (p *process) command(env []string) {
	p.cmd = exec.Command(p.spec.Path, p.spec.Args...)
	p.cmd.Env = append([]string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8", "TMPDIR=" + socketDir(env, p.folder)}, p.spec.Env...)
	p.cmd.Env = append(p.cmd.Env, env...)
	p.cmd.Dir = "/"
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL, Credential: p.credential}
}

// socketDir is the folder that go-plugin has made inside ours: the only one that a
// plugin of another user may write to.
func socketDir(env []string, folder string) string {
	for _, e := range env {
		if dir, ok := strings.CutPrefix(e, goplugin.EnvUnixSocketDir+"="); ok {
			return dir
		}
	}
	return folder
}

// group that sockets belong to, for go-plugin; empty: no other than ours.
func (p *process) group() string {
	if p.credential == nil {
		return ""
	}
	return strconv.FormatUint(uint64(p.credential.Gid), 10)
}

// Start starts the program.
func (p *process) Start(context.Context) error {
	if err := p.verify(); err != nil {
		return err
	}
	outR, outW, err := os.Pipe()
	if err != nil {
		return err
	}
	errR, errW, err := os.Pipe()
	if err != nil {
		return errors.Join(err, outR.Close(), outW.Close())
	}
	p.stdout, p.stderr = outR, errR
	p.cmd.Stdout, p.cmd.Stderr = outW, errW
	handshake, found := io.Pipe()
	p.handshake = handshake
	started := make(chan error, 1)
	go p.keep(started, found)
	err = <-started
	return errors.Join(err, outW.Close(), errW.Close())
}

// verify looks who may write the program, and compares it with its checksum.
func (p *process) verify() error {
	guarded := p.spec.Runs
	if p.spec.Guarded {
		guarded = append([]string{p.spec.Path}, guarded...)
	}
	for _, path := range guarded {
		if err := CheckGuarded(path); err != nil {
			return err
		}
	}
	sum, err := p.spec.checksum()
	if err != nil || len(sum) == 0 {
		return err
	}
	same, err := (&goplugin.SecureConfig{Checksum: sum, Hash: sha256.New()}).Check(p.spec.Path)
	if err == nil && !same {
		err = fmt.Errorf("%s: %w", p.spec.Path, ErrUntrusted)
	}
	return err
}

// keep owns the process: it forks it on a thread that lives as long as the
// process, which Pdeathsig asks for, and reaps it.
func (p *process) keep(started chan<- error, found *io.PipeWriter) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer close(p.ended)
	if err := p.fork(); err != nil {
		started <- err
		found.Close()
		p.closePipes()
		return
	}
	started <- nil
	var reading sync.WaitGroup
	reading.Go(func() { p.readStdout(found) })
	reading.Go(p.readStderr)
	p.reap()
	// Only now, so that what it wrote last is read. Descendants are dead.
	deadline := time.Now().Add(afterExit)
	_ = p.stdout.SetReadDeadline(deadline)
	_ = p.stderr.SetReadDeadline(deadline)
	reading.Wait()
}

func (p *process) fork() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.killed {
		return p.cause
	}
	err := p.cmd.Start()
	p.alive = err == nil
	return err
}

// reap waits for the end, kills what the plugin started, and collects it.
func (p *process) reap() {
	for {
		err := unix.Waitid(unix.P_PID, p.cmd.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	// The process is a zombie yet: its number cannot be another's.
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
	err := p.cmd.Wait()
	p.alive = false
	// go-plugin kills what has ended its output, and may have come too late.
	if p.cause == nil || p.cmd.ProcessState.Exited() && p.cause == errStopped {
		p.cause = errors.New("it exited by itself")
		if err != nil {
			p.cause = fmt.Errorf("it ended: %w", err)
		}
	}
}

// kill kills the process and its children; the first cause stays.
func (p *process) kill(cause error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.killed = true
	if p.cause == nil {
		p.cause = cause
	}
	if p.alive {
		_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
	}
}

// died is why the process is gone; nil while it lives.
func (p *process) died() error {
	select {
	case <-p.ended:
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.cause
	default:
		return nil
	}
}

// readStdout passes the handshake on, and logs the rest.
func (p *process) readStdout(found *io.PipeWriter) {
	defer found.Close()
	in := bufio.NewReaderSize(&floodReader{p.stdout, p.flood}, maxHandshake)
	line, err := in.ReadSlice('\n')
	switch {
	case err == nil:
		err = p.checkHandshake(string(line))
	case len(line) > 0:
		err = fmt.Errorf("no handshake: it printed %q", clip(string(line)))
	}
	switch {
	case err == nil:
		_, _ = found.Write(line) // go-plugin reads to the end
	case !errors.Is(err, io.EOF): // which has another cause: that of its end
		p.kill(err)
	}
	found.Close()
	_, _ = io.Copy(&lineWriter{to: p.lines, level: slog.LevelInfo}, in) // until its end
}

func (p *process) checkHandshake(line string) error {
	parts := strings.Split(strings.TrimSpace(line), "|")
	switch {
	case len(parts) < 6 || parts[4] != string(goplugin.ProtocolGRPC):
		return fmt.Errorf("no handshake of a gRPC plugin: it printed %q", clip(line))
	case len(parts[5]) <= 50:
		return errors.New("handshake without a certificate: the plugin does not speak mutual TLS")
	}
	_, _, err := p.PluginToHost(parts[2], parts[3])
	return err
}

func clip(s string) string { return s[:min(len(s), 200)] }

func (p *process) closePipes() {
	_ = p.stdout.Close()
	_ = p.stderr.Close()
}

// Wait waits until the process is gone.
func (p *process) Wait(context.Context) error {
	<-p.ended
	p.closePipes()
	return p.died()
}

// errStopped is the end of a plugin that go-plugin has killed.
var errStopped = errors.New("killed by lull")

// Kill is go-plugin's way to kill.
func (p *process) Kill(context.Context) error {
	p.kill(errStopped)
	return nil
}

// Stdout is the line of the handshake and nothing else.
func (p *process) Stdout() io.ReadCloser { return p.handshake }

// Stderr is empty: readStderr has it.
func (p *process) Stderr() io.ReadCloser { return io.NopCloser(strings.NewReader("")) }

// Name of the program.
func (p *process) Name() string { return p.spec.Path }

// ID is the process id.
func (p *process) ID() string {
	if p.cmd == nil || p.cmd.Process == nil {
		return ""
	}
	return strconv.Itoa(p.cmd.Process.Pid)
}

// Diagnose adds nothing to what Start returns.
func (p *process) Diagnose(context.Context) string { return "" }

// PluginToHost lets only sockets in the plugin's own folder pass.
func (p *process) PluginToHost(network, addr string) (string, string, error) {
	if network != "unix" || filepath.Clean(addr) != addr || !strings.HasPrefix(addr, p.folder+"/") {
		return "", "", fmt.Errorf("handshake with the address %q: it must be a socket in %s", clip(network+":"+addr), p.folder)
	}
	return network, addr, nil
}

// HostToPlugin changes nothing.
func (p *process) HostToPlugin(network, addr string) (string, string, error) {
	return network, addr, nil
}
