package main

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lull-backup/lull/agent"
	"github.com/lull-backup/lull/agent/journal"
	"github.com/lull-backup/lull/snapshot"
)

// diagnosed are the doctor's findings of VMs.
func (m *machine) diagnosed(code int) (all []diagnosis) {
	m.t.Helper()
	var out struct {
		Checks []diagnosis `json:"checks"`
	}
	text := m.lull(code, "doctor", "--json")
	if err := json.Unmarshal([]byte(strings.SplitN(text, "\n", 2)[0]), &out); err != nil {
		m.t.Fatalf("%v: %s", err, text)
	}
	return slices.DeleteFunc(out.Checks, func(d diagnosis) bool { return !strings.HasPrefix(d.Subject, "VM ") })
}

// checks wants the doctor to find just these things.
func (m *machine) checks(code int, want ...string) []diagnosis {
	m.t.Helper()
	found := m.diagnosed(code)
	var got []string
	for _, d := range found {
		got = append(got, d.Check+" "+d.Result)
	}
	slices.Sort(got)
	if got = slices.Compact(got); !slices.Equal(got, want) {
		m.t.Fatalf("the doctor finds %q, want %q: %+v", got, want, found)
	}
	return found
}

// A run is killed, and then its journal is lost: the doctor tells of both, and what it
// advises leads out of it.
func TestRecoverWithoutJournal(t *testing.T) {
	t.Parallel()
	m := newMachine(t, snapshot.FormatQcow2, "64M")
	m.io("write -P 1 0 4M")
	m.checks(exitDone, "leftovers ok")
	m.killedAt(agent.StepTaken)
	m.io("write -P 2 1M 1M")
	m.checks(exitDone, "owed warning")
	if err := os.RemoveAll(filepath.Join(m.dir, "state")); err != nil {
		t.Fatal(err)
	}
	found := m.checks(exitFailed, "orphan failed", "stray warning")
	i := slices.IndexFunc(found, func(d diagnosis) bool { return d.Check == "orphan" })
	command, ok := strings.CutPrefix(found[i].Hint, "merge it: lull ")
	if !ok || found[i].Path == "" {
		t.Fatalf("the doctor says %+v", found[i])
	}
	code, _, said := m.attempt(m.ctx, "backup", "lab/web")
	if code != exitFailed || !strings.Contains(said, "not merged yet") || !strings.Contains(said, "lull recover") {
		t.Errorf("a backup ends with %d: %s", code, said)
	}
	m.lull(exitDone, strings.Fields(command)...)
	m.checks(exitDone, "leftovers ok")
	if left, err := filepath.Glob(m.dir + "/disk*lull*"); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	m.backup(exitDone)
	m.restores()
}

// Recovery that dies leaves nobody standing still, either: it has a dead-man of its own, as
// that of the run may have died with the run.
func TestRecoveryKilled(t *testing.T) {
	t.Parallel()
	m := newMachine(t, snapshot.FormatQcow2, "64M")
	m.ask("cont", nil)
	m.killedAt(agent.StepTaken)
	owed, err := journal.Open(filepath.Join(m.dir, "state"))
	if err != nil {
		t.Fatal(err)
	}
	e, found, err := owed.Read("lab/web")
	if err != nil || !found {
		t.Fatalf("the journal: %v, %v", found, err)
	}
	m.ask("stop", nil) // as in the middle of saving its memory
	m.write(e.Plan.Saved.Path+".saving", "")
	m.killedIn("recover", agent.StepRecovering)
	m.runs()
	m.lull(exitDone, "recover", "lab/web")
	m.checks(exitDone, "leftovers ok")
	m.runs()
}

func (m *machine) ask(command string, result any) {
	m.t.Helper()
	if err := m.hands.Execute(m.ctx, command, nil, result); err != nil {
		m.t.Fatal(err)
	}
}

// runs proves that the VM does, now or within seconds.
func (m *machine) runs() {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.ctx, 20*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	var now struct{ Status string }
	for m.ask("query-status", &now); now.Status != "running"; m.ask("query-status", &now) {
		select {
		case <-tick.C:
		case <-ctx.Done():
			m.t.Fatalf("the VM is %s", now.Status)
		}
	}
}

// A disk that is plugged in while a run reads is named in the point, and is in the next.
func TestPluggedDuringRun(t *testing.T) {
	t.Parallel()
	m := newMachine(t, snapshot.FormatQcow2, "64M")
	m.io("write -P 1 0 4M")
	path := filepath.Join(m.dir, "new.qcow2")
	m.tool("qemu-img", "create", "-q", "-f", "qcow2", path, "1M")
	plugged := false
	m.hear = func(e agent.Event) {
		if e.Step != agent.StepReading || plugged {
			return
		}
		plugged = true
		m.plug(path)
	}
	res := m.backup(exitWarnings)
	m.hear = nil
	if len(res.Point.Disks) != 1 || !slices.ContainsFunc(res.Point.Excluded, func(x snapshot.Excluded) bool { return x.Disk.Name == "new0" }) ||
		!strings.Contains(strings.Join(res.Warnings, " "), "disk new0 is not in this point") {
		t.Errorf("%d disks, left out: %+v, warnings: %q", len(res.Point.Disks), res.Point.Excluded, res.Warnings)
	}
	if res := m.backup(exitDone); len(res.Point.Disks) != 2 {
		t.Errorf("the next point has %d disks", len(res.Point.Disks))
	}
	m.checks(exitDone, "leftovers ok")
}

// plug gives the VM another disk.
func (m *machine) plug(path string) {
	m.t.Helper()
	file := map[string]any{"driver": "file", "filename": path}
	err := m.hands.Execute(m.ctx, "blockdev-add", map[string]any{"driver": "qcow2", "node-name": "new", "file": file}, nil)
	if err == nil {
		err = m.hands.Execute(m.ctx, "device_add", map[string]any{"driver": "scsi-hd", "bus": "scsi0.0", "id": "new0", "drive": "new"}, nil)
	}
	if err != nil {
		m.t.Error(err)
	}
}
