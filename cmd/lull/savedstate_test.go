package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/lull-backup/lull/agent"
	"github.com/lull-backup/lull/quiesce"
	"github.com/lull-backup/lull/snapshot/guesttest"
)

// counting is a program of the guest that holds its number nowhere but in memory;
// the file is on the root file system, which is memory too.
const counting = "(i=0; while :; do i=$((i+1)); echo $i >/run/count.new; mv /run/count.new /run/count; sleep 0.05; done) </dev/null >/dev/null 2>&1 &"

// told is what a guest says of itself, through the agent's socket that lull does not
// know.
func (l *lab) told(side, script string) string {
	l.t.Helper()
	out, err := guesttest.Exec(l.ctx, side, "/bin/sh", "-c", script)
	if err != nil {
		l.t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

func (l *lab) number(side, script string) float64 {
	l.t.Helper()
	n, err := strconv.ParseFloat(l.told(side, script), 64)
	if err != nil {
		l.t.Fatal(err)
	}
	return n
}

const (
	countIs  = "cat /run/count"
	uptimeIs = "cut -d ' ' -f 1 /proc/uptime"
	bootIs   = "cat /proc/sys/kernel/random/boot_id"
)

// TestGuestSavedState: a guest whose agent lull does not know is saved while it runs,
// and comes back running: its uptime and a counter in its memory go on, once; then, and
// with --cold, it starts from its disks.
func TestGuestSavedState(t *testing.T) {
	t.Parallel()
	hands := filepath.Join(t.TempDir(), "hands") // a second monitor, for the test
	l := newLab(t, guesttest.Options{Args: []string{"-qmp", "unix:" + hands + ",server=on,wait=off"}})
	vm := "{name: web, qmp: " + l.guest.QMP + "}"
	l.configure(vm, "schedule: manual, consistency: {ladder: [saved-state, crash], floor: saved-state, window: 60s}")
	l.inGuest(counting)
	l.inGuest("mkdir -p /sbin; ln -s $(readlink -f /bin/sh) /sbin/hwclock") // the agent sets no clock without
	l.inGuest("date -s @$(($(date +%s) - 86400))")                          // so that a clock that is set again shows
	var atThaw uint64
	l.hear = func(e agent.Event) {
		if e.Step == agent.StepReading && atThaw == 0 {
			atThaw = l.acked()
			l.goesOn()
		}
	}
	boot, ran, counted, written := l.told(l.guest.Side, bootIs), l.number(l.guest.Side, uptimeIs), l.number(l.guest.Side, countIs), l.acked()
	l.lull(exitDone, "backup", "lab/web")
	l.hear = nil
	l.tidy()
	if later := l.number(l.guest.Side, countIs); later <= counted || l.told(l.guest.Side, bootIs) != boot {
		t.Errorf("the guest did not go on: it counted to %v, then to %v", counted, later)
	}
	point := l.result().Point
	if point.Quiesce.Level != quiesce.LevelSavedState || point.Quiesce.Window <= 0 {
		t.Errorf("the point is %+v", point.Quiesce)
	}
	var major, minor int
	if _, err := fmt.Sscanf(point.Hardware.Version, "%d.%d", &major, &minor); err != nil {
		t.Fatalf("QEMU %q: %v", point.Hardware.Version, err)
	}
	newer := major > 8 || major == 8 && minor >= 1 // fit for background snapshots
	if how := l.result().Memory; strings.HasSuffix(how, "while the guest went on") != newer {
		t.Errorf("how the memory was saved by QEMU %s: %q", point.Hardware.Version, how)
	}
	counted = l.number(l.guest.Side, countIs)
	l.lull(exitDone, "backup", "lab/web")
	l.tidy()
	// Two nights share most of the memory.
	if next := l.result().Point; next.Stats.New > point.Stats.New/4 {
		t.Errorf("the first point took %+v, the second %+v", point.Stats, next.Stats)
	}
	l.killedWhileStopped(hands)
	l.lull(exitDone, "check", "--all")
	running, cold := filepath.Join(l.dir, "running"), filepath.Join(l.dir, "cold")
	l.lull(exitDone, "restore", "web", "--to", running)
	l.lull(exitDone, "restore", "web", "--to", cold, "--cold")
	if _, err := os.Stat(filepath.Join(cold, "memory.state")); err == nil {
		t.Error("--cold restored the memory")
	}
	l.destroy()
	l.refusesForeign(running)

	side, stop := l.goOn(running)
	if got := l.told(side, bootIs); got != boot {
		t.Fatalf("the guest was booted anew: %s is not %s", got, boot)
	}
	if got := l.number(side, uptimeIs); got < ran {
		t.Errorf("the uptime was %v, and is %v", ran, got)
	}
	first := l.number(side, countIs)
	if first < counted {
		t.Errorf("it had counted to %v, and has to %v", counted, first)
	}
	l.counts(side, first+10)
	l.clockIsSet(side)
	stop()
	if _, err := os.Stat(filepath.Join(running, "memory.state")); err == nil {
		t.Error("the memory could be used a second time")
	}
	l.boot(running, written)
	l.boot(cold, written)
}

// clockIsSet waits until the restored guest, whose clock was a day late, knows what time it
// is, and for its agent's socket to be back.
func (l *lab) clockIsSet(side string) {
	l.t.Helper()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		behind := time.Since(time.Unix(int64(l.number(side, "date +%s")), 0))
		if behind.Abs() < time.Hour && guesttest.Ping(l.ctx, filepath.Join(filepath.Dir(side), "qga.sock")) == nil {
			return
		}
		select {
		case <-tick.C:
		case <-l.ctx.Done():
			l.t.Fatalf("the restored guest's clock is behind by %v, or its agent does not answer", behind)
		}
	}
}

// counts waits until the guest has counted beyond n.
func (l *lab) counts(side string, n float64) {
	l.t.Helper()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for l.number(side, countIs) <= n {
		select {
		case <-tick.C:
		case <-l.ctx.Done():
			l.t.Fatal("the restored guest does not count on")
		}
	}
}

// goOn starts a restored VM, and waits until the agent that lull does not know answers.
func (l *lab) goOn(dir string) (side string, stop func()) {
	l.t.Helper()
	stop, ended := l.start(dir)
	side = filepath.Join(dir, "side0.sock")
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for guesttest.Ping(l.ctx, side) != nil {
		select {
		case <-tick.C:
		case <-ended:
			l.t.Fatal("the restored VM has ended")
		case <-l.ctx.Done():
			l.t.Fatal("the restored VM does not answer")
		}
	}
	return side, stop
}

// refusesForeign starts the VM with a QEMU that is too old, with one that does not know
// its machine, and by another accelerator: all refuse before they touch anything.
func (l *lab) refusesForeign(dir string) {
	l.t.Helper()
	old, foreign := l.fakeQEMU("5.2"), l.fakeQEMU("99.0")
	for env, want := range map[string]string{
		"LULL_QEMU=" + old:     "saved by QEMU",
		"LULL_QEMU=" + foreign: "machine type",
		"LULL_ACCEL=kvm":       "ran under tcg",
	} {
		cmd := exec.CommandContext(l.ctx, filepath.Join(dir, "boot.sh"))
		cmd.Env = append(os.Environ(), env)
		out, err := cmd.CombinedOutput()
		if err == nil || !strings.Contains(string(out), want) || !strings.Contains(string(out), "--cold") {
			l.t.Errorf("%s: %v\n%s", env, err, out)
		}
	}
}

func (l *lab) fakeQEMU(version string) (path string) {
	l.t.Helper()
	path = filepath.Join(l.dir, "qemu-"+version)
	l.write(path, "#!/bin/sh\ncase $1 in --version) echo 'QEMU emulator version "+version+".0 (x)';; *) echo none;; esac\n")
	if err := os.Chmod(path, 0o700); err != nil {
		l.t.Fatal(err)
	}
	return path
}
