package libvirt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/guesttest"
	"github.com/lull-backup/lull/snapshot/libvirt/rpc"
	"github.com/lull-backup/lull/snapshot/qemu"
	"github.com/lull-backup/lull/snapshot/snapshottest"
)

// run is a run of the bench's domain, taken and written to since.
type run struct {
	*bench
	t     *testing.T
	ctx   context.Context
	host  *Host
	plan  snapshot.Plan
	chain string
	files []string
	want  map[string][]byte // what the guest sees in the end
	taken map[string][]byte // what it saw at Take
}

// begin plans and prepares a run.
func (b *bench) begin(t *testing.T) *run {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	t.Cleanup(cancel)
	b.start(t)
	r := &run{bench: b, t: t, ctx: ctx, host: b.host(t), chain: b.chain(t), files: b.files(t), want: map[string][]byte{}, taken: map[string][]byte{}}
	var err error
	if r.plan, err = r.host.Plan(ctx, "web", "run"); err != nil {
		t.Fatal(err)
	}
	for _, d := range r.plan.Disks {
		r.want[d.Name] = b.content(t, d.Name)
	}
	if err := r.host.Prepare(ctx, r.plan); err != nil {
		t.Fatal(err)
	}
	return r
}

// take freezes the disks, and lets the guest write.
func (r *run) take() {
	r.t.Helper()
	if err := r.host.Take(r.ctx, r.plan); err != nil {
		r.t.Fatal(err)
	}
	r.scribble()
}

// scribble writes in every disk as the guest, each time something else.
func (r *run) scribble() {
	r.t.Helper()
	r.fill++
	for _, d := range r.plan.Disks {
		if r.taken[d.Name] == nil {
			r.taken[d.Name] = bytes.Clone(r.want[d.Name])
		}
		const off, length = 1 << 20, 2 << 20
		if err := r.write(d.Name, off, length, r.fill); err != nil {
			r.t.Fatal(err)
		}
		copy(r.want[d.Name][off:], bytes.Repeat([]byte{r.fill}, length))
	}
}

// frozen reads the frozen disks.
func (r *run) frozen(f snapshot.Frozen) {
	r.t.Helper()
	for _, d := range r.plan.Disks {
		s, err := f.Disk(r.ctx, d.Name)
		if err != nil {
			r.t.Fatal(err)
		}
		if !bytes.Equal(snapshottest.ReadAll(r.ctx, r.t, s), r.taken[d.Name]) {
			r.t.Errorf("disk %s is not as it was when it froze", d.Name)
		}
		if err := s.Close(); err != nil {
			r.t.Error(err)
		}
	}
}

// ends merges, and proves that all is as before but for what the guest wrote.
func (r *run) ends() {
	r.t.Helper()
	if err := r.host.Merge(r.ctx, r.plan); err != nil {
		r.t.Fatalf("Merge: %v", err)
	}
	r.asBefore()
	if left := r.compare(nil); len(left) > 0 {
		r.t.Errorf("left after the merge: %+v", left)
	}
}

func (r *run) asBefore() {
	r.t.Helper()
	if got := r.bench.chain(r.t); r.pid() != 0 && got != r.chain || strings.Contains(got, ".delta") {
		r.t.Errorf("chain: %s\nwas %s", got, r.chain)
	}
	if got := r.bench.files(r.t); !slices.Equal(got, r.files) {
		r.t.Errorf("files: %s\nwere %s", got, r.files)
	}
	for name, want := range r.want {
		if !bytes.Equal(r.content(r.t, name), want) {
			r.t.Errorf("disk %s does not hold what the guest wrote", name)
		}
	}
}

// restart brings the daemon back.
func (r *run) restart() {
	r.t.Helper()
	if err := r.daemon.Restart(r.ctx); err != nil {
		r.t.Fatal(err)
	}
	r.conn = r.daemon.Dial(r.whole)
}

