package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lull-backup/lull/agent"
	"github.com/lull-backup/lull/snapshot"
)

// networkMachine has its disk on a server, as with Ceph or iSCSI: there is no file that lull
// could read, and no folder beside it.
func networkMachine(t *testing.T, format snapshot.Format) *machine {
	m := machineOn(t, format, func(m *machine) {
		m.tool("qemu-img", "create", "-q", "-f", string(format), m.image, "64M")
		m.tool("truncate", "-s", "128M", m.image) // a volume does not grow by itself
		socket := filepath.Join(m.dir, "nbd")
		m.serves("nbdkit", "--foreground", "--unix="+socket, "file", m.image)
		m.file = "driver=nbd,server.type=unix,server.path=" + socket
	})
	deltas := filepath.Join(m.dir, "deltas")
	if err := os.Mkdir(deltas, 0o700); err != nil {
		t.Fatal(err)
	}
	m.configure("{name: web, qmp: "+m.dir+"/qmp, delta_dir: "+deltas+"}", "schedule: manual, consistency: {ladder: [crash]}")
	return m
}

// serves runs a server until the end of the test, and waits until its socket is there.
func (m *machine) serves(name string, arg ...string) {
	m.t.Helper()
	cmd := exec.Command(name, arg...)
	if err := cmd.Start(); err != nil {
		m.t.Fatalf("%v: apt-get install nbdkit", err)
	}
	m.t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()
	})
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for range 3000 {
		if _, err := os.Stat(filepath.Join(m.dir, "nbd")); err == nil {
			return
		}
		<-tick.C
	}
	m.t.Fatalf("%s does not listen", name)
}

// What QEMU can open and lull cannot is read from QEMU, by what has changed; its delta is in the
// folder of the administrator's choice, and is merged by QEMU.
func TestNetworkDisk(t *testing.T) {
	t.Parallel()
	for _, format := range []snapshot.Format{snapshot.FormatRaw, snapshot.FormatQcow2} {
		t.Run(string(format), func(t *testing.T) {
			t.Parallel()
			m := networkMachine(t, format)
			m.io("write -P 1 0 16M")
			m.backup(exitDone)
			m.io("write -P 2 40M 1M")
			res := m.backup(exitDone)
			if d := res.Point.Disks[0]; !d.Tracking.Used || d.Tracking.Changed != 1<<20 || res.Point.Stats.Read > 24<<20 {
				t.Errorf("the second point: %+v, %d bytes read", d, res.Point.Stats.Read)
			}
			m.killedAt(agent.StepTaken)
			m.io("write -P 3 50M 1M")
			m.lull(exitDone, "recover", "lab/web")
			m.backup(exitDone)
			m.comesBack()
			m.losesQEMU()
		})
	}
}

// comesBack compares what the last point restores to with the disk.
func (m *machine) comesBack() {
	m.t.Helper()
	to := m.t.TempDir()
	m.lull(exitDone, "restore", "web", "--to", to)
	m.tool("qemu-img", "compare", "-U", "-f", string(m.format), "-F", string(m.format), m.image, filepath.Join(to, "root"))
	script, err := os.ReadFile(filepath.Join(to, "boot.sh"))
	if err != nil || strings.Contains(string(script), "nbd") {
		m.t.Errorf("the restored VM asks for the server: %v\n%s", err, script)
	}
}

// losesQEMU kills QEMU in the middle of a run: with lull there, which knows that nobody else has
// had the disk since, the delta is merged; else by an administrator, with the line's command.
func (m *machine) losesQEMU() {
	m.t.Helper()
	m.hear = func(e agent.Event) {
		if e.Step == agent.StepRead {
			m.io("write -f -P 4 52M 1M")
			m.dies()
		}
	}
	m.backup(exitDone)
	m.hear = nil
	m.holds("read -P 4 52M 1M")
	m.start()
	m.killedAt(agent.StepTaken)
	m.io("write -f -P 5 54M 1M")
	m.dies()
	code, _, said := m.attempt(m.ctx, "recover", "lab/web")
	if code != exitFailed || !strings.Contains(said, "cannot tell which image") {
		m.t.Errorf("recover: exit code %d: %s", code, said)
	}
	_, command, _ := strings.Cut(said, "finish it: ")
	command, _, _ = strings.Cut(command, "; if it ran")
	m.tool("sh", "-ec", command)
	m.lull(exitDone, "recover", "lab/web")
	m.holds("read -P 5 54M 1M")
	if left, err := filepath.Glob(m.dir + "/deltas/*"); err != nil || len(left) > 0 {
		m.t.Errorf("left: %v, %v", left, err)
	}
}

// dies ends QEMU as a crash would.
func (m *machine) dies() {
	_ = m.qemu.Process.Kill() // it may have ended
	_ = m.qemu.Wait()
	_ = m.hands.Close()
	m.hands = nil
}

// holds looks at the disk on its server.
func (m *machine) holds(command string) {
	m.t.Helper()
	m.tool("qemu-io", "-r", "-f", string(m.format), "-c", command, m.image)
}
