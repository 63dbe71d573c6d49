package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lull-backup/lull/agent/journal"
	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/guesttest"
	"github.com/lull-backup/lull/snapshot/libvirt"
	"github.com/lull-backup/lull/snapshot/libvirt/domainxml"
	"github.com/lull-backup/lull/snapshot/libvirt/libvirttest"
	"github.com/lull-backup/lull/snapshot/libvirt/rpc"
)

const nightly = `<lull:backup xmlns:lull='` + domainxml.Namespace + `'><lull:tag>nightly</lull:tag></lull:backup>`

// configureLibvirt writes a configuration for a daemon.
func (b *bench) configureLibvirt(d *libvirttest.Daemon) {
	b.t.Helper()
	b.app.TPMDir, b.app.MinFree, b.app.Cost = d.Outside(libvirt.DefaultTPMDir), -1, cheap()
	b.app.Program = lullProgram(b.t)
	text := fmt.Sprintf(`
agent: {plugin_dir: %[1]s/plugins, state_dir: %[1]s/state, cache_dir: %[1]s/cache, socket: %[1]s/lull.sock}
repositories:
  main: {dir: %[1]s/repo}
hosts:
  kvm: {libvirt: {uri: "qemu+unix:///system?socket=%[2]s"}}
groups:
  nightly: {vms: ["tag:nightly"], repository: main, schedule: manual, consistency: {ladder: [filesystem, crash]}}
`, b.dir, d.Socket)
	b.write("lull.yaml", text)
	b.write("saved.yaml", strings.Replace(text, "[filesystem, crash]", "[saved-state]", 1))
	b.lull(exitDone, "--config", b.path("lull.yaml"), "init")
}

func (b *bench) libvirt(want int, args ...string) (stdout, stderr string) {
	b.t.Helper()
	return b.lull(want, append([]string{"--config", b.path("lull.yaml")}, args...)...)
}

// TestLibvirtOff takes a domain that is off, TPM and all, through its life.
func TestLibvirtOff(t *testing.T) {
	t.Parallel()
	d := libvirttest.Start(t)
	c := d.Dial(t)
	dom := libvirttest.Define(t, d, c, libvirttest.Options{
		Options:  guesttest.Options{Name: "Web", Disks: []guesttest.Disk{{Size: 8 << 20}}},
		OS:       "<type arch='x86_64' machine='q35'>hvm</type>",
		Metadata: nightly, Devices: "<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm><interface type='user'/>",
	})
	libvirttest.Define(t, d, c, libvirttest.Options{
		Options: guesttest.Options{Name: "other", Disks: []guesttest.Disk{{Size: 8 << 20}}}, OS: "<type arch='x86_64' machine='q35'>hvm</type>",
	})
	var err error
	if dom.ID, err = c.Create(t.Context(), dom.ID, rpc.StartPaused); err != nil { // the TPM has a state then
		t.Fatal(err)
	}
	if err := dom.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	b := newBench(t)
	b.configureLibvirt(d)

	out, _ := b.libvirt(exitDone, "vms", "--json")
	var list struct{ VMs []listedVM }
	if err := json.Unmarshal([]byte(out), &list); err != nil || len(list.VMs) != 2 || list.VMs[0].Name != "Web" ||
		list.VMs[0].State != snapshot.StateOff || len(list.VMs[0].Groups) != 1 || len(list.VMs[1].Groups) != 0 {
		t.Errorf("vms: %v\n%s", err, out)
	}
	if out, _ := b.libvirt(exitDone, "config", "check"); !strings.Contains(out, "kvm/Web") {
		t.Error(out)
	}
	b.libvirt(exitNotFound, "backup", "kvm/none")
	b.libvirt(exitDone, "backup", "tag:nightly")

	// It is there: nobody replaces it unasked, and nothing is written.
	dir := b.path("again")
	_, said := b.libvirt(exitFailed, "restore", "kvm/Web", "--to", dir, "--define", "kvm")
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) || !strings.Contains(said, "--replace-vm") {
		t.Errorf("%v\n%s", err, said)
	}
	if _, said := b.libvirt(exitUsage, "restore", "kvm/Web", "--to", dir, "--define", "qemu+ssh://root@other/system"); !strings.Contains(said, "another host") || !strings.Contains(said, "run lull's agent on that host") {
		t.Error(said)
	}
	// Another beside it.
	b.libvirt(exitDone, "restore", "kvm/Web", "--to", b.path("copy"), "--define", "kvm", "--as", "web2")
	twin := b.domain(c, "web2")
	first := b.domain(c, "Web")
	if twin.UUID() == first.UUID() || twin.Disks()[0].Path != b.path("copy/"+filepath.Base(dom.Disks[0])) || len(twin.Tags()) != 1 {
		t.Error(twin)
	}
	b.sameState(d, first.UUID(), twin.UUID())
	// It was destroyed: it comes back as itself.
	if err := c.Undefine(t.Context(), dom.ID, rpc.UndefineKeepNVRAM); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(d.Outside(libvirt.DefaultTPMDir), first.UUID())); err != nil {
		t.Fatal(err)
	}
	b.libvirt(exitDone, "restore", "kvm/Web", "--to", dir, "--define", "kvm")
	b.sameState(d, first.UUID(), twin.UUID())
	back := b.domain(c, "Web")
	if back.UUID() != first.UUID() || back.Disks()[0].Path != filepath.Join(dir, filepath.Base(dom.Disks[0])) {
		t.Error(back)
	}
	// And in the place of itself.
	b.libvirt(exitDone, "restore", "kvm/Web", "--to", b.path("third"), "--define", "kvm", "--replace-vm")
	if got := b.domain(c, "Web").Disks()[0].Path; got != b.path("third/"+filepath.Base(dom.Disks[0])) {
		t.Errorf("disk at %s", got)
	}
	id, err := c.Lookup(t.Context(), "Web")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Create(t.Context(), id, rpc.StartPaused); err != nil {
		t.Errorf("the restored domain does not start: %v", err)
	}
	if _, said := b.libvirt(exitFailed, "restore", "kvm/Web", "--to", b.path("fourth"), "--define", "kvm", "--replace-vm"); !strings.Contains(said, "runs") {
		t.Error(said)
	}
	// On a host without libvirt there is a script.
	b.libvirt(exitDone, "restore", "kvm/Web", "--to", b.path("plain"))
	script, err := os.ReadFile(b.path("plain/boot.sh"))
	if err != nil || !strings.Contains(string(script), filepath.Base(dom.Disks[0])) {
		t.Errorf("%v\n%s", err, script)
	}
	if out, _ := b.libvirt(exitDone, "doctor"); !strings.Contains(out, "libvirt "+c.Version().String()) || !strings.Contains(out, "3 domains") || !strings.Contains(out, "all is there") ||
		strings.Count(out, "leftovers") != 3 || strings.Contains(out, "not looked at") {
		t.Error(out)
	}
	b.libvirt(exitDone, "recover", "kvm/Web")
	// It runs: the point has the state of its TPM all the same.
	b.libvirt(exitWarnings, "backup", "kvm/Web")
	b.libvirt(exitDone, "restore", "kvm/Web", "--to", b.path("ran"), "--define", "kvm", "--as", "web3")
	b.sameState(d, first.UUID(), b.domain(c, "web3").UUID())
	b.domainCheckpoints(c)
	b.recoversGone()
	d.Kill()
	if _, said := b.libvirt(exitFailed, "vms"); !strings.Contains(said, "kvm") {
		t.Error(said)
	}
}

