package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lull-backup/lull/agent"
	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/qmp"
)

// machine is a QEMU process without a guest, and a lull that backs it up.
type machine struct {
	*lab
	image  string
	format snapshot.Format
	qemu   *exec.Cmd
	hands  *qmp.Client
	// How QEMU opens the disk: its file, and the format upon it.
	file, upon string
	more       []string // options of QEMU
}

// newMachine has one empty disk of a size that qemu-img understands.
func newMachine(t testing.TB, format snapshot.Format, size string) *machine {
	t.Helper()
	return machineOn(t, format, func(m *machine) {
		m.tool("qemu-img", "create", "-q", "-f", string(format), m.image, size)
	})
}

// machineOn has a disk that a test makes, and says how it is opened if that is in no common way.
func machineOn(t testing.TB, format snapshot.Format, disk func(*machine)) *machine {
	t.Helper()
	m := &machine{lab: &lab{t: t, ctx: t.Context(), dir: t.TempDir(), program: lullProgram(t), minFree: -1}, format: format}
	m.image = filepath.Join(m.dir, "disk."+string(format))
	m.config = filepath.Join(m.dir, "lull.yaml")
	m.file, m.upon = "driver=file,filename="+m.image, "driver="+string(format)
	disk(m)
	m.write(filepath.Join(m.dir, "passphrase"), "correct horse battery staple\n")
	m.configure(fmt.Sprintf("{name: web, qmp: %s/qmp}", m.dir), "schedule: manual, consistency: {ladder: [crash]}")
	m.lull(exitDone, "init")
	m.start()
	t.Cleanup(m.quit)
	return m
}

func (m *machine) tool(name string, arg ...string) {
	m.t.Helper()
	if out, err := exec.CommandContext(m.ctx, name, arg...).CombinedOutput(); err != nil {
		m.t.Fatalf("%s (apt-get install qemu-utils qemu-system-x86): %v\n%s", name, err, out)
	}
}

