package guesttest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"github.com/lull-backup/lull/snapshot"
)

// Guest is a virtual machine that this process owns. It can be started again
// after it ended. Its methods are for one goroutine at a time, but Exec, Acked
// and Kill may be called from any.
type Guest struct {
	Name      string
	Dir       string   // holds everything below
	QMP       string   // socket of the code under test
	Agent     string   // socket of the code under test
	Side      string   // socket of the second guest agent
	Disks     []string // images, in the order of Options.Disks
	NVRAM     string   // empty without Options.UEFI
	SerialLog string

	image   Image
	options Options
	acks    string
	process *process // nil until Start
}

// maxSocketDir leaves room for the sockets' names in a socket address, which
// holds 107 bytes.
const maxSocketDir = 90

// Create makes the disks of a new guest in dir, which exists and is empty. A
// folder with a long name will not do: its sockets could not be connected to.
func Create(ctx context.Context, image Image, dir string, o Options) (*Guest, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	if len(dir) > maxSocketDir {
		return nil, fmt.Errorf("create guest: %s is too long for sockets: use a folder of at most %d bytes", dir, maxSocketDir)
	}
	in := func(name string) string { return filepath.Join(dir, name) }
	g := &Guest{
		Name: o.Name, Dir: dir, QMP: in("qmp"), Agent: in("agent"), Side: in("side"),
		SerialLog: in("serial.log"), image: image, options: o, acks: in("acks.log"),
	}
	for i, d := range o.Disks {
		path := d.Path
		if path == "" {
			path = in(fmt.Sprintf("disk%d.%s", i, d.Format))
			if err := makeDisk(ctx, path, o.label(i), d); err != nil {
				return nil, err
			}
		}
		g.Disks = append(g.Disks, path)
	}
	return g, g.createNVRAM()
}

func (g *Guest) createNVRAM() error {
	if !g.options.UEFI {
		return nil
	}
	vars, err := os.ReadFile(ovmfVars)
	if err != nil {
		return fmt.Errorf("make NVRAM: %w: install ovmf", err)
	}
	g.NVRAM = filepath.Join(g.Dir, "nvram.fd")
	return os.WriteFile(g.NVRAM, vars, 0o644)
}

// Format is the format of disk i.
func (g *Guest) Format(i int) snapshot.Format { return g.options.Disks[i].Format }

// process is one run of QEMU.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended; then err is set
	err  error
}

// Start starts QEMU and returns when its sockets are there.
func (g *Guest) Start(ctx context.Context) error {
	if g.Running() {
		return errors.New("start guest: it runs already")
	}
	for _, stale := range []string{g.QMP, g.Agent, g.Side, g.acks, g.SerialLog} {
		if err := os.Remove(stale); err != nil && !os.IsNotExist(err) {
			return fmt.Errorf("start guest: %w", err)
		}
	}
	path, err := lookUp("qemu-system-x86", "qemu-system-x86_64")
	if err != nil {
		return err
	}
	if g.process, err = spawn(filepath.Join(g.Dir, "qemu.log"), exec.Command(path, g.arguments()...)); err != nil {
		return fmt.Errorf("start guest: %w", err)
	}
	// QEMU makes its sockets in the order of its arguments; Side is the last.
	return g.poll(ctx, "sockets of QEMU", func(context.Context) error {
		_, err := os.Stat(g.Side)
		return err
	})
}

// spawn starts a program that the kernel ends when this process ends, however
// that may happen. The thread that starts it must live as long as it does, so
// one goroutine is tied to a thread and waits.
func spawn(log string, cmd *exec.Cmd) (*process, error) {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	p := &process{cmd: cmd, done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = out, out
	if p.cmd.SysProcAttr == nil {
		p.cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	p.cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	started := make(chan error)
	go func() {
		defer close(p.done)
		defer out.Close()
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := p.cmd.Start()
		started <- err
		if err == nil {
			p.err = p.cmd.Wait()
		}
	}()
	return p, <-started
}

// Running says whether QEMU runs.
func (g *Guest) Running() bool {
	if g.process == nil {
		return false
	}
	select {
	case <-g.process.done:
		return false
	default:
		return true
	}
}

// PID of QEMU, after Start.
func (g *Guest) PID() int { return g.process.cmd.Process.Pid }

// Done is closed when QEMU has ended, after Start.
func (g *Guest) Done() <-chan struct{} { return g.process.done }

// Kill ends QEMU as a crash would, and waits for it. Safe to call at any time.
func (g *Guest) Kill() {
	if g.process == nil {
		return
	}
	_ = g.process.cmd.Process.Kill() // it may have ended by itself
	<-g.process.done
}

// Stop ends QEMU in good order, as if the host's administrator did it: the guest
// loses power but the images are closed. When ctx ends first, QEMU is killed.
func (g *Guest) Stop(ctx context.Context) error {
	if !g.Running() {
		return nil
	}
	if err := g.process.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop guest: %w", err)
	}
	return g.waitEnd(ctx)
}

// Shutdown powers the guest off from inside, file systems unmounted.
func (g *Guest) Shutdown(ctx context.Context) error {
	// The answer may get lost when the guest is faster.
	_, err := Exec(ctx, g.Side, "/bin/sh", "-c", "/sbin/shutdown >/dev/null 2>&1 &")
	if err != nil && g.Running() && ctx.Err() == nil {
		return fmt.Errorf("shut guest down: %w", err)
	}
	return g.waitEnd(ctx)
}

func (g *Guest) waitEnd(ctx context.Context) error {
	select {
	case <-g.process.done:
		return nil
	case <-ctx.Done():
		g.Kill()
		return fmt.Errorf("wait for the guest's end: %w: killed it", ctx.Err())
	}
}

// pollEvery is how often a condition is looked at.
const pollEvery = 50 * time.Millisecond

// poll waits until check succeeds. It gives up when ctx or QEMU ends, and then
// tells what the guest had to say.
func (g *Guest) poll(ctx context.Context, what string, check func(context.Context) error) error {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		err := check(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-g.process.done:
			return fmt.Errorf("wait for %s: QEMU ended: %v\n%s", what, g.process.err, g.Logs())
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w: %v\n%s", what, ctx.Err(), err, g.Logs())
		case <-tick.C:
		}
	}
}