// slow begins the commit that Merge would begin, too slowly to end.
func (r *run) slow() {
	r.t.Helper()
	disk := r.plan.Disks[0].Name
	err := r.conn.BlockCommit(r.ctx, r.dom.ID, disk, "", "", 64<<10, rpc.CommitActive|rpc.CommitShallow|rpc.CommitBandwidthBytes)
	if err != nil {
		r.t.Fatal(err)
	}
	r.stamp("frozen", "commit")
}

// stamp changes a word of the first disk's stamp.
func (r *run) stamp(from, to string) {
	r.t.Helper()
	path := r.plan.Disks[0].Delta + ".stamp"
	text, err := os.ReadFile(path)
	if err == nil && !strings.Contains(string(text), from) {
		err = fmt.Errorf("stamp %q, want %s", text, from)
	}
	if err == nil {
		err = os.WriteFile(path, []byte(strings.Replace(string(text), from, to, 1)), 0o600)
	}
	if err != nil {
		r.t.Fatal(err)
	}
}

// TestTrouble goes through what can happen to libvirt's daemon and to the domain in the
// middle of a run. The cases share a domain.
func TestTrouble(t *testing.T) {
	t.Parallel()
	b := newBench(t, true, guesttest.Disk{Size: diskSize}, guesttest.Disk{Size: diskSize, Format: snapshot.FormatRaw})
	for _, c := range []struct {
		name string
		run  func(*run)
	}{
		{"DaemonDiesBeforeTake", (*run).daemonDiesBeforeTake},
		{"DaemonDiesInTake", (*run).daemonDiesInTake},
		{"Unaware", (*run).unaware},
		{"DaemonDiesWhileReading", (*run).daemonDiesWhileReading},
		{"DaemonDiesInMerge", (*run).daemonDiesInMerge},
		{"DaemonDiesAndCrash", (*run).daemonDiesAndCrash},
		{"CrashUnseen", (*run).crashUnseen},
		{"CrashInMerge", (*run).crashInMerge},
		{"OffInMerge", (*run).offInMerge},
		{"StartedFromDelta", (*run).startedFromDelta},
		{"StartedInMerge", (*run).startedInMerge},
		{"Saved", (*run).saved},
		{"Pivoted", (*run).pivoted},
		{"Halfway", (*run).halfway},
		{"MergedThenDied", (*run).mergedThenDied},
		{"Redefined", (*run).redefined},
		{"AnotherLayer", (*run).anotherLayer},
		{"SnapshotInDelta", (*run).snapshotInDelta},
		{"Served", (*run).servedByQEMU},
		{"Told", (*run).told},
		{"JournalLost", (*run).journalLost},
		{"Dangling", (*run).dangling},
		{"ManagedSave", (*run).managedSaved},
		{"Renamed", (*run).renamed},
		{"Copied", (*run).copied},
		{"Undefined", (*run).undefined},
	} {
		t.Run(c.name, func(t *testing.T) {
			b.t = t
			c.run(b.begin(t))
		})
	}
}

func (r *run) daemonDiesBeforeTake() {
	r.daemon.Kill()
	r.restart()
	r.take()
	r.ends()
}

// QEMU has opened a delta: the snapshot has begun, and may have happened or not.
func (r *run) daemonDiesInTake() {
	taken := make(chan error, 1)
	go func() { taken <- r.host.Take(r.ctx, r.plan) }()
	fds := fmt.Sprintf("/proc/%d/fd", r.pid())
	eventually(r.t, "snapshot", func() error {
		open, err := os.ReadDir(fds)
		for _, fd := range open {
			if path, err := os.Readlink(filepath.Join(fds, fd.Name())); err == nil && strings.HasSuffix(path, ".delta") {
				return nil
			}
		}
		return errors.Join(errors.New("no delta is open"), err)
	})
	r.daemon.Kill()
	r.t.Logf("Take: %v", <-taken)
	r.restart()
	r.ends()
}

