package libvirttest

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/guesttest"
	"github.com/lull-backup/lull/snapshot/libvirt/rpc"
)

const tags = `<lull:backup xmlns:lull='https://github.com/lull-backup/lull/domain/1'><lull:tag>nightly</lull:tag></lull:backup>`

// TestDaemon asks a real daemon all that needs no guest, of a domain that is off and of one
// that stands still at its first instruction. Then the daemon dies, and hangs.
func TestDaemon(t *testing.T) {
	t.Parallel()
	d := Start(t)
	c := d.Dial(t)
	asks(t, d, c)
	commits(t, d, c)
	restarts(t, d, c)
}

func asks(t *testing.T, d *Daemon, c *rpc.Conn) {
	t.Helper()
	ctx := t.Context()
	if c.Version() < rpc.MinVersion {
		t.Errorf("version %v", c.Version())
	}
	if v, err := c.HypervisorVersion(ctx); err != nil || v < 5_000_000 {
		t.Errorf("QEMU %v, %v", v, err)
	}
	if xml, err := c.Capabilities(ctx); err != nil || !strings.Contains(xml, "<host>") {
		t.Errorf("capabilities: %v", err)
	}
	dom := Define(t, d, c, Options{Options: guesttest.Options{Name: "Web & co"}, Metadata: tags})
	all, err := c.Domains(ctx)
	if diff := cmp.Diff([]rpc.Domain{dom.ID}, all); diff != "" || err != nil {
		t.Errorf("domains: %v\n%s", err, diff)
	}
	found, err := c.Lookup(ctx, "Web & co")
	if err != nil || found != dom.ID {
		t.Errorf("lookup: %+v, %v", found, err)
	}
	if found, err = c.LookupUUID(ctx, dom.ID.UUID); err != nil || found != dom.ID {
		t.Errorf("lookup: %+v, %v", found, err)
	}
	if _, err := c.Lookup(ctx, "other"); !errors.Is(err, snapshot.ErrNotFound) {
		t.Errorf("lookup of none: %v", err)
	}
	if s, _, err := c.State(ctx, dom.ID); err != nil || s != rpc.StateShutoff {
		t.Errorf("state %d, %v", s, err)
	}
	if xml, err := c.XML(ctx, dom.ID, rpc.XMLInactive|rpc.XMLSecure); err != nil || !strings.Contains(xml, dom.Disks[0]) {
		t.Errorf("XML: %v\n%s", err, xml)
	}
	ns := "https://github.com/lull-backup/lull/domain/1"
	if m, err := c.Metadata(ctx, dom.ID, ns, rpc.AffectConfig); err != nil || !strings.Contains(m, "nightly") {
		t.Errorf("metadata: %q, %v", m, err)
	}
	err = c.SetMetadata(ctx, dom.ID, "", "lull", ns, rpc.AffectConfig)
	if _, err := c.Metadata(ctx, dom.ID, ns, rpc.AffectConfig); !rpc.HasCode(err, rpc.CodeNoDomainMetadata) {
		t.Errorf("removed metadata: %v", err)
	}
	if err != nil {
		t.Error(err)
	}
	if names, err := c.Checkpoints(ctx, dom.ID); err != nil || len(names) > 0 {
		t.Errorf("checkpoints: %v, %v", names, err)
	}
	if has, err := c.HasManagedSave(ctx, dom.ID); err != nil || has {
		t.Errorf("managed save: %v, %v", has, err)
	}
	if b, err := c.BlockInfoOf(ctx, dom.ID, "vda"); err != nil || b.Capacity != 128<<20 {
		t.Errorf("block info: %+v, %v", b, err)
	}
	if p, err := c.Stats(ctx, dom.ID, rpc.StatsState|rpc.StatsBlock, 0); err != nil || p["block.0.name"] != "vda" {
		t.Errorf("stats: %v, %v", p, err)
	}
	if _, err := c.FSFreeze(ctx, dom.ID, nil); !rpc.HasCode(err, rpc.CodeOperationInvalid) {
		t.Errorf("freeze of what is off: %v", err)
	}
	if err := c.Undefine(ctx, dom.ID, rpc.UndefineKeepNVRAM); err != nil {
		t.Error(err)
	}
}

