package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lull-backup/lull/snapshot/guesttest"
	"github.com/lull-backup/lull/snapshot/qmp"
)

// counterVM is a VM without an operating system, whose guest ends it where memory and disks
// are not of one instant; and a lull that is set up for its checkpoints.
type counterVM struct {
	*bench
	sockets string // folder
	disks   []string
	cmd     *exec.Cmd
	ended   chan struct{}
	hands   *qmp.Client
}

func newCounterVM(t *testing.T) *counterVM {
	t.Helper()
	c := &counterVM{bench: newBench(t)}
	c.app.Program = lullProgram(t)
	var err error
	if c.sockets, err = os.MkdirTemp("", "lull"); err != nil { // names of sockets are short
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(c.sockets) })
	c.write("lull.yaml", fmt.Sprintf(`
agent: {state_dir: %[1]s/state}
repositories: {main: {dir: %[1]s/repo}}
hosts: {lab: {qemu: {vms: [{name: web, qmp: %[2]s/qmp, wipe_deltas: true}]}}}
`, c.dir, c.sockets))
	for i := range 2 {
		raw, disk := c.path("raw"), c.path(fmt.Sprintf("disk%d.qcow2", i))
		if err := os.WriteFile(raw, append(guesttest.CountingSector(), make([]byte, 4<<20-512)...), 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command("qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, disk).CombinedOutput(); err != nil {
			t.Fatalf("qemu-img, of qemu-utils: %v: %s", err, out)
		}
		c.disks = append(c.disks, disk)
	}
	c.start()
	return c
}

func (c *counterVM) start() {
	c.t.Helper()
	args := []string{"-machine", "q35", "-accel", "tcg", "-m", "32", "-display", "none", "-nodefaults", "-device", guesttest.CounterDevice,
		"-qmp", "unix:" + c.sockets + "/qmp,server=on,wait=off", "-qmp", "unix:" + c.sockets + "/hands,server=on,wait=off"}
	for i, disk := range c.disks {
		args = append(args, "-blockdev", fmt.Sprintf("driver=qcow2,node-name=disk%d,file.driver=file,file.filename=%s", i, disk),
			"-device", fmt.Sprintf("virtio-blk-pci,id=disk%[1]d,drive=disk%[1]d,bootindex=%[1]d", i))
	}
	c.cmd, c.ended = exec.Command("qemu-system-x86_64", args...), make(chan struct{})
	c.cmd.Stderr = os.Stderr
	if err := c.cmd.Start(); err != nil {
		c.t.Fatalf("QEMU, of qemu-system-x86: %v", err)
	}
	cmd, ended := c.cmd, c.ended
	go func() { _ = cmd.Wait(); close(ended) }() // it is killed
	c.t.Cleanup(c.kill)
	c.eventually("QEMU's monitor", func() bool {
		hands, err := qmp.Dial(c.t.Context(), c.sockets+"/hands", qmp.Options{})
		c.hands = hands
		return err == nil
	})
	c.counts("at first")
}

func (c *counterVM) kill() {
	_ = c.cmd.Process.Kill() // it may have ended
	<-c.ended
}

// eventually waits for a condition, as long as the guest finds nothing wrong.
func (c *counterVM) eventually(what string, ok func() bool) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), time.Minute)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-c.ended:
			c.t.Fatalf("%s: the guest's memory and its disks are of different instants", what)
		case <-ctx.Done():
			c.t.Fatalf("%s: not within a minute", what)
		}
	}
}

func (c *counterVM) ask(command string, args, result any) {
	c.t.Helper()
	if err := c.hands.Execute(c.t.Context(), command, args, result); err != nil {
		c.t.Errorf("%s: %v", command, err)
	}
}

// counts proves that the guest runs, and that all it sees is of one instant.
func (c *counterVM) counts(when string) {
	c.t.Helper()
	at, steps := int64(-1), 0
	c.eventually("the guest counts "+when, func() bool {
		var said string
		var n int64
		c.ask("human-monitor-command", map[string]string{"command-line": guesttest.Counter}, &said)
		if _, err := fmt.Sscanf(said[strings.IndexByte(said, ':')+1:], " %v", &n); err != nil {
			c.t.Fatalf("the guest's count: %v: %q", err, said)
		}
		if n == at+1 {
			steps++
		}
		at = n
		return steps >= 2
	})
}

// killedAt runs a lull that is killed at a step of a command on checkpoints. Empty: it came
// to its end.
func (c *counterVM) killedAt(n int, args ...string) (step string) {
	c.t.Helper()
	step, died := c.killed(strconv.Itoa(n), c.app.Program, append([]string{"checkpoint"}, args...)...)
	if step != "" {
		c.goesOn(step, died)
	}
	return step
}

// killed runs a lull, with a program for its dead-man, that is killed at a step.
func (c *counterVM) killed(at, program string, args ...string) (step string, died time.Time) {
	c.t.Helper()
	cmd := exec.CommandContext(c.t.Context(), os.Args[0], append([]string{"--config", c.path("lull.yaml"), "--quiet"}, args...)...)
	cmd.Env = append(os.Environ(), crashAt+"="+at, crashProgram+"="+program)
	said, err := os.CreateTemp(c.dir, "said") // no pipe: the dead-man has it, too
	if err != nil {
		c.t.Fatal(err)
	}
	defer said.Close()
	cmd.Stderr = said
	err = cmd.Run()
	died = time.Now()
	text, readErr := os.ReadFile(said.Name())
	if readErr != nil {
		c.t.Fatal(readErr)
	}
	if err == nil {
		return "", died
	}
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		c.t.Fatalf("lull %v: %v\n%s", args, err, text)
	}
	step, _, _ = strings.Cut(string(text), "\n")
	return step, died
}