// domainCheckpoints: a domain goes back to a checkpoint, with the state of its TPM, and is on its
// disk alone in the end.
func (b *bench) domainCheckpoints(c *rpc.Conn) {
	b.t.Helper()
	before := b.domain(c, "Web").Disks()[0].Path
	b.libvirt(exitDone, "checkpoint", "create", "kvm/Web", "--name", "clean", "--no-memory")
	if now := b.domain(c, "Web").Disks()[0].Path; now == before {
		b.t.Errorf("the next start is from %s", now)
	}
	b.libvirt(exitDone, "checkpoint", "apply", "kvm/Web", "clean", "--discard")
	if out, _ := b.libvirt(exitDone, "checkpoint", "list"); !strings.Contains(out, "clean (") || !strings.Contains(out, "> now") {
		b.t.Error(out)
	}
	b.libvirt(exitDone, "checkpoint", "merge", "kvm/Web")
	if now := b.domain(c, "Web").Disks()[0].Path; now != before {
		b.t.Errorf("the next start is from %s, and was from %s", now, before)
	}
}

// recoversGone: what a run left of a domain that is there no more is found, and ended by its name
// of then.
func (b *bench) recoversGone() {
	b.t.Helper()
	state, err := journal.Open(b.path("state"))
	if err == nil {
		err = state.Write(journal.Entry{Run: "cut", VM: "kvm/gone", Plan: snapshot.Plan{Host: libvirt.Kind, VM: "gone", Run: "cut",
			State: snapshot.StateRunning, Hardware: snapshot.Hardware{UUID: "6e031fff-2c34-465b-ae84-4bf1cb261e1c"}}})
	}
	if err != nil {
		b.t.Fatal(err)
	}
	if out, _ := b.libvirt(exitFailed, "doctor"); !strings.Contains(out, "lull recover kvm/gone") {
		b.t.Error(out)
	}
	b.libvirt(exitDone, "recover", "kvm/gone")
	if left, err := state.Pending(); err != nil || len(left) > 0 {
		b.t.Errorf("pending: %+v, %v", left, err)
	}
}

func (b *bench) domain(c *rpc.Conn, name string) *domainxml.Domain {
	b.t.Helper()
	id, err := c.Lookup(b.t.Context(), name)
	if err != nil {
		b.t.Fatal(err)
	}
	text, err := c.XML(b.t.Context(), id, rpc.XMLInactive|rpc.XMLSecure)
	if err != nil {
		b.t.Fatal(err)
	}
	def, err := domainxml.Parse(text)
	if err != nil {
		b.t.Fatal(err)
	}
	return def
}