// commits takes a snapshot of a domain that runs, hears of its commit and of the domain's end.
func commits(t *testing.T, d *Daemon, c *rpc.Conn) {
	t.Helper()
	ctx := t.Context()
	events, err := c.Subscribe(ctx, rpc.Domain{}, rpc.EventLifecycle, rpc.EventAgentLifecycle, rpc.EventBlockJob, rpc.EventBlockThreshold)
	if err != nil {
		t.Fatal(err)
	}
	dom := Define(t, d, c, Options{OS: "<type arch='x86_64' machine='q35'>hvm</type>"})
	if dom.ID, err = c.Create(ctx, dom.ID, rpc.StartPaused); err != nil {
		t.Fatal(err)
	}
	if s, _, err := c.State(ctx, dom.ID); err != nil || s != rpc.StatePaused {
		t.Errorf("state %d, %v", s, err)
	}
	if answer, err := c.Monitor(ctx, dom.ID, `{"execute":"query-status"}`); err != nil || !strings.Contains(answer, "prelaunch") {
		t.Errorf("monitor: %q, %v", answer, err)
	}
	if err := c.SetAgentTimeout(ctx, dom.ID, 5*time.Second); err != nil {
		t.Error(err)
	}
	delta := filepath.Join(dom.Dir, "vda.delta")
	_, err = c.SnapshotCreate(ctx, dom.ID, `<domainsnapshot><disks><disk name='vda' snapshot='external'><source file='`+delta+
		`'/></disk><disk name='vdb' snapshot='no'/></disks></domainsnapshot>`,
		rpc.SnapshotDiskOnly|rpc.SnapshotNoMetadata|rpc.SnapshotAtomic)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.SetBlockThreshold(ctx, dom.ID, "vda", 1<<20); err != nil {
		t.Error(err)
	}
	if err := c.BlockCommit(ctx, dom.ID, "vda", "", "", 0, rpc.CommitActive|rpc.CommitShallow); err != nil {
		t.Fatal(err)
	}
	await(t, events, func(e rpc.Event) bool {
		return e.Kind == rpc.EventBlockJob && e.Disk == "vda" && e.Detail == int32(rpc.BlockJobReady)
	})
	if job, found, err := c.BlockJobOf(ctx, dom.ID, "vda"); err != nil || !found || job.Type != rpc.BlockJobActiveCommit {
		t.Errorf("job %+v, %v, %v", job, found, err)
	}
	if err := c.BlockJobAbort(ctx, dom.ID, "vda", rpc.AbortPivot); err != nil {
		t.Fatal(err)
	}
	if xml, err := c.XML(ctx, dom.ID, 0); err != nil || strings.Contains(xml, delta) {
		t.Errorf("after the pivot: %v\n%s", err, xml)
	}
	if err := os.Remove(delta); err != nil {
		t.Error(err)
	}
	if err := dom.Kill(ctx); err != nil {
		t.Error(err)
	}
	await(t, events, func(e rpc.Event) bool {
		return e.Kind == rpc.EventLifecycle && e.Code == rpc.LifecycleStopped && e.Domain.Name == dom.Name
	})
}

// restarts kills the daemon and stops the next: clients learn it, and a new one takes over.
func restarts(t *testing.T, d *Daemon, c *rpc.Conn) {
	t.Helper()
	d.Kill()
	if _, err := c.Domains(t.Context()); !errors.Is(err, rpc.ErrClosed) {
		t.Errorf("a daemon that was killed: %v", err)
	}
	if _, err := rpc.Dial(t.Context(), d.Address(), rpc.Options{}); !errors.Is(err, snapshot.ErrUnreachable) {
		t.Errorf("connect to a daemon that was killed: %v", err)
	}
	if err := d.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	c, err := rpc.Dial(t.Context(), d.Address(), rpc.Options{Keepalive: 50 * time.Millisecond, Strikes: 3})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	d.Freeze()
	defer d.Unfreeze()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if _, err := c.Domains(ctx); !errors.Is(err, rpc.ErrSilent) {
		t.Errorf("a daemon that hangs: %v", err)
	}
}

func await(t *testing.T, s *rpc.Subscription, what func(rpc.Event) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var seen []rpc.Event
	for {
		select {
		case e := <-s.Events():
			if seen = append(seen, e); what(e) {
				return
			}
		case <-ctx.Done():
			t.Fatalf("an event is missing, there were %+v", seen)
		}
	}
}
