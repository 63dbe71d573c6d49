package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lull-backup/lull/agent"
	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/guesttest"
	"github.com/lull-backup/lull/snapshot/guesttest/record"
)

// e2eLimit is generous: guests are emulated and the machine may be busy.
const e2eLimit = 8 * time.Minute

// benchLimit is for 50 runs and more.
const benchLimit = time.Hour

// lab is a real guest under load and a lull that is set up to back it up into a
// folder.
type lab struct {
	t       testing.TB
	ctx     context.Context
	guest   *guesttest.Guest
	dir     string
	config  string
	program string // the lull binary, which plugins are started from
	minFree int64  // that deltas leave; 0: the usual
	writers string // further sections of the configuration

	mu     sync.Mutex
	events []agent.Event
	hear   agent.Observer
}

func newLab(t testing.TB, o guesttest.Options) *lab {
	t.Helper()
	limit := e2eLimit
	if _, bench := t.(*testing.B); bench {
		limit = benchLimit
	}
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	l := &lab{t: t, ctx: ctx, dir: t.TempDir(), program: lullProgram(t), guest: guesttest.New(t, o)}
	l.config = filepath.Join(l.dir, "lull.yaml")
	l.write(filepath.Join(l.dir, "passphrase"), "correct horse battery staple\n")
	l.configure(l.web(), bestLevel)
	l.lull(exitDone, "init")
	return l
}

// configure writes the configuration: the VMs of host lab, and the rules of the
// one group that holds them all.
func (l *lab) configure(vms, rules string) {
	l.t.Helper()
	l.write(l.config, fmt.Sprintf(`
agent: {plugin_dir: %[1]s/plugins, state_dir: %[1]s/state, cache_dir: %[1]s/cache, socket: %[1]s/lull.sock, parallel: 1}
repositories:
  main: {dir: %[1]s/repo, passphrase_file: %[1]s/passphrase}
hosts:
  lab: {qemu: {vms: [%[2]s]}}
groups:
  nightly: {vms: ["lab/*"], repository: main, %[3]s}
%[4]s
`, l.dir, vms, rules, l.writers))
}

// web is the guest in the configuration.
func (l *lab) web() string {
	return fmt.Sprintf("{name: web, qmp: %s, guest_agent: %s}", l.guest.QMP, l.guest.Agent)
}

func (l *lab) write(path, text string) {
	l.t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		l.t.Fatal(err)
	}
}

// lullProgram is a lull of its own, to start plugins from and to be killed: this test
// binary under the name that makes it one, see TestMain.
func lullProgram(t testing.TB) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "lull")
	if err := os.Symlink(self, path); err != nil {
		t.Fatal(err)
	}
	return path
}

// lull runs a command in this process and returns what it printed.
func (l *lab) lull(want int, args ...string) string {
	l.t.Helper()
	got, stdout, stderr := l.attempt(l.ctx, args...)
	if got != want {
		l.t.Fatalf("lull %s: exit code %d, want %d\n%s%s", strings.Join(args, " "), got, want, stdout, stderr)
	}
	return stdout
}

// attempt is lull for any exit code; the end of ctx is what SIGTERM is to a
// process.
func (l *lab) attempt(ctx context.Context, args ...string) (code int, stdout, stderr string) {
	var out, diag bytes.Buffer
	app := &App{
		Stdin: strings.NewReader(""), Stdout: &out, Stderr: &diag, Env: func(string) string { return "" },
		Program: l.program, Version: "test", Cost: cheap(), Observe: l.note, MinFree: l.minFree,
	}
	code = app.Run(ctx, append([]string{"--config", l.config}, args...))
	return code, out.String(), diag.String()
}

func (l *lab) note(e agent.Event) {
	l.mu.Lock()
	l.events = append(l.events, e)
	hear := l.hear
	l.mu.Unlock()
	if hear != nil {
		hear(e)
	}
}