func (m *machine) start() {
	m.t.Helper()
	m.qemu = exec.Command("qemu-system-x86_64", append([]string{"-machine", "q35", "-accel", "tcg", "-m", "64", "-S", "-display", "none", "-nodefaults",
		"-qmp", "unix:" + m.dir + "/qmp,server=on,wait=off", "-qmp", "unix:" + m.dir + "/hands,server=on,wait=off",
		"-blockdev", m.file + ",node-name=file0,discard=unmap",
		"-blockdev", m.upon + ",node-name=fmt0,file=file0,discard=unmap",
		"-device", "virtio-blk-pci,id=root,drive=fmt0", "-device", "virtio-scsi-pci,id=scsi0"}, m.more...)...)
	if err := m.qemu.Start(); err != nil {
		m.t.Fatalf("%v: apt-get install qemu-system-x86", err)
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for range 6000 {
		var err error
		if m.hands, err = qmp.Dial(m.ctx, m.dir+"/hands", qmp.Options{}); err == nil {
			return
		}
		<-tick.C
	}
	m.t.Fatal("QEMU does not open its monitor")
}

// quit ends QEMU in peace.
func (m *machine) quit() {
	if m.hands == nil {
		return
	}
	_ = m.hands.Execute(m.t.Context(), "quit", nil, nil) // the connection may end before the answer comes
	_ = m.hands.Close()
	m.hands = nil
	_ = m.qemu.Process.Signal(os.Interrupt) // where the test's context has ended
	_ = m.qemu.Wait()
}

// io does what the guest would, by qemu-io's commands.
func (m *machine) io(command string) {
	m.t.Helper()
	var said string
	err := m.hands.Execute(m.ctx, "human-monitor-command",
		map[string]any{"command-line": fmt.Sprintf("qemu-io -d /machine/peripheral/root/virtio-backend \"%s\"", command)}, &said)
	if err != nil || strings.Contains(said, "error") || strings.Contains(said, "failed") {
		m.t.Fatalf("%s: %v %s", command, err, said)
	}
}

// backup is one run, and what it says of the disk.
func (m *machine) backup(want int, flags ...string) agent.Result {
	m.t.Helper()
	m.lull(want, append([]string{"backup", "web"}, flags...)...)
	return m.result()
}

// restores compares what the last point restores to with the disk.
func (m *machine) restores() {
	m.t.Helper()
	to := m.t.TempDir()
	m.lull(exitDone, "restore", "web", "--to", to)
	restored, err := filepath.Glob(to + "/disk.*")
	if err != nil || len(restored) != 1 {
		m.t.Fatalf("restored: %v, %v", restored, err)
	}
	format := snapshot.FormatRaw // of what lull does not write
	if m.format == snapshot.FormatQcow2 {
		format = m.format
	}
	m.tool("qemu-img", "compare", "-U", "-f", string(m.format), "-F", string(format), m.image, restored[0])
}

func TestTracking(t *testing.T) {
	t.Parallel()
	m := newMachine(t, snapshot.FormatQcow2, "1T")
	m.io("write -P 1 0 16M")
	m.io("write -P 2 1000G 8M")
	first := m.backup(exitDone)
	if got := first.Point.Disks[0].Tracking; got.Used || got.Record == "" || !strings.Contains(got.Reason, "first") {
		t.Errorf("the first point: %+v", got)
	}
	m.io("write -P 3 512G 1M")
	m.io("write -z -u 1000G 4M")
	m.io("discard 0 1M")
	res := m.backup(exitDone)
	if got := res.Point.Disks[0].Tracking; !got.Used || got.Changed != 6<<20 || !got.Whole.Equal(first.Point.Frozen) {
		t.Errorf("the second point: %+v", got)
	}
	if res.Point.Stats.Read > 24<<20 {
		t.Errorf("read %d bytes", res.Point.Stats.Read)
	}
	m.restores()

	var said struct {
		VMs []struct {
			Tracking string `json:"last_tracking"`
		} `json:"vms"`
	}
	if err := json.Unmarshal([]byte(m.lull(exitDone, "status", "--json")), &said); err != nil || len(said.VMs) != 1 || said.VMs[0].Tracking != "6.0 MiB of 1.0 TiB changed on root" {
		t.Errorf("status: %+v, %v", said, err)
	}

	// QEMU loses a record's end where a disk is cut off, and says nothing.
	m.quit()
	m.tool("qemu-img", "resize", "-q", "--shrink", m.image, "600G")
	m.tool("qemu-img", "resize", "-q", m.image, "1T")
	m.start()
	res = m.backup(exitWarnings)
	if got := res.Point.Disks[0].Tracking; got.Used || got.Untrue != 4<<20 || got.Record != "" {
		t.Errorf("after the disk was cut off: %+v", got)
	}
	m.restores()
	if got := m.backup(exitDone).Point.Disks[0].Tracking; got.Used || got.Record == "" || !got.Doubted {
		t.Errorf("the next point: %+v", got)
	}
	if got := m.backup(exitDone).Point.Disks[0].Tracking; got.Used || got.Untrue > 0 || got.Doubted || !strings.Contains(got.Reason, "audit") {
		t.Errorf("the point after it: %+v", got)
	}
	if res = m.backup(exitDone); !res.Point.Disks[0].Tracking.Used {
		t.Errorf("once it was proven: %+v", res.Point.Disks[0].Tracking)
	}
	if got := m.backup(exitDone, "--audit-tracking").Point.Disks[0].Tracking; got.Used || got.Untrue > 0 || got.Record == "" {
		t.Errorf("an audit: %+v", got)
	}
}

// An audit finds what was written behind QEMU's back, and nothing relies on that
// record again.
func TestTrackingAudit(t *testing.T) {
	t.Parallel()
	m := newMachine(t, snapshot.FormatRaw, "64M")
	m.io("write -P 1 0 64M")
	m.backup(exitDone)
	f, err := os.OpenFile(m.image, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(bytes.Repeat([]byte{7}, 4096), 20<<20); err != nil {
		t.Fatal(err)
	}
	code, _, said := m.attempt(m.ctx, "backup", "web", "--audit-tracking")
	if code != exitFailed || !strings.Contains(said, "4.0 MiB changed unseen, from 20 MiB on") || !strings.Contains(said, "do not rely on them") {
		t.Errorf("exit code %d: %s", code, said)
	}
	m.restores() // the audit's own point is right
	res := m.backup(exitDone)
	if got := res.Point.Disks[0].Tracking; got.Used || !strings.Contains(got.Reason, "nothing recorded") {
		t.Errorf("after a failed audit: %+v", got)
	}
	m.configure(fmt.Sprintf("{name: web, qmp: %s/qmp}", m.dir), "schedule: manual, consistency: {ladder: [crash]}, tracking: {enabled: false}")
	if got := m.backup(exitDone).Point.Disks[0].Tracking; got.Record != "" || got.Reason != "tracking is off" {
		t.Errorf("switched off: %+v", got)
	}
	var blocks []struct {
		Inserted struct {
			Bitmaps []any `json:"dirty-bitmaps"`
		} `json:"inserted"`
	}
	if err := m.hands.Execute(m.ctx, "query-block", nil, &blocks); err != nil || len(blocks) != 1 || len(blocks[0].Inserted.Bitmaps) > 0 {
		t.Errorf("records are left: %+v, %v", blocks, err)
	}
}

// A disk in a format that lull does not write comes back raw.
func TestTrackingVHDX(t *testing.T) {
	t.Parallel()
	m := newMachine(t, snapshot.FormatVHDX, "64M")
	m.io("write -P 1 5M 9M")
	m.backup(exitDone)
	m.io("write -P 2 40M 1M")
	if got := m.backup(exitDone).Point.Disks[0].Tracking; !got.Used || got.Changed != 1<<20 {
		t.Errorf("the second point: %+v", got)
	}
	m.quit()
	m.restores()
}