// QEMU has taken the snapshot, and libvirt has died before it noted that: QEMU is asked here
// as libvirt asks it.
func (r *run) unaware() {
	var actions []map[string]any
	for _, d := range r.plan.Disks {
		on, err := r.at(d.Name)
		if err != nil {
			r.t.Fatal(err)
		}
		delta := "forgotten-" + d.Name
		err = r.monitor("blockdev-add", map[string]any{"node-name": delta, "driver": "qcow2", "backing": nil,
			"file": map[string]any{"driver": "file", "filename": d.Delta}}, nil)
		if err != nil {
			r.t.Fatal(err)
		}
		actions = append(actions, map[string]any{"type": "blockdev-snapshot", "data": map[string]any{"node": on.Inserted.Node, "overlay": delta}})
	}
	if err := r.monitor("transaction", map[string]any{"actions": actions}, nil); err != nil {
		r.t.Fatal(err)
	}
	r.scribble()
	r.ends()
}

func (r *run) daemonDiesWhileReading() {
	r.take()
	f, err := r.host.Open(r.ctx, r.plan)
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(r.ctx)
	watched := make(chan error, 1)
	go func() { watched <- f.Watch(ctx) }()
	r.daemon.Kill()
	r.frozen(f)
	r.restart()
	r.scribble()
	r.frozen(f)
	cancel()
	if err := <-watched; !errors.Is(err, context.Canceled) {
		r.t.Errorf("Watch: %v", err)
	}
	if err := f.Close(); err != nil {
		r.t.Error(err)
	}
	r.ends()
}

// The job goes on in QEMU; Merge waits for the daemon, and finds it.
func (r *run) daemonDiesInMerge() {
	r.take()
	r.slow()
	merged := make(chan error, 1)
	go func() { merged <- r.host.Merge(r.ctx, r.plan) }()
	r.daemon.Kill()
	r.restart()
	r.speedUp()
	if err := <-merged; err != nil {
		r.t.Errorf("Merge: %v", err)
	}
	r.ends()
}

// speedUp lets a slow commit end.
func (r *run) speedUp() {
	r.t.Helper()
	if err := r.conn.SetBlockJobSpeed(r.ctx, r.dom.ID, r.plan.Disks[0].Name, 0); err != nil && r.ctx.Err() != nil {
		r.t.Fatal(err)
	}
}

// QEMU dies while the daemon is away: that finds it gone when it comes back.
func (r *run) daemonDiesAndCrash() {
	r.take()
	r.daemon.Kill()
	r.killQEMU()
	r.restart()
	r.ends()
}

// QEMU dies right before the merge: libvirt refuses commands before it tells of the end.
func (r *run) crashUnseen() {
	r.take()
	if err := syscall.Kill(r.pid(), syscall.SIGKILL); err != nil {
		r.t.Fatal(err)
	}
	r.ends()
}

// A half written image is written again.
func (r *run) crashInMerge() {
	r.take()
	r.slow()
	r.crash(r.t)
	r.ends()
	r.start(r.t)
	r.asBefore()
}

// As it is when the guest powers off: QEMU ends in good order, with the image half written.
func (r *run) offInMerge() {
	r.take()
	r.slow()
	if err := r.conn.Destroy(r.ctx, r.dom.ID, true); err != nil {
		r.t.Fatal(err)
	}
	r.ends()
}

// libvirt starts the domain from the delta, as its definition says.
func (r *run) startedFromDelta() {
	r.take()
	r.crash(r.t)
	r.start(r.t)
	r.scribble()
	r.ends()
}

// starter starts the domain right before its definition is put right.
type starter struct {
	qemu.Manager
	start func()
}

func (s starter) Settled(ctx context.Context, d snapshot.DiskPlan) error {
	s.start()
	return s.Manager.Settled(ctx, d)
}