// goesOn proves that the VM runs within a second of lull's death, or a few on a busy machine.
func (c *counterVM) goesOn(step string, died time.Time) {
	c.t.Helper()
	var now struct{ Status string }
	c.eventually("after death at "+step+" the VM goes on", func() bool {
		c.ask("query-status", nil, &now)
		return now.Status == "running"
	})
	if took := time.Since(died); took > 5*time.Second {
		c.t.Errorf("killed at %s, lull leaves the VM stopped for %v", step, took)
	}
}

// whole proves that the VM runs from the images of its paths, and that nothing is left over.
func (c *counterVM) whole(step string) {
	c.t.Helper()
	var blocks []struct {
		QDev     string
		Inserted struct{ File string }
	}
	c.ask("query-block", nil, &blocks)
	for i, b := range blocks {
		file := b.Inserted.File
		if text, ok := strings.CutPrefix(file, "json:"); ok { // another backing image than the header's
			var top struct{ File struct{ Filename string } }
			if err := json.Unmarshal([]byte(text), &top); err != nil {
				c.t.Error(err)
			}
			file = top.File.Filename
		}
		path, err1 := os.Stat(c.disks[i])
		open, err2 := os.Stat(file)
		if err := errors.Join(err1, err2); err != nil || !os.SameFile(path, open) {
			c.t.Errorf("after death at %s %s is not what QEMU has open, %s: %v", step, c.disks[i], b.Inserted.File, err)
		}
	}
	out, _ := c.checkpoint("list", "lab/web", "--json")
	var said struct {
		Trees []struct {
			Pending          string
			Unowned, Missing []string
			Checkpoints      []struct{ Deleted bool }
		}
	}
	if err := json.Unmarshal([]byte(out), &said); err != nil || len(said.Trees) != 1 {
		c.t.Fatalf("list: %v: %s", err, out)
	}
	if t := said.Trees[0]; t.Pending != "" || len(t.Unowned)+len(t.Missing) > 0 {
		c.t.Errorf("after death at %s: %s", step, out)
	}
	if left, err := filepath.Glob(c.path("*.delta*")); err != nil || len(left) > 0 {
		c.t.Errorf("after death at %s: %v, %v", step, left, err)
	}
	c.counts("after death at " + step)
}

// checkpoint runs a command on checkpoints in this process.
func (c *counterVM) checkpoint(args ...string) (stdout, stderr string) {
	c.t.Helper()
	return c.lull(exitDone, append([]string{"--config", c.path("lull.yaml"), "checkpoint"}, args...)...)
}

// TestCheckpointKilledForGood kills a real lull at every step of every operation. The
// dead-man lets the VM go on within about a second; the next start brings all to one of the
// two trees. The guest itself watches that memory and disks are of one instant, always.
func TestCheckpointKilledForGood(t *testing.T) {
	t.Parallel()
	c := newCounterVM(t)
	create := []string{"create", "lab/web", "--no-memory"}
	for _, op := range []struct {
		once, each [][]string // what is done before
		args       []string
	}{
		{nil, nil, []string{"create", "lab/web", "--name", "b"}},
		{[][]string{{"merge", "lab/web"}, {"create", "lab/web", "--name", "a"}}, nil, []string{"apply", "lab/web", "a", "--discard"}},
		{[][]string{{"merge", "lab/web"}}, [][]string{create, create}, []string{"merge", "lab/web"}},
	} {
		for _, args := range op.once {
			c.checkpoint(args...)
		}
		for n := 1; !t.Failed(); n++ {
			for _, args := range op.each {
				c.checkpoint(args...)
			}
			step := c.killedAt(n, op.args...)
			if step == "" {
				break
			}
			c.lull(exitDone, "--config", c.path("lull.yaml"), "recover", "lab/web")
			c.whole(op.args[0] + ", " + step)
		}
	}
	c.kill()
	c.start()
}

// TestCheckpointRecoveryKilled kills lull and its dead-man while the VM stands still, and then
// the recovery: that has a dead-man of its own.
func TestCheckpointRecoveryKilled(t *testing.T) {
	t.Parallel()
	c := newCounterVM(t)
	c.checkpoint("create", "lab/web", "--no-memory")
	c.checkpoint("create", "lab/web", "--no-memory")
	idle := c.path("idle") // stands by, and does nothing
	if err := os.WriteFile(idle, []byte("#!/bin/sh\nprintf r\nexec cat >/dev/null\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	if step, _ := c.killed("fold-pivoted", idle, "checkpoint", "merge", "lab/web"); step == "" {
		t.Fatal("the merge came to its end")
	}
	var now struct{ Status string }
	if c.ask("query-status", nil, &now); now.Status != "paused" {
		t.Fatalf("the VM is %s", now.Status)
	}
	step, died := c.killed("fold-placing", c.app.Program, "recover", "lab/web")
	if step == "" {
		t.Fatal("the recovery came to its end")
	}
	c.goesOn(step, died)
	c.lull(exitDone, "--config", c.path("lull.yaml"), "recover", "lab/web")
	c.whole("recover, " + step)
}
