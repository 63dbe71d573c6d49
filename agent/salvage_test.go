package agent_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lull-backup/lull/agent"
	"github.com/lull-backup/lull/transport/repo"
)

// spoil flips a bit in the first segment of every pack of disk data.
func (w *world) spoil() {
	for _, name := range w.objects.Names() {
		if !strings.HasPrefix(name, "packs/") {
			continue
		}
		w.objects.Damage(name, func(b []byte) []byte {
			if b[4] == 'D' {
				b[2000]++
			}
			return b
		})
	}
}

// A best-effort restore brings back all that is whole, and says what is not: in its
// result, in a file, and in the disk's name.
func TestBestEffortRestore(t *testing.T) {
	w := newWorld(t)
	p := w.backup()
	w.spoil()
	dir := filepath.Join(t.TempDir(), "out")
	job := w.restoreJob(p, dir)
	if _, err := agent.Restore(t.Context(), job); !errors.Is(err, repo.ErrCorrupt) {
		t.Fatalf("without best effort: %v", err)
	}
	job.BestEffort = true
	res, err := agent.Restore(t.Context(), job)
	must(t, err)
	if len(res.Incomplete) == 0 || len(res.Disks)+len(res.Incomplete) < len(p.Disks) {
		t.Fatalf("%+v", res)
	}
	for _, in := range res.Incomplete {
		if in.Disk == "" {
			continue
		}
		got, err := os.ReadFile(in.Path)
		must(t, err)
		want := bytes.Clone(w.disks[in.Disk])
		for _, h := range in.Holes {
			clear(want[h.Offset:][:h.Length])
		}
		if !bytes.Equal(got, want) {
			t.Errorf("disk %s is wrong outside of its holes", in.Disk)
		}
		if whole := strings.TrimSuffix(in.Path, ".incomplete"); whole == in.Path || exists(whole) {
			t.Errorf("disk %s is at %s, whole: %t", in.Disk, in.Path, exists(whole))
		}
		var list struct {
			agent.Incomplete
			Point string
		}
		text, err := os.ReadFile(in.List)
		must(t, err)
		must(t, json.Unmarshal(text, &list))
		if diff := cmp.Diff(in, list.Incomplete); diff != "" || list.Point != p.ID {
			t.Errorf("list of %s: %s", list.Point, diff)
		}
	}
	if _, err := agent.Restore(t.Context(), job); err == nil {
		t.Error("a second one replaced the first")
	}
}

// Of a point that is whole a best-effort restore leaves what any other does.
func TestBestEffortOfAWholePoint(t *testing.T) {
	w := newWorld(t)
	dir := filepath.Join(t.TempDir(), "out")
	job := w.restoreJob(w.backup(), dir)
	job.BestEffort = true
	res, err := agent.Restore(t.Context(), job)
	must(t, err)
	if diff := cmp.Diff([]string{"data.raw", "nvram", "root.raw"}, list(t, dir)); diff != "" || len(res.Incomplete) > 0 {
		t.Errorf("files (-want +got):\n%s%+v", diff, res.Incomplete)
	}
	for _, d := range res.Disks {
		if got, err := os.ReadFile(d.Path); err != nil || !bytes.Equal(got, w.disks[d.Name]) {
			t.Errorf("disk %s differs (%v)", d.Name, err)
		}
	}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
