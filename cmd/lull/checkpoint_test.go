package main

import (
	"bytes"
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lull-backup/lull/agent"
	"github.com/lull-backup/lull/config"
	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/guesttest"
)

// TestGuestCheckpoint: a guest that writes all the time gets three checkpoints and goes back
// to the middle one twice, where a counter in its memory goes on from what it was; a branch
// grows there, the middle is deleted while the guest writes, and a backup of all that comes
// back whole.
func TestGuestCheckpoint(t *testing.T) {
	t.Parallel()
	l := newLab(t, guesttest.Options{})
	l.inGuest(counting)
	boot, side := l.told(l.guest.Side, bootIs), l.guest.Side
	l.lull(exitDone, "checkpoint", "create", "lab/web", "--name", "one")
	l.counts(side, l.number(side, countIs))
	counted := l.number(side, countIs)
	l.lull(exitDone, "checkpoint", "create", "lab/web", "--name", "two")
	l.counts(side, counted+10)
	l.lull(exitDone, "checkpoint", "create", "lab/web", "--name", "three")
	for range 2 {
		l.counts(side, counted+40)
		l.lull(exitDone, "checkpoint", "apply", "lab/web", "two", "--discard")
		if now := l.number(side, countIs); now < counted || now > counted+40 || l.told(side, bootIs) != boot {
			t.Errorf("the guest had counted to %v, and goes on at %v", counted, now)
		}
	}
	l.lull(exitDone, "checkpoint", "create", "lab/web", "--name", "branch", "--no-memory")
	l.lull(exitDone, "checkpoint", "delete", "lab/web", "two")
	l.counts(side, l.number(side, countIs))
	l.lull(exitNotFound, "checkpoint", "apply", "lab/web", "two", "--discard")
	l.lull(exitUsage, "checkpoint", "apply", "lab/web", "one")
	l.lull(exitDone, "backup", "lab/web")
	l.lull(exitDone, "checkpoint", "revert", "lab/web", "--cold")
	l.lull(exitDone, "checkpoint", "merge", "lab/web")
	l.goesOn()
	l.whole()
	l.lull(exitDone, "backup", "lab/web", "--audit-tracking")
	to := filepath.Join(l.dir, "restored")
	before := l.acked()
	l.lull(exitDone, "backup", "lab/web")
	l.lull(exitDone, "restore", "lab/web", "--to", to)
	l.destroy()
	l.boot(to, before)
}

// TestDrawTree draws a tree with everything in it.
func TestDrawTree(t *testing.T) {
	tree := checkpointTree{Name: "lab/web", Checkpoints: snapshot.Checkpoints{Now: "a", Growth: 3 << 20, List: []snapshot.Checkpoint{
		{ID: "a", Name: "clean", Memory: true, Size: 1 << 30},
		{ID: "b", Parent: "a", Deleted: true, Size: 2 << 20},
		{ID: "c", Parent: "b", Size: 1 << 20},
		{ID: "d", Name: "x\ny", Parent: "b", Size: 1 << 10},
	}}}
	var b bytes.Buffer
	if err := drawTree(&b, tree); err != nil {
		t.Fatal(err)
	}
	const want = `lab/web
└─ clean (a)    memory  1.0 GiB
   ├─ (deleted, its images are shared)  2.0 MiB
   │  ├─ c    1.0 MiB
   │  └─ x y (d)    1.0 KiB
   └─ > now  3.0 MiB
`
	if d := cmp.Diff(want, b.String()); d != "" {
		t.Error(d)
	}
}

// treeHost is a host with one tree of checkpoints.
type treeHost struct {
	snapshot.Checkpointer
	tree snapshot.Checkpoints
	lost []snapshot.LostTree
}

func (h treeHost) LostTrees(context.Context) ([]snapshot.LostTree, error) { return h.lost, nil }

func (h treeHost) Checkpoints(context.Context, string) (snapshot.Checkpoints, error) {
	return h.tree, nil
}

// TestDoctorLooksAtCheckpoints: what is beyond the limits is a warning, what is lost a failure.
func TestDoctorLooksAtCheckpoints(t *testing.T) {
	now := time.Date(2026, 1, 20, 0, 0, 0, 0, time.UTC)
	tree := snapshot.Checkpoints{List: []snapshot.Checkpoint{{ID: "a", Name: "clean", Created: now.Add(-11 * day)}}, Missing: []string{"/x"}, Astray: []string{"/z"}}
	d := &vmDoctor{
		runner:  &agent.Runner{Now: func() time.Time { return now }},
		resolve: func(string) (snapshot.Host, string, error) { return treeHost{tree: tree}, "web", nil },
		limits:  config.Checkpoints{MaxAge: 10 * day},
	}
	d.checkpoints(t.Context(), "lab/web")
	d.lostTrees(t.Context(), "host lab", treeHost{lost: []snapshot.LostTree{{Path: "/trees/a.json", Files: []string{"/a"}}, {Path: "/trees/b.json", Err: snapshot.ErrCorrupt}}})
	var got []string
	for _, f := range d.found {
		got = append(got, strings.Join([]string{f.Subject, f.Check, f.Result, f.Detail}, ": "))
	}
	want := []string{
		"VM lab/web: checkpoints: warning: checkpoint clean (a) is 11 days old",
		"VM lab/web: checkpoints: failed: the VM's disks rest upon /z, and its tree of checkpoints does not have that",
		"VM lab/web: checkpoints: failed: /x is missing, and a checkpoint rests upon it",
		"host lab: checkpoints: warning: /trees/a.json is the tree of checkpoints of a domain that libvirt does not have any more, with 1 file",
		"host lab: checkpoints: warning: /trees/b.json is the tree of checkpoints of a domain that libvirt does not have any more, with 0 files: " + snapshot.ErrCorrupt.Error(),
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestCheckpointWarnings(t *testing.T) {
	now := time.Date(2026, 1, 20, 0, 0, 0, 0, time.UTC)
	limits := config.Checkpoints{MaxAge: 10 * day, MaxGrowth: 100, MaxDepth: 2}
	fine := snapshot.Checkpoints{List: []snapshot.Checkpoint{{ID: "a", Created: now.Add(-day)}}, Growth: 100, Depth: 1}
	if got := checkpointWarnings(limits, fine, now); len(got) > 0 {
		t.Errorf("warned of %v", got)
	}
	old := snapshot.Checkpoints{List: []snapshot.Checkpoint{{ID: "a", Created: now.Add(-11 * day)}, {ID: "b", Created: now.Add(-12 * day), Deleted: true}},
		Growth: 101, Depth: 2, Tight: "1 GiB are free in /srv", Pending: "fold a", Missing: []string{"/x"}, Unowned: []string{"/y"}, Astray: []string{"/z"}}
	if got := checkpointWarnings(limits, old, now); len(got) != 8 {
		t.Errorf("%d warnings: %v", len(got), got)
	}
}
