package agent_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lull-backup/lull/agent"
	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/image"
	"github.com/lull-backup/lull/transport/repo"
)

func (w *world) restoreJob(p repo.Point, dir string) agent.RestoreJob {
	return agent.RestoreJob{
		Repository: w.repo, Point: p, Dir: dir, Format: snapshot.FormatRaw, Images: image.Images{}, Now: time.Now, Observe: w.note,
	}
}

func (w *world) backup() repo.Point {
	w.t.Helper()
	res, err := w.runner.Backup(w.t.Context(), w.job())
	must(w.t, err)
	return res.Point
}

// list is every file below dir.
func list(t *testing.T, dir string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, "*"))
	must(t, err)
	hidden, err := filepath.Glob(filepath.Join(dir, ".*"))
	must(t, err)
	var out []string
	for _, f := range append(found, hidden...) {
		out = append(out, filepath.Base(f))
	}
	return out
}

func TestRestore(t *testing.T) {
	w := newWorld(t)
	dir := filepath.Join(t.TempDir(), "made", "for-it")
	res, err := agent.Restore(t.Context(), w.restoreJob(w.backup(), dir))
	must(t, err)
	for _, d := range res.Disks {
		got, err := os.ReadFile(d.Path)
		if err != nil || !bytes.Equal(got, w.disks[d.Name]) {
			t.Errorf("disk %s differs (%v)", d.Name, err)
		}
	}
	if diff := cmp.Diff([]string{"data.raw", "nvram", "root.raw"}, list(t, dir)); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	if res.Bytes != 7<<20 {
		t.Errorf("%d bytes written, want the half that is not zero", res.Bytes)
	}
}

func TestRestoreOverwritesOnlyWhenTold(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	precious := filepath.Join(dir, "root.raw")
	must(t, os.WriteFile(precious, []byte("precious"), 0o600))
	job := w.restoreJob(w.backup(), dir)
	if _, err := agent.Restore(t.Context(), job); !errors.Is(err, snapshot.ErrExists) {
		t.Fatalf("error %v", err)
	}
	if got, err := os.ReadFile(precious); err != nil || string(got) != "precious" {
		t.Errorf("the file that was there is now %q, %v", got, err)
	}
	job.Overwrite = true
	_, err := agent.Restore(t.Context(), job)
	must(t, err)
	if got, err := os.ReadFile(precious); err != nil || !bytes.Equal(got, w.disks["root"]) {
		t.Errorf("not replaced (%v)", err)
	}
}

func TestCancelledRestoreLeavesNothing(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	job := w.restoreJob(w.backup(), dir)
	job.Observe = func(e agent.Event) {
		if e.Step == agent.StepWriting {
			cancel()
		}
	}
	if _, err := agent.Restore(ctx, job); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	if left := list(t, dir); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// partials opens what a restore has written so far under names of its own.
func partials(t *testing.T, dir string) (open []*os.File) {
	t.Helper()
	for _, name := range list(t, dir) {
		f, err := os.Open(filepath.Join(dir, name))
		must(t, err)
		t.Cleanup(func() { f.Close() })
		open = append(open, f)
	}
	return open
}

// What is removed is readable to whoever still has it open, or gets its blocks next: a
// restore that is given up is cut down to nothing before, where that is asked for.
func TestGivenUpRestoreIsWiped(t *testing.T) {
	w := newWorld(t)
	p := w.backup()
	for _, wiped := range []bool{true, false} {
		dir := t.TempDir()
		ctx, cancel := context.WithCancel(t.Context())
		job := w.restoreJob(p, dir)
		job.Wipe, job.Images = wiped, image.Images{Wipe: wiped}
		var open []*os.File
		job.Observe = func(e agent.Event) {
			if e.Step == agent.StepWriting && len(open) == 0 {
				open = partials(t, dir)
				cancel()
			}
		}
		if _, err := agent.Restore(ctx, job); !errors.Is(err, context.Canceled) {
			t.Fatalf("error %v", err)
		}
		if left := list(t, dir); len(left) > 0 || len(open) == 0 {
			t.Errorf("left behind: %v, of %d that were begun", left, len(open))
		}
		for _, f := range open {
			info, err := f.Stat()
			must(t, err)
			if (info.Size() == 0) != wiped {
				t.Errorf("wipe %v: %d bytes are left of %s", wiped, info.Size(), filepath.Base(f.Name()))
			}
		}
	}
}

// A restore that was killed is wiped by the next one.
func TestKilledRestoreIsWiped(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	killed := filepath.Join(dir, ".lull-123.partial")
	must(t, os.WriteFile(killed, []byte("secret"), 0o600))
	open := partials(t, dir)
	job := w.restoreJob(w.backup(), dir)
	job.Wipe, job.Images = true, image.Images{Wipe: true}
	_, err := agent.Restore(t.Context(), job)
	must(t, err)
	if diff := cmp.Diff([]string{"data.raw", "nvram", "root.raw"}, list(t, dir)); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	if info, err := open[0].Stat(); err != nil || info.Size() > 0 {
		t.Errorf("%d bytes are left of what the killed one wrote, %v", info.Size(), err)
	}
}

func TestRestoreRefusesWhatDoesNotFit(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	p := w.backup()
	p.Disks[0].Root.Data = 1 << 60
	if _, err := agent.Restore(t.Context(), w.restoreJob(p, dir)); !errors.Is(err, snapshot.ErrNoSpace) {
		t.Errorf("error %v", err)
	}
	if left := list(t, dir); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// A manifest is written by a host that may be hostile: no path in it leads out
// of the folder.
func TestRestoreStaysInItsFolder(t *testing.T) {
	w := newWorld(t)
	p := w.backup()
	p.Disks[0].Path, p.Disks[0].Name = "/tmp/../..", "../../etc/cron.d/x"
	p.Disks[1].Path, p.Disks[1].Name = "..\x00/\n", "/"
	p.Files[0].Path = "../../../root/.ssh/authorized_keys"
	outer := t.TempDir()
	dir := filepath.Join(outer, "in")
	res, err := agent.Restore(t.Context(), w.restoreJob(p, dir))
	must(t, err)
	if got := list(t, outer); !cmp.Equal(got, []string{"in"}) {
		t.Errorf("beside the folder: %v", got)
	}
	for _, d := range res.Disks {
		if filepath.Dir(d.Path) != dir {
			t.Errorf("disk at %q", d.Path)
		}
	}
	if got := list(t, dir); len(got) != 3 {
		t.Errorf("files %q, want three", got)
	}
}