// A start from a delta that is merged is refused, and goes through after that.
func (r *run) startedInMerge() {
	r.take()
	r.crash(r.t)
	mgr := starter{r.domain(), func() {
		if _, err := r.conn.Create(r.ctx, r.dom.ID, rpc.StartPaused); err == nil || !strings.Contains(err.Error(), "lock") {
			r.t.Errorf("started from a delta in its merge: %v", err)
		}
	}}
	h := qemu.NewHost([]qemu.VM{{Name: "web", Manager: mgr}}, r.host.opt)
	defer h.Close()
	if err := h.Merge(r.ctx, r.plan); err != nil {
		r.t.Errorf("Merge: %v", err)
	}
	r.start(r.t)
	r.ends()
}

// A domain that was saved into a file goes on from there, with its delta.
func (r *run) saved() {
	r.take()
	file := filepath.Join(r.t.TempDir(), "saved")
	if err := r.conn.Save(r.ctx, r.dom.ID, file, "", 0); err != nil {
		r.t.Fatal(err)
	}
	var hinted *snapshot.Hinted
	if err := r.host.Merge(r.ctx, r.plan); !errors.Is(err, snapshot.ErrBusy) || !errors.As(err, &hinted) || !strings.Contains(hinted.Next, "virsh restore") {
		r.t.Errorf("Merge: %v", err)
	}
	if err := r.conn.Restore(r.ctx, file, "", rpc.SavePaused); err != nil {
		r.t.Fatal(err)
	}
	r.scribble()
	r.ends()
}

// Somebody else has moved the domain back, with all that the delta held.
func (r *run) pivoted() {
	r.take()
	for _, d := range r.plan.Disks {
		err := r.domain().Commit(r.ctx, quiet{}, d, untold())
		if err != nil {
			r.t.Fatal(err)
		}
	}
	if err := r.host.Merge(r.ctx, r.plan); !errors.Is(err, snapshot.ErrDiverged) {
		r.t.Errorf("Merge of a delta whose pivot lull did not order: %v", err)
	}
	for _, d := range r.plan.Disks {
		text, err := os.ReadFile(d.Delta + ".stamp")
		if err == nil {
			err = os.WriteFile(d.Delta+".stamp", bytes.Replace(text, []byte("frozen"), []byte("pivot"), 1), 0o600)
		}
		if err != nil {
			r.t.Fatal(err)
		}
	}
	r.ends()
}

// QEMU ends as the domain moves back: if both layers say the same nothing is lost, else
// nobody can tell which is newer.
func (r *run) halfway() {
	r.take()
	r.crash(r.t)
	r.stamp("frozen", "pivot")
	if err := r.host.Merge(r.ctx, r.plan); !errors.Is(err, snapshot.ErrUncertain) {
		r.t.Errorf("Merge: %v", err)
	}
	if !strings.Contains(r.bench.chain(r.t), ".delta") {
		r.t.Error("the definition has left a delta that holds writes")
	}
	r.stamp("pivot", "frozen")
	r.ends()
}

// Everything was done but to remove the file.
func (r *run) mergedThenDied() {
	r.take()
	r.crash(r.t)
	kept := filepath.Join(r.dom.Dir, "kept")
	d := r.plan.Disks[0]
	for _, suffix := range []string{"", ".stamp"} {
		shell(r.t, "cp", "--preserve", d.Delta+suffix, kept+suffix)
	}
	if err := r.host.Merge(r.ctx, r.plan); err != nil {
		r.t.Fatal(err)
	}
	for _, suffix := range []string{"", ".stamp"} {
		shell(r.t, "mv", kept+suffix, d.Delta+suffix)
	}
	if err := r.host.Merge(r.ctx, r.plan); !errors.Is(err, snapshot.ErrDiverged) {
		r.t.Errorf("Merge of a delta whose image has changed: %v", err)
	}
	r.stamp("frozen", "merged")
	r.ends()
}

