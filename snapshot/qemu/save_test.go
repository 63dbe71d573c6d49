package qemu

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/qmp"
	"github.com/lull-backup/lull/snapshot/snapshottest"
	"github.com/lull-backup/lull/snapshot/space"
)

// savable is a run of a VM whose guest writes all the time; options are QEMU's.
func savable(t *testing.T, s shape, options ...string) *run {
	t.Helper()
	r := newRun(t, s, func(v *testVM) { v.boot, v.ejected, v.more = writingGuest(), true, options })
	r.ask("cont", nil, nil)
	r.goesOn()
	return r
}

func savedVM() shape { return shape{format: snapshot.FormatQcow2, bus: "virtio", disks: 2} }

func untold(snapshot.Moment) {}

// saving is what TakeSaved begins with.
func (r *run) saving(f io.WriterAt) *saving {
	s := r.host.newSaving(r.ctx, r.plan, untold)
	s.f = f
	return s
}

func (r *run) runState() string {
	r.t.Helper()
	var s struct{ Status string }
	r.ask("query-status", nil, &s)
	return s.Status
}

func (r *run) bandwidth() int64 {
	r.t.Helper()
	var now struct {
		Bandwidth int64 `json:"max-bandwidth"`
	}
	r.ask("query-migrate-parameters", nil, &now)
	return now.Bandwidth
}

// unsaved proves that the guest runs, and that no state is there after Merge.
func (r *run) unsaved() {
	r.t.Helper()
	if s := r.runState(); s != "running" {
		r.t.Errorf("the VM is %s", s)
	}
	r.goesOn()
	if err := r.merge(); err != nil {
		r.t.Fatalf("Merge: %v", err)
	}
	r.noState()
	r.goesOn()
}

func (r *run) noState() {
	r.t.Helper()
	for _, path := range r.files(r.t) {
		if strings.Contains(filepath.Base(path), ".lull-") {
			r.t.Errorf("left behind: %s", path)
		}
	}
}

// onStop calls fn when QEMU stops the VM.
func (r *run) onStop(fn func()) (wait func()) {
	sub := r.hands.Subscribe("STOP")
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer sub.Close()
		select {
		case <-sub.Events():
			fn()
		case <-r.ctx.Done():
		}
	}()
	return func() { <-done }
}

func TestSaverConformance(t *testing.T) {
	t.Parallel()
	for _, s := range []shape{savedVM(), {format: snapshot.FormatRaw, drive: true, bus: "scsi", disks: 1}} {
		t.Run(s.String(), func(t *testing.T) {
			t.Parallel()
			snapshottest.RunSaver(t, func(t *testing.T) *snapshottest.Fixture {
				v := mountedVM(t, s, func(v *testVM) { v.ejected = true })
				if err := v.hands.Execute(t.Context(), "cont", nil, nil); err != nil {
					t.Fatal(err)
				}
				return v.fixture()
			})
		})
	}
}

// ways are how a state can be written: while the guest goes on, or while it stands still, as
// an older QEMU has it, and a newer one whose kernel refuses.
func ways() []string { return []string{"background", "standing", "refused"} }

// savableBy is a VM whose state is written in a way.
func savableBy(t *testing.T, s shape, way string, options ...string) *run {
	t.Helper()
	s.newer = way != "standing"
	r := savable(t, s, options...)
	if way == "refused" {
		r.ask("migrate-set-capabilities", args{"capabilities": []args{{"capability": "xbzrle", "state": true}}}, nil)
	}
	return r
}

// untuned proves that QEMU's migrations are set up as before the run.
func (r *run) untuned() {
	r.t.Helper()
	if now := r.bandwidth(); now != r.plan.Saved.Bandwidth || now == 0 {
		r.t.Errorf("migration bandwidth was %v, is %v", r.plan.Saved.Bandwidth, now)
	}
	var abilities []struct {
		Capability string
		State      bool
	}
	r.ask("query-migrate-capabilities", nil, &abilities)
	for _, a := range abilities {
		if a.State && a.Capability == "background-snapshot" {
			r.t.Error("background snapshots are still on")
		}
	}
}

