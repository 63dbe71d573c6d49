package libvirt

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/guesttest"
	"github.com/lull-backup/lull/snapshot/libvirt/libvirttest"
	"github.com/lull-backup/lull/snapshot/libvirt/rpc"
)

// thaw lets a guest go on as the coordinator does: until it says that it does.
func thaw(t *testing.T, g snapshot.Guest) {
	t.Helper()
	eventually(t, "thaw", func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		if _, err := g.ThawFilesystems(ctx); err != nil {
			return err
		}
		frozen, err := g.FilesystemsFrozen(ctx)
		if err == nil && frozen {
			err = errors.New("it is frozen")
		}
		return err
	})
}

// healthy fails where the guest misses a record of what it has written. The recorder stands
// still meanwhile, so that it does not move from one log to the next while they are read.
func healthy(t *testing.T, dom *libvirttest.Domain) {
	t.Helper()
	signal := func(name string) {
		t.Helper()
		if _, err := dom.Exec(t.Context(), "/bin/sh", "-c", "kill -"+name+" $(cat /run/recorder.pid)"); err != nil {
			t.Fatal(err)
		}
	}
	signal("STOP")
	report, err := dom.Verify(t.Context())
	if err != nil || len(report.Problems) > 0 {
		t.Errorf("the guest's records: %v, %v", report.Problems, err)
	}
	signal("CONT")
}