// Somebody has put the image back into the definition, but nothing was started from it.
func (r *run) redefined() {
	r.take()
	r.crash(r.t)
	r.edit(func(xml string) string {
		l, err := parseDisks(xml)
		if err == nil {
			xml, err = l.retarget(r.plan.Disks[0])
		}
		if err != nil {
			r.t.Fatal(err)
		}
		return xml
	})
	r.ends()
}

// A user's own snapshot lies upon the delta.
func (r *run) anotherLayer() {
	r.take()
	over := r.plan
	over.Disks = slices.Clone(over.Disks)[:1]
	over.Disks[0].Delta = filepath.Join(r.dom.Dir, "user.qcow2")
	shell(r.t, "qemu-img", "create", "-q", "-f", "qcow2", "-b", r.plan.Disks[0].Delta, "-F", "qcow2", "-u", over.Disks[0].Delta, fmt.Sprint(diskSize))
	if err := r.domain().Freeze(r.ctx, over); err != nil {
		r.t.Fatal(err)
	}
	if err := r.host.Merge(r.ctx, r.plan); !errors.Is(err, snapshot.ErrBusy) {
		r.t.Errorf("Merge below another layer: %v", err)
	}
	r.buriedOff(over.Disks[0].Delta)
	if err := r.domain().Commit(r.ctx, quiet{}, over.Disks[0], untold()); err != nil {
		r.t.Fatal(err)
	}
	if err := os.Remove(over.Disks[0].Delta); err != nil {
		r.t.Fatal(err)
	}
	r.ends()
}

// buriedOff: off, the domain starts from a layer whose delta is still needed, whatever the
// stamp says; and so does one that was defined by a copy of its definition.
func (r *run) buriedOff(layer string) {
	r.crash(r.t)
	r.busy("blockcommit web " + r.plan.Disks[0].Name)
	r.stamp("frozen", "pivot")
	r.busy("blockcommit web " + r.plan.Disks[0].Name)
	r.stamp("pivot", "frozen")
	if !strings.Contains(r.bench.chain(r.t), layer) {
		r.t.Errorf("the domain's layer has gone: %s", r.bench.chain(r.t))
	}
	gone := identity{uuid: rpc.UUID{1}, name: "gone"}
	d := r.host.domain(gone)
	defer d.link.end()
	if err := d.Settled(r.ctx, r.plan.Disks[0]); !errors.Is(err, snapshot.ErrBusy) {
		r.t.Errorf("a delta under another domain's layer: %v", err)
	}
	r.start(r.t)
}

// QEMU serves what lull cannot read, over a socket that was passed through libvirt.
func (r *run) servedByQEMU() {
	for i := range r.plan.Disks {
		r.plan.Disks[i].Local = false
	}
	r.take()
	f, err := r.host.Open(r.ctx, r.plan)
	if err != nil {
		r.t.Fatal(err)
	}
	r.frozen(f)
	if err := f.Close(); err != nil {
		r.t.Error(err)
	}
	r.ends()
}

// The domain becomes a transient one, which is gone with its QEMU. It is the last case.
func (r *run) undefined() {
	r.take()
	text, err := r.conn.XML(r.ctx, r.dom.ID, rpc.XMLInactive|rpc.XMLSecure)
	if err == nil {
		err = r.conn.Undefine(r.ctx, r.dom.ID, 0)
	}
	if err != nil {
		r.t.Fatal(err)
	}
	r.killQEMU()
	eventually(r.t, "end of the domain", func() error {
		if _, err := r.conn.Lookup(r.ctx, "web"); errors.Is(err, snapshot.ErrNotFound) {
			return nil
		}
		return errors.New("it is there")
	})
	if err := r.host.Merge(r.ctx, r.plan); err != nil {
		r.t.Errorf("Merge: %v", err)
	}
	if r.dom.ID, err = r.conn.Define(r.ctx, r.withImages(text)); err != nil {
		r.t.Fatal(err)
	}
	r.asBefore()
}