func (r *run) version() (v qmp.Version) {
	r.t.Helper()
	err := r.host.during(r.ctx, r.plan, func(m *monitor) error {
		v = m.Version()
		return nil
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return v
}

func TestTakeSaved(t *testing.T) {
	t.Parallel()
	for _, s := range []shape{
		savedVM(),
		{format: snapshot.FormatRaw, drive: true, bus: "scsi", disks: 1},
		{format: snapshot.FormatQcow2, bus: "iothread", disks: 1, backing: true},
	} {
		for _, way := range ways() {
			t.Run(s.String()+"/"+way, func(t *testing.T) {
				t.Parallel()
				savableBy(t, s, way).saves(way)
			})
		}
	}
}

// saves is a run that goes well.
func (r *run) saves(way string) {
	t := r.t
	t.Helper()
	// Also with a newer QEMU as the host's own.
	background := way != "refused" && !forgets(r.version())
	var moments []string
	reached := func(m snapshot.Moment) {
		moments = append(moments, r.runState())
		if m == snapshot.MomentGoesOn && background {
			var now struct{ Status string }
			r.ask("query-migrate", nil, &now) // where the state is small, it may be written already
			moments = append(moments, now.Status)
		}
	}
	how, err := r.host.TakeSaved(r.ctx, r.plan, reached)
	if err != nil {
		t.Fatal(err)
	}
	if how.Background != background || how.Background != (how.Why == "") {
		t.Errorf("the memory was saved %+v", how)
	}
	want := [][]string{{"paused", "running"}, {"paused", "running", "active"}, {"paused", "running", "completed"}}
	if !slices.ContainsFunc(want, func(w []string) bool { return slices.Equal(w, moments) && (len(w) == 3) == background }) {
		t.Errorf("at its moments the VM was %v", moments)
	}
	r.untuned()
	r.hasState()
	r.unsaved()
}

// hasState reads what was saved.
func (r *run) hasState() {
	t := r.t
	t.Helper()
	f, err := r.host.Open(r.ctx, r.plan)
	if err != nil {
		t.Fatal(err)
	}
	src, err := f.(snapshot.FrozenState).SavedState(r.ctx)
	if err != nil {
		t.Fatal(err)
	}
	checkState(r.ctx, t, src)
	if info, err := os.Stat(r.plan.Saved.Path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("others may read the guest's memory: %v, %v", info.Mode(), err)
	}
	if err := errors.Join(src.Close(), f.Close()); err != nil {
		t.Fatal(err)
	}
}

// checkState proves that a state is the stream that QEMU wrote, which its layout has
// the sum of, and that the guest's memory lies in pages there.
func checkState(ctx context.Context, t *testing.T, src snapshot.Source) {
	t.Helper()
	at := io.NewSectionReader(readerAt{ctx, src}, 0, src.Size())
	var stream bytes.Buffer
	if err := (Definer{}).RestoreState(ctx, &stream, at, src.Size()); err != nil || !bytes.HasPrefix(stream.Bytes(), []byte("QEVM")) {
		t.Errorf("the state has %d bytes and makes a stream of %d: %v", src.Size(), stream.Len(), err)
	}
	if src.Size() < int64(stream.Len()) || src.Size() < 64<<20 {
		t.Errorf("the memory of a VM with 64 MiB is not laid out in %d bytes", src.Size())
	}
}

type readerAt struct {
	ctx context.Context
	src snapshot.Source
}

func (r readerAt) ReadAt(p []byte, off int64) (int, error) {
	if err := r.src.ReadAt(r.ctx, p, off); err != nil {
		return 0, err
	}
	return len(p), nil
}

func TestCannotSave(t *testing.T) {
	t.Parallel()
	r := savable(t, savedVM())
	check := func(want error) {
		t.Helper()
		r.wantErr(r.host.CanSave(r.ctx, r.plan), want)
		if _, err := r.host.TakeSaved(r.ctx, r.plan, untold); !errors.Is(err, want) || !errors.Is(err, snapshot.ErrNotTaken) {
			t.Errorf("TakeSaved: %v", err)
		}
	}
	r.host.opt.Space = space.LeaveFree(1 << 60)
	check(snapshot.ErrNoSpace)
	r.hinted(r.host.CanSave(r.ctx, r.plan))
	r.host.opt.Space = space.LeaveFree(1)
	ability := func(on bool) args {
		return args{"capabilities": []args{{"capability": "x-ignore-shared", "state": on}}}
	}
	r.ask("migrate-set-capabilities", ability(true), nil)
	check(snapshot.ErrUnsupported)
	r.ask("migrate-set-capabilities", ability(false), nil)
	r.ask("stop", nil, nil)
	check(snapshot.ErrUnsupported)
	if s := r.runState(); s != "paused" {
		t.Errorf("a VM that was paused is %s", s)
	}
	r.ask("cont", nil, nil)
	if err := os.WriteFile(r.plan.Saved.Path+savingSuffix, nil, 0o600); err != nil { // the file cannot be made
		t.Fatal(err)
	}
	if _, err := r.host.TakeSaved(r.ctx, r.plan, untold); !errors.Is(err, snapshot.ErrNotTaken) || !errors.Is(err, fs.ErrExist) {
		t.Errorf("TakeSaved: %v", err)
	}
	r.unsaved()
}

// A state that does not come to its end leaves a guest that runs, and frozen disks.
func TestSaveFails(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		spoil func(*testing.T, *run) (ctx context.Context, wait func())
		want  error
	}{
		"larger than its limit": {func(_ *testing.T, r *run) (context.Context, func()) {
			r.plan.Saved.Limit = 100 << 10
			return r.ctx, func() {}
		}, snapshot.ErrUnsupported},
		"larger than its limit before QEMU has answered": {func(_ *testing.T, r *run) (context.Context, func()) {
			r.plan.Saved.Limit = 100 << 10
			m := r.host.lines["web"].m
			m.Monitor = late{m.Monitor}
			return r.ctx, func() {}
		}, snapshot.ErrUnsupported},
		"no room": {func(t *testing.T, r *run) (context.Context, func()) {
			dir := filepath.Join(r.dir, "small")
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			smallFS(t, dir, "256k")
			r.plan.Saved = snapshot.SavedPlan{Path: filepath.Join(dir, "web.lull-run.state"), Limit: 1 << 10, Bandwidth: r.plan.Saved.Bandwidth}
			r.host.opt.Space = space.LeaveFree(1)
			r.plan.Saved.Limit = 200 << 10 // and another takes the room meanwhile
			return r.ctx, r.onStop(func() { fill(t, dir) })
		}, snapshot.ErrNotSaved},
		"deadline": {func(_ *testing.T, r *run) (context.Context, func()) {
			ctx, cancel := context.WithCancel(r.ctx)
			return ctx, r.onStop(cancel)
		}, context.Canceled},
		"migration fails": {func(_ *testing.T, r *run) (context.Context, func()) {
			return r.ctx, r.onStop(func() {
				for r.runState() == "paused" {
					r.ask("migrate_cancel", nil, nil)
				}
			})
		}, nil},
		"monitor dies": {func(_ *testing.T, r *run) (context.Context, func()) {
			l := r.host.lines["web"]
			return r.ctx, r.onStop(func() {
				l.mu.Lock()
				defer l.mu.Unlock()
				l.m.Close()
			})
		}, nil},
	} {
		for _, way := range ways() {
			t.Run(name+"/"+way, func(t *testing.T) {
				t.Parallel()
				r := savableBy(t, savedVM(), way)
				ctx, wait := c.spoil(t, r)
				_, err := r.host.TakeSaved(ctx, r.plan, untold)
				wait()
				if c.want != nil {
					r.wantErr(err, c.want)
				}
				t.Logf("%v", err)
				r.goesOn()
				r.untuned()
				r.unsaved()
			})
		}
	}
}

// late is the monitor of a QEMU that migrates, and answers no sooner than it is given up.
type late struct{ qmp.Monitor }

func (l late) Execute(ctx context.Context, command string, arguments, result any) error {
	err := l.Monitor.Execute(ctx, command, arguments, result)
	if command == "migrate" && err == nil {
		<-ctx.Done()
		err = ctx.Err()
	}
	return err
}

// The disk that the state goes to hangs: at the deadline the guest goes on all the same.
func TestSaveHangs(t *testing.T) {
	t.Parallel()
	r := savable(t, savedVM())
	marker, err := createState(r.plan.Saved)
	if err != nil {
		t.Fatal(err)
	}
	defer marker.Close()
	disk := hungDisk{make(chan struct{})}
	s := r.saving(disk)
	ctx, cancel := context.WithTimeout(r.ctx, 2*time.Second)
	defer cancel()
	done, err := r.host.whileStopped(ctx, r.plan, s)
	if done != diskFrozen {
		t.Error("the disks are not frozen")
	}
	if r.bandwidth() != stateBandwidth {
		t.Error("the guest has waited for the bandwidth of migrations to be set again")
	}
	r.wantErr(err, context.DeadlineExceeded)
	if err := r.host.resume(ctx, r.plan, nil); err != nil {
		t.Fatal(err)
	}
	if st := r.runState(); st != "running" {
		t.Errorf("the VM is %s", st)
	}
	close(disk.comesBack)
	s.writer.Wait()
	r.unsaved()
}

type hungDisk struct{ comesBack chan struct{} }

func (d hungDisk) WriteAt([]byte, int64) (int, error) {
	<-d.comesBack
	return 0, io.ErrShortWrite
}

// lull dies at any point while the VM stands still: the next start finds the marker
// and resumes it.
func TestSaveKilled(t *testing.T) {
	t.Parallel()
	for name, die := range map[string]func(*testing.T, *run, *os.File){
		"before the stop": func(*testing.T, *run, *os.File) {},
		"stopped":         func(_ *testing.T, r *run, _ *os.File) { r.ask("stop", nil, nil) },
		"frozen": func(t *testing.T, r *run, _ *os.File) {
			r.ask("stop", nil, nil)
			r.take()
		},
		"saved": func(t *testing.T, r *run, f *os.File) {
			if done, err := r.host.whileStopped(r.ctx, r.plan, r.saving(f)); err != nil || done != diskFrozen {
				t.Fatal(done, err)
			}
		},
		"saved, and the dead-man resumes": func(t *testing.T, r *run, f *os.File) {
			before := r.plan.Saved.Bandwidth
			if done, err := r.host.whileStopped(r.ctx, r.plan, r.saving(f)); err != nil || done != diskFrozen {
				t.Fatal(done, err)
			}
			if err := r.host.Resume(r.ctx, r.plan); err != nil {
				t.Fatal(err)
			}
			if now := r.bandwidth(); now != before {
				t.Errorf("migration bandwidth was %v, is %v", before, now)
			}
		},
		"while it is saved": func(t *testing.T, r *run, f *os.File) {
			must(t, r.host.during(r.ctx, r.plan, func(m *monitor) error { return m.weighAnchor(r.ctx, r.plan) }))
			r.ask("stop", nil, nil)
			r.take()
			pr, pw, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			err = r.hands.ExecuteFD(r.ctx, "getfd", args{"fdname": "half"}, nil, pw)
			if err := errors.Join(err, pw.Close()); err != nil {
				t.Fatal(err)
			}
			must(t, r.hands.Execute(r.ctx, "migrate", args{"uri": "fd:half"}, nil))
			if _, err := pr.Read(make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
			pr.Close() // as the kernel does with what a dead process had open
		},
		"with QEMU about to write": func(t *testing.T, r *run, _ *os.File) {
			given, err := os.Create(filepath.Join(r.dir, "given"))
			must(t, err)
			r.ask("stop", nil, nil)
			must(t, r.host.during(r.ctx, r.plan, func(m *monitor) error {
				return m.ExecuteFD(r.ctx, "getfd", args{"fdname": pipeName(r.plan)}, nil, given)
			}))
			must(t, given.Close())
		},
		"QEMU too": func(t *testing.T, r *run, f *os.File) {
			if _, err := r.host.whileStopped(r.ctx, r.plan, r.saving(f)); err != nil {
				t.Fatal(err)
			}
			r.kill()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := savable(t, savedVM())
			before := r.bandwidth()
			f, err := createState(r.plan.Saved)
			if err != nil {
				t.Fatal(err)
			}
			die(t, r, f)
			f.Close()
			r.host.Close()
			r.host = r.testVM.host()
			if err := r.merge(); err != nil {
				t.Fatalf("Merge: %v", err)
			}
			r.noState()
			if name != "QEMU too" {
				if now := r.bandwidth(); now != before {
					t.Errorf("migration bandwidth was %v, is %v", before, now)
				}
				if given := filepath.Join(r.dir, "given"); slices.Contains((process{pid: r.cmd.Process.Pid}).openFiles(), given) {
					t.Errorf("QEMU still has %s", given)
				}
				r.goesOn()
			}
		})
	}
}

// What a run could not take back of how it set QEMU's migrations up, its merge does; and it
// keeps no later run from saving.
func TestUntuneAgain(t *testing.T) {
	t.Parallel()
	r := savable(t, savedVM())
	r.ask("migrate-set-capabilities", args{"capabilities": []args{{"capability": backgroundSnapshot, "state": true}}}, nil)
	must(t, r.host.CanSave(r.ctx, r.plan))
	must(t, r.host.during(r.ctx, r.plan, func(m *monitor) error { return m.setBandwidth(r.ctx, r.plan, stateBandwidth) }))
	must(t, r.host.Take(r.ctx, r.plan))
	r.unsaved()
	r.untuned()
}
