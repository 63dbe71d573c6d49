package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/lull-backup/lull/snapshot/qmp"
)

// killedWhileStopped kills lull while the VM stands still for its memory to be saved,
// again and again, a little later each time. Every time the guest goes on within a
// second, before anybody starts lull again; and the next run repairs the rest.
func (l *lab) killedWhileStopped(monitor string) {
	l.t.Helper()
	c, err := qmp.Dial(l.ctx, monitor, qmp.Options{})
	if err != nil {
		l.t.Fatal(err)
	}
	defer c.Close()
	stood := 0
	for _, later := range []time.Duration{0, 0, 3 * time.Millisecond, 10 * time.Millisecond, 30 * time.Millisecond} {
		if l.killedAfterStop(c, later) {
			stood++
		}
	}
	if stood == 0 {
		l.t.Error("lull never died with the VM stopped")
	}
	l.lull(exitDone, "backup", "lab/web")
	l.tidy()
}

// killedAfterStop reports whether the VM stood still when lull died.
func (l *lab) killedAfterStop(c *qmp.Client, later time.Duration) (stood bool) {
	l.t.Helper()
	sub := c.Subscribe("STOP", "RESUME")
	defer sub.Close()
	var said bytes.Buffer
	cmd := exec.CommandContext(l.ctx, os.Args[0], "--config", l.config, "backup", "lab/web")
	cmd.Env = append(os.Environ(), crashAt+"=never", crashProgram+"="+l.program)
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		l.t.Fatal(err)
	}
	await := func(name string) {
		l.t.Helper()
		for {
			select {
			case e := <-sub.Events():
				if e.Name == name {
					return
				}
			case <-l.ctx.Done():
				l.t.Fatalf("no %s:\n%s", name, &said)
			}
		}
	}
	await("STOP")
	timer := time.NewTimer(later)
	defer timer.Stop()
	<-timer.C
	_ = cmd.Process.Kill() // one that has ended already has resumed the VM
	died := time.Now()
	_ = cmd.Wait()
	stood = l.markers() > 0
	await("RESUME")
	if took := time.Since(died); took > time.Second {
		l.t.Errorf("killed %v after the stop, the guest stood still for %v", later, took)
	}
	l.goesOn()
	return stood
}

// markers counts the files that say that the VM may stand still.
func (l *lab) markers() int {
	l.t.Helper()
	found, err := filepath.Glob(filepath.Join(filepath.Dir(l.guest.Disks[0]), "*.saving"))
	if err != nil {
		l.t.Fatal(err)
	}
	return len(found)
}