// result is that of the last run that ended well.
func (l *lab) result() agent.Result {
	l.t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range slices.Backward(l.events) {
		if e.Result != nil {
			return *e.Result
		}
	}
	l.t.Fatal("no run ended well")
	return agent.Result{}
}

// sum hashes an image file as it lies on disk.
func (l *lab) sum(path string) (sum [sha256.Size]byte) {
	l.t.Helper()
	f, err := os.Open(path)
	if err != nil {
		l.t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		l.t.Fatal(err)
	}
	h.Sum(sum[:0])
	return sum
}

// acked is the last record that the guest's program knows to be on its disks.
func (l *lab) acked() uint64 {
	l.t.Helper()
	n, err := l.guest.Acked()
	if err != nil {
		l.t.Fatal(err)
	}
	return n
}

// goesOn proves that the guest writes.
func (l *lab) goesOn() {
	l.t.Helper()
	if err := l.guest.WaitAcked(l.ctx, l.acked()+10); err != nil {
		l.t.Fatal("the guest does not write:", err)
	}
}

// tidy proves that nothing of a run is left: no file beside the disks that was
// not there, no journal entry, and no gap in what the guest wrote.
func (l *lab) tidy() {
	l.t.Helper()
	l.goesOn()
	patterns := []string{filepath.Join(l.dir, "state", "runs", "*")}
	for _, disk := range l.guest.Disks {
		patterns = append(patterns, filepath.Join(filepath.Dir(disk), "*lull*"), filepath.Join(filepath.Dir(disk), ".*lull*"))
	}
	for _, pattern := range patterns {
		if left, err := filepath.Glob(pattern); err != nil || len(left) > 0 {
			l.t.Errorf("left behind: %q, %v", left, err)
		}
	}
	l.whole()
}

// whole stops the guest's program between two records and checks all of them.
func (l *lab) whole() {
	l.t.Helper()
	l.inGuest("kill -STOP $(cat /run/recorder.pid)")
	report, err := l.guest.Verify(l.ctx)
	if err == nil {
		err = report.Err()
	}
	if err != nil {
		l.t.Error("the guest's own log:", err)
	}
	l.inGuest("kill -CONT $(cat /run/recorder.pid)")
}

func (l *lab) inGuest(script string) {
	l.t.Helper()
	if _, err := l.guest.Exec(l.ctx, "/bin/sh", "-c", script); err != nil {
		l.t.Fatal(err)
	}
}

// compare holds two images against each other with QEMU's own eyes.
func (l *lab) compare(format snapshot.Format, a, b string) {
	l.t.Helper()
	cmd := exec.CommandContext(l.ctx, "qemu-img", "compare", "-f", string(format), "-F", string(format), a, b)
	if out, err := cmd.CombinedOutput(); err != nil {
		l.t.Errorf("qemu-img compare %s %s: %v: %s", filepath.Base(a), filepath.Base(b), err, out)
	}
}

// start runs the script that came with a restored VM; ended is closed when the VM has
// ended, which stop, or the end of the test, sees to.
func (l *lab) start(dir string) (stop func(), ended <-chan struct{}) {
	l.t.Helper()
	cmd := exec.CommandContext(l.ctx, filepath.Join(dir, "boot.sh"))
	cmd.Env = append(os.Environ(), "LULL_ACCEL=tcg,thread=multi")
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		l.t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = cmd.Wait() // killed: an error tells nothing
	}()
	stop = func() {
		_ = cmd.Process.Kill() // the script has become QEMU
		<-done
	}
	l.t.Cleanup(func() {
		stop()
		if l.t.Failed() {
			l.t.Logf("boot.sh: %s", &said)
		}
	})
	return stop, done
}