// A real guest, which writes all the time, goes through a run in which libvirt's daemon
// dies while the guest is frozen; through one whose agent hangs; through one for whose delta
// there is no room; and through one in which its QEMU dies.
func TestGuestDomain(t *testing.T) {
	small := smallFS(t) // before the daemon has mounts of its own
	d := libvirttest.Start(t)
	conn := d.Dial(t)
	dom := libvirttest.Boot(t, d, conn, libvirttest.Options{Options: guesttest.Options{Name: "web"}})
	b := &bench{t: t, whole: t, daemon: d, conn: conn, dom: dom}
	h := b.host(t)
	g, err := h.Guest(t.Context(), "web")
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	r := &run{bench: b, t: t, ctx: t.Context(), host: h}

	r.planned("frozen")
	if n, err := g.FreezeFilesystems(r.ctx, nil); err != nil || n != 2 {
		t.Errorf("%d file systems froze: %v", n, err)
	}
	d.Kill()
	r.restart()
	dom.Conn = r.conn
	if err := h.Take(r.ctx, r.plan); err != nil {
		t.Fatal(err)
	}
	thaw(t, g)
	r.goesOn()
	r.merged()
	healthy(t, dom)

	r.planned("hung")
	hang(r.ctx, t, dom, "STOP")
	short, cancel := context.WithTimeout(r.ctx, 2*time.Second)
	began := time.Now()
	if _, err := g.FreezeFilesystems(short, nil); !errors.Is(err, snapshot.ErrGuestSilent) {
		t.Errorf("freeze of a guest whose agent hangs: %v", err)
	}
	cancel()
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("the guest was given up after %v", took)
	}
	if err := h.Take(r.ctx, r.plan); err != nil {
		t.Errorf("Take beside an agent that hangs: %v", err)
	}
	hang(r.ctx, t, dom, "CONT")
	thaw(t, g)
	r.merged()
	healthy(t, dom)

	r.outOfSpace(small)
	healthy(t, dom)

	r.folded()
	healthy(t, dom)

	r.planned("killed")
	if err := h.Take(r.ctx, r.plan); err != nil {
		t.Fatal(err)
	}
	r.goesOn()
	if err := syscall.Kill(b.pid(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := h.Merge(r.ctx, r.plan); err != nil {
		t.Fatal(err)
	}
	if _, err := g.Info(r.ctx); !errors.Is(err, snapshot.ErrGone) {
		t.Errorf("a guest that is gone: %v", err)
	}
	if err := dom.Start(r.ctx); err != nil {
		t.Fatal(err)
	}
	report, err := dom.Found(r.ctx)
	if err != nil || len(report.Problems) > 0 {
		t.Errorf("after the crash: %v, %v", report.Problems, err)
	}
	healthy(t, dom)
	r.goesBack()
}

// folded: a checkpoint goes from under a guest that writes, and then the one that it runs upon.
func (r *run) folded() {
	r.t.Helper()
	var ids []string
	for range 2 {
		c, err := r.host.CreateCheckpoint(r.ctx, "web", snapshot.NewCheckpoint{})
		if err != nil {
			r.t.Fatal(err)
		}
		ids = append(ids, c.ID)
		r.goesOn()
	}
	for _, id := range ids {
		if err := r.host.DeleteCheckpoints(r.ctx, "web", id, false); err != nil {
			r.t.Fatal(err)
		}
		r.goesOn()
	}
}

// goesBack: a guest has the memory of its checkpoint, and goes on from there.
func (r *run) goesBack() {
	r.t.Helper()
	sh := func(command string) string {
		r.t.Helper()
		out, err := r.dom.Exec(r.ctx, "/bin/sh", "-c", command)
		if err != nil {
			r.t.Fatalf("%s: %v", command, err)
		}
		return string(out)
	}
	sh("touch /run/then") // which is in its memory alone
	c, err := r.host.CreateCheckpoint(r.ctx, "web", snapshot.NewCheckpoint{Memory: true})
	if err != nil {
		r.t.Fatal(err)
	}
	sh("rm /run/then")
	if _, err := r.host.ApplyCheckpoint(r.ctx, "web", c.ID, false); err != nil {
		r.t.Fatal(err)
	}
	if err := r.dom.WaitReady(r.ctx); err != nil {
		r.t.Fatal(err)
	}
	sh("ls /run/then && sync")
	if err := r.host.MergeCheckpoints(r.ctx, "web"); err != nil {
		r.t.Fatal(err)
	}
	sh("ls /run/then && sync")
}

// smallFS is a folder with little room.
func smallFS(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=8m,mode=0755"); err != nil {
		t.Fatalf("mount a tmpfs (this test needs to be root): %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// outOfSpace fills the file system of the deltas: QEMU stops the guest, which is merged as it
// stands still, and goes on.
func (r *run) outOfSpace(dir string) {
	r.t.Helper()
	var err error
	if r.plan, err = r.host.Plan(r.ctx, "web", "full"); err != nil {
		r.t.Fatal(err)
	}
	for i, disk := range r.plan.Disks { // no configuration could: it is lost with the power
		r.plan.Disks[i].Delta = filepath.Join(dir, disk.Name+".lull-full.delta")
	}
	if err := r.host.Prepare(r.ctx, r.plan); err != nil {
		r.t.Fatal(err)
	}
	if err := r.host.Take(r.ctx, r.plan); err != nil {
		r.t.Fatal(err)
	}
	filler, err := os.Create(filepath.Join(dir, "filler"))
	if err != nil {
		r.t.Fatal(err)
	}
	_, err = io.Copy(filler, zeros{})
	if err = errors.Join(filler.Close(), err); !errors.Is(err, unix.ENOSPC) {
		r.t.Fatal(err)
	}
	eventually(r.t, "stop of the guest", func() error {
		state, why, err := r.conn.State(r.ctx, r.dom.ID)
		if err == nil && (state != rpc.StatePaused || why != rpc.PausedIOError) {
			err = fmt.Errorf("state %d, %d", state, why)
		}
		return err
	})
	r.merged()
	r.goesOn()
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

// planned begins a run.
func (r *run) planned(name string) {
	r.t.Helper()
	var err error
	if r.plan, err = r.host.Plan(r.ctx, "web", name); err == nil {
		err = r.host.Prepare(r.ctx, r.plan)
	}
	if err != nil {
		r.t.Fatal(err)
	}
}

// merged ends it.
func (r *run) merged() {
	r.t.Helper()
	if err := r.host.Merge(r.ctx, r.plan); err != nil {
		r.t.Fatal(err)
	}
	if chain := r.bench.chain(r.t); strings.Contains(chain, ".delta") {
		r.t.Errorf("after the merge: %s", chain)
	}
}

// goesOn waits until the guest has written more.
func (r *run) goesOn() {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.ctx, time.Minute)
	defer cancel()
	n, err := r.dom.Acked()
	if err == nil {
		err = r.dom.WaitAcked(ctx, n+20)
	}
	if err != nil {
		r.t.Fatalf("%v; chain %s", err, r.bench.chain(r.t))
	}
}

// hang stops the agent that libvirt speaks with, or lets it go on.
func hang(ctx context.Context, t *testing.T, dom *libvirttest.Domain, signal string) {
	t.Helper()
	const kill = `for p in /proc/[0-9]*; do if tr '\0' ' ' <$p/cmdline | grep -q 'qemu-g[a].*-t /run/agent'; then kill -$0 ${p#/proc/}; echo found; fi; done`
	out, err := dom.Exec(ctx, "/bin/sh", "-c", kill, signal)
	if err != nil || !strings.Contains(string(out), "found") {
		t.Fatalf("signal the agent: %v: %s", err, out)
	}
}
