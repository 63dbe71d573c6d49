package agent_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lull-backup/lull/agent"
	"github.com/lull-backup/lull/quiesce"
	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/snapshottest"
)

// prefixed is a Definer whose hypervisor wants a word before what is stored.
type prefixed struct{ unfit error }

const prefix = "state:"

func (prefixed) Writes(string) []string                                  { return nil }
func (prefixed) Define(context.Context, string, snapshot.Restored) error { return nil }
func (p prefixed) FitsState(context.Context, snapshot.Hardware) error    { return p.unfit }
func (prefixed) RestoreState(_ context.Context, w io.Writer, src io.ReaderAt, size int64) error {
	_, err := io.Copy(w, io.MultiReader(bytes.NewReader([]byte(prefix)), io.NewSectionReader(src, 0, size)))
	return err
}

// A VM's memory is stored with its disks, inherits what has not changed, and comes back
// in the hypervisor's own form; or not at all, where its host could not use it.
func TestMemory(t *testing.T) {
	w := newWorld(t)
	memory := content(9, 5<<20)
	w.fake = snapshottest.NewFake(snapshottest.FakeVM{Name: "web", Hardware: snapshot.Hardware{Hypervisor: "fake"},
		Disks: []snapshottest.FakeDisk{{Name: "root", Content: w.disks["root"]}}, Memory: memory})
	job := w.job()
	job.Policy = quiesce.Policy{Ladder: []quiesce.Level{quiesce.LevelSavedState}, Floor: quiesce.LevelSavedState}
	_, err := w.runner.Backup(t.Context(), job)
	must(t, err)
	told := ""
	w.runner.Observe = func(e agent.Event) {
		if e.Step == agent.StepTaken {
			told = e.Message
		}
	}
	res, err := w.runner.Backup(t.Context(), job)
	must(t, err)
	w.tidy()
	if res.Memory == "" || res.Memory != told {
		t.Errorf("how the memory was saved: %q in the result, %q was told", res.Memory, told)
	}
	if res.Point.Quiesce.Level != quiesce.LevelSavedState || res.Point.Stats.New != 0 {
		t.Errorf("the second point has level %v and %d new bytes", res.Point.Quiesce.Level, res.Point.Stats.New)
	}

	restore := w.restoreJob(res.Point, filepath.Join(t.TempDir(), "new"))
	restore.Definer = prefixed{unfit: snapshot.ErrUnsupported}
	if _, err := agent.Restore(t.Context(), restore); !errors.Is(err, snapshot.ErrUnsupported) {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(restore.Dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("something was written: %v", list(t, restore.Dir))
	}
	restore.Cold = true
	_, err = agent.Restore(t.Context(), restore)
	must(t, err)
	if files := list(t, restore.Dir); slices.Contains(files, "memory.state") {
		t.Errorf("a cold restore wrote %v", files)
	}
	restore.Cold, restore.Definer, restore.Dir = false, prefixed{}, t.TempDir()
	_, err = agent.Restore(t.Context(), restore)
	must(t, err)
	got, err := os.ReadFile(filepath.Join(restore.Dir, "memory.state"))
	if err != nil || !bytes.Equal(got, append([]byte(prefix), memory...)) {
		t.Errorf("the memory came back with %d bytes, %v", len(got), err)
	}
	if files := list(t, restore.Dir); len(files) != 2 {
		t.Errorf("files: %v", files)
	}
}

// slowSaver writes a VM's memory for long, after its disks have frozen.
type slowSaver struct {
	snapshot.Saver
	passes func()
}

func (s slowSaver) TakeSaved(ctx context.Context, p snapshot.Plan, reached func(snapshot.Moment)) (snapshot.Saving, error) {
	how, err := s.Saver.TakeSaved(ctx, p, reached)
	s.passes()
	return how, err
}

// A point is of the instant at which its disks froze, however long the memory took.
func TestMemoryInstant(t *testing.T) {
	w := newWorld(t)
	w.fake = snapshottest.NewFake(snapshottest.FakeVM{Name: "web", Hardware: snapshot.Hardware{Hypervisor: "fake"},
		Disks: []snapshottest.FakeDisk{{Name: "root", Content: w.disks["root"]}}, Memory: content(9, 1<<20)})
	job := w.job()
	job.Policy = quiesce.Policy{Ladder: []quiesce.Level{quiesce.LevelSavedState}, Floor: quiesce.LevelSavedState}
	var later atomic.Int64
	w.runner.Now = func() time.Time { return time.Now().Add(time.Duration(later.Load())) }
	job.Host = slowSaver{job.Host.(snapshot.Saver), func() { later.Store(int64(10 * time.Minute)) }}
	res, err := w.runner.Backup(t.Context(), job)
	must(t, err)
	w.tidy()
	if ahead := time.Until(res.Point.Frozen); ahead > 0 {
		t.Errorf("the disks froze %v from now", ahead)
	}
}