// boot starts a restored VM by the script that came with it, and proves that it holds
// every record up to upTo, none torn. It returns the socket of the guest's agent.
func (l *lab) boot(dir string, upTo uint64) (agent string) {
	l.t.Helper()
	_, ended := l.start(dir)
	agent = filepath.Join(dir, "qga.sock")
	found := l.awaitFound(agent, ended)
	if err := found.Err(); err != nil {
		l.t.Fatal("the restored guest's log:", err)
	}
	if found.Last() < upTo {
		l.t.Errorf("record %d was written before the freeze, the restored log ends with %d", upTo, found.Last())
	}
	for _, log := range found.Logs {
		if log.Torn != 0 {
			l.t.Errorf("%s: %d torn records", log.Path, log.Torn)
		}
	}
	return agent
}

// awaitFound waits until a restored guest has looked at its disks.
func (l *lab) awaitFound(agent string, ended <-chan struct{}) record.Report {
	l.t.Helper()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		found, err := guesttest.Found(l.ctx, agent)
		if err == nil {
			return found
		}
		select {
		case <-tick.C:
		case <-ended:
			l.t.Fatal("the restored VM has ended:", err)
		case <-l.ctx.Done():
			l.t.Fatal("the restored VM does not come up:", err)
		}
	}
}

// TestGuestNight is the main job, on a real guest that writes all the time: the frozen
// chain does not move, the guest loses nothing, and what comes back is equal, byte
// for byte, and boots by its own script, with nothing left of what it was made from.
func TestGuestNight(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]guesttest.Options{
		"qcow2-blk-blockdev-uefi": {UEFI: true, Disks: []guesttest.Disk{{}, {}}},
		"raw-scsi-drive": {Disks: slices.Repeat([]guesttest.Disk{
			{Format: snapshot.FormatRaw, Bus: guesttest.VirtioSCSI, Style: guesttest.StyleDrive}}, 2)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			night(t, o)
		})
	}
}

func night(t *testing.T, o guesttest.Options) {
	l := newLab(t, o)
	var before, atThaw uint64
	var variables firmware
	sums := map[string][sha256.Size]byte{}
	saved := map[string]string{}
	l.hear = func(e agent.Event) {
		switch e.Step {
		case agent.StepPrepared:
			before = l.acked()
			variables.set(l, "before")
		case agent.StepTaken:
			variables.look(l)
		case agent.StepThawed:
			atThaw = l.acked()
			variables.set(l, "after")
			for _, path := range l.guest.Disks {
				sums[path] = l.sum(path)
			}
		case agent.StepRead:
			if err := l.guest.WaitAcked(l.ctx, atThaw+20); err != nil {
				t.Error("the guest does not write while it is read:", err)
			}
			for _, path := range l.guest.Disks {
				if l.sum(path) != sums[path] {
					t.Errorf("%s moved while the guest wrote", filepath.Base(path))
				}
				saved[path] = filepath.Join(l.dir, filepath.Base(path))
				l.copy(path, saved[path])
			}
		}
	}
	l.lull(exitDone, "backup", "lab/web")
	l.hear = nil
	l.tidy()
	point := l.result().Point
	if len(point.Disks) != 2 || point.Quiesce.Window <= 0 {
		t.Fatalf("the point has %d disks and a window of %v", len(point.Disks), point.Quiesce.Window)
	}
	l.lull(exitDone, "check", "--all")

	to := filepath.Join(l.dir, "other-host")
	l.lull(exitDone, "restore", "web", "--to", to)
	for i, path := range l.guest.Disks {
		l.compare(l.guest.Format(i), saved[path], filepath.Join(to, filepath.Base(path)))
	}
	variables.restored(l, to)
	l.destroy()
	variables.read(l, l.boot(to, before))
}

// destroy ends the guest and removes all that it was made of.
func (l *lab) destroy() {
	l.t.Helper()
	l.guest.Kill()
	if err := os.RemoveAll(l.guest.Dir); err != nil {
		l.t.Fatal(err)
	}
}

func (l *lab) copy(from, to string) {
	l.t.Helper()
	data, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, data, 0o600)
	}
	if err != nil {
		l.t.Error(err)
	}
}