// sameState compares the TPMs of two domains.
func (b *bench) sameState(d *libvirttest.Daemon, first, second string) {
	b.t.Helper()
	all := d.Outside(libvirt.DefaultTPMDir)
	const file = "tpm2/tpm2-00.permall"
	b.sameFile(filepath.Join(all, first, file), filepath.Join(all, second, file))
}

// countsInGuest has the guest count in its memory, by a process of a number that it keeps.
const countsInGuest = `( i=0; while :; do i=$((i+1)); echo $i >/run/count; sleep 0.05; done ) >/dev/null 2>&1 & echo $! >/run/counter`

// counted is the number of that process, as long as it lives, and how far it has come.
func (b *bench) counted(dom *libvirttest.Domain) (pid, n int) {
	b.t.Helper()
	out, err := dom.Exec(b.t.Context(), "/bin/sh", "-c", `p=$(cat /run/counter) && kill -0 $p && echo $p $(cat /run/count)`)
	if err == nil {
		_, err = fmt.Sscan(string(out), &pid, &n)
	}
	if err != nil {
		b.t.Fatalf("nobody counts in the guest: %v\n%s", err, out)
	}
	return pid, n
}

// comesBack restores the VM in its own place, with its memory: libvirt keeps that, and the next
// start goes on from there.
func (b *bench) comesBack(c *rpc.Conn, dom *libvirttest.Domain) {
	b.t.Helper()
	ctx := b.t.Context()
	if _, err := dom.Exec(ctx, "/bin/sh", "-c", countsInGuest); err != nil {
		b.t.Fatal(err)
	}
	pid, before := b.counted(dom)
	out, _ := b.lull(exitDone, "--config", b.path("saved.yaml"), "backup", "kvm/web", "--json")
	if !strings.Contains(out, `"saved-state"`) {
		b.t.Errorf("its memory is not saved:\n%s", out)
	}
	if err := dom.Kill(ctx); err != nil {
		b.t.Fatal(err)
	}
	here, err := os.Getwd()
	if err != nil {
		b.t.Fatal(err)
	}
	back, err := filepath.Rel(here, b.path("back")) // libvirt is elsewhere
	if err != nil {
		b.t.Fatal(err)
	}
	_, said := b.libvirt(exitDone, "restore", "kvm/web", "--to", back, "--define", "kvm", "--replace-vm")
	if left, err := filepath.Glob(b.path("back/memory*")); err != nil || len(left) > 0 || !strings.Contains(said, "virsh start web") {
		b.t.Errorf("left: %v, %v\n%s", left, err, said)
	}
	if has, err := c.HasManagedSave(ctx, dom.ID); err != nil || !has {
		b.t.Errorf("no managed save: %v", err)
	}
	if err := dom.Start(ctx); err != nil {
		b.t.Fatal(err)
	}
	if now, n := b.counted(dom); now != pid || n < before {
		b.t.Errorf("process %d at %d counts on, it was %d at %d", now, n, pid, before)
	}
	if has, err := c.HasManagedSave(ctx, dom.ID); err != nil || has {
		b.t.Errorf("the memory could be used twice: %v", err)
	}
	// Two logs that are written meanwhile are not read at one instant. Nobody needs more of them.
	if _, err := dom.Exec(ctx, "/bin/sh", "-c", "kill -STOP $(cat /run/recorder.pid)"); err != nil {
		b.t.Fatal(err)
	}
	if report, err := dom.Verify(ctx); err != nil || len(report.Problems) > 0 {
		b.t.Errorf("the guest's records: %v, %v", report.Problems, err)
	}
}

// TestGuestLibvirt backs up a guest that runs, brings it back with its memory, and boots it as
// another.
func TestGuestLibvirt(t *testing.T) {
	t.Parallel()
	d := libvirttest.Start(t)
	c := d.Dial(t)
	dom := libvirttest.Boot(t, d, c, libvirttest.Options{Options: guesttest.Options{Name: "web", Memory: 128 << 20}, Metadata: nightly})
	b := newBench(t)
	b.configureLibvirt(d)
	out, _ := b.libvirt(exitDone, "backup", "kvm/web", "--json")
	if !strings.Contains(out, `"filesystem"`) {
		t.Errorf("not quiesced:\n%s", out)
	}
	acked, err := dom.Acked()
	if err != nil {
		t.Fatal(err)
	}
	b.libvirt(exitDone, "restore", "kvm/web", "--to", b.path("copy"), "--define", "kvm", "--as", "web2")
	b.comesBack(c, dom)
	if err := dom.Kill(t.Context()); err != nil { // both have the same sockets
		t.Fatal(err)
	}
	id, err := c.Lookup(t.Context(), "web2")
	if err != nil {
		t.Fatal(err)
	}
	second := &libvirttest.Domain{Guest: dom.Guest, Daemon: d, Conn: c, ID: id}
	if err := second.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	found, err := second.Found(t.Context())
	if err != nil || len(found.Problems) > 0 || len(found.Logs) != 2 {
		t.Errorf("the restored disks: %+v, %v (acknowledged until after the backup: %d)", found, err, acked)
	}
}
