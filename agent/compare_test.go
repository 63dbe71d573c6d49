package agent_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lull-backup/lull/agent"
	"github.com/lull-backup/lull/snapshot"
)

// looking is a host that finds things, and that tells how far its merges are.
type looking struct {
	snapshot.Host
	find func(owned *snapshot.Plan) []snapshot.Finding
	tell []snapshot.Merging
}

func (l *looking) Compare(_ context.Context, _ string, owned *snapshot.Plan) ([]snapshot.Finding, error) {
	if l.find == nil {
		return nil, nil
	}
	return l.find(owned), nil
}

func (l *looking) MergeTelling(ctx context.Context, p snapshot.Plan, tell func(snapshot.Merging)) error {
	for _, m := range l.tell {
		tell(m)
	}
	return l.Merge(ctx, p)
}

// finds makes a host that always finds these.
func finds(host snapshot.Host, list ...snapshot.Finding) *looking {
	return &looking{Host: host, find: func(*snapshot.Plan) []snapshot.Finding { return list }}
}

// What blocks a backup keeps it from being begun, and says what to do.
func TestFindingBlocks(t *testing.T) {
	w := newWorld(t)
	job := w.job()
	job.Host = finds(job.Host, snapshot.Finding{Kind: snapshot.FindingStray, Text: "a file"},
		snapshot.Finding{Kind: snapshot.FindingOrphan, Disk: "root", Text: "a delta is there", Next: "rm it"})
	_, err := w.runner.Backup(t.Context(), job)
	var hint *snapshot.Hinted
	if !errors.Is(err, snapshot.ErrMergePending) || !errors.As(err, &hint) || hint.Next != "rm it" || !strings.Contains(err.Error(), "a delta is there") {
		t.Errorf("got %v", err)
	}
	if slices.Contains(w.steps(), agent.StepPlanned) {
		t.Errorf("it began: %v", w.steps())
	}
	w.tidy()
}

// Disks that come and go while a run reads are named in its point.
func TestDrift(t *testing.T) {
	w := newWorld(t)
	job := w.job()
	job.Host = &looking{Host: job.Host, find: func(owned *snapshot.Plan) []snapshot.Finding {
		if owned == nil {
			return nil
		}
		return []snapshot.Finding{{Kind: snapshot.FindingAdded, Disk: "new", Path: "/new", Run: owned.Run}, {Kind: snapshot.FindingRemoved, Disk: "data", Run: owned.Run}}
	}}
	res, err := w.runner.Backup(t.Context(), job)
	must(t, err)
	w.wantRestored(res.Point)
	said := strings.Join(res.Warnings, "\n")
	if n := len(res.Point.Excluded); n != 1 || res.Point.Excluded[0].Disk.Name != "new" || !strings.Contains(said, "disk new is not in this point") || !strings.Contains(said, "disk data was unplugged") {
		t.Errorf("left out: %+v, warnings: %s", res.Point.Excluded, said)
	}
}

// What a run has left although its merge says that it is done is a warning.
func TestLeftAfterMerge(t *testing.T) {
	w := newWorld(t)
	job := w.job()
	job.Host = &looking{Host: job.Host, find: func(*snapshot.Plan) []snapshot.Finding {
		if steps := w.steps(); steps[len(steps)-1] != agent.StepMerged {
			return nil
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		return []snapshot.Finding{{Kind: snapshot.FindingStray, Run: w.events[0].Run, Text: "a file of this run"}, {Kind: snapshot.FindingStray, Run: "other", Text: "another's"}}
	}}
	res, err := w.runner.Backup(t.Context(), job)
	must(t, err)
	if !slices.Equal(res.Warnings, []string{"a file of this run"}) {
		t.Errorf("warnings: %q", res.Warnings)
	}
}

// How far a merge is shows as events, and that it slowed the guest down as a warning.
func TestMergeTells(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		job := w.job()
		tell := []snapshot.Merging{{Done: 1, Total: 9}, {Done: 4, Total: 9, Slowed: "slower now"}, {Done: 9, Total: 9}}
		job.Host = &slowly{looking: looking{Host: job.Host, tell: tell}, pause: time.Second}
		res, err := w.runner.Backup(t.Context(), job)
		must(t, err)
		var done []int64
		for _, e := range w.events {
			if e.Step == agent.StepMerging && e.Total == 9 {
				done = append(done, e.Done)
			}
		}
		if !slices.Equal(done, []int64{1, 4, 9}) || !slices.Equal(res.Warnings, []string{"slower now"}) {
			t.Errorf("told: %v, warnings: %q", done, res.Warnings)
		}
	})
}

// slowly takes its time between two things that it tells.
type slowly struct {
	looking
	pause time.Duration
}

func (s *slowly) MergeTelling(ctx context.Context, p snapshot.Plan, tell func(snapshot.Merging)) error {
	for _, m := range s.tell {
		select {
		case <-time.After(s.pause): // of the bubble
			tell(m)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return s.Merge(ctx, p)
}

// A merge takes as long as it gets somewhere, and is given up when it does not.
func TestMergePatience(t *testing.T) {
	const total = 1 << 40
	for _, c := range []struct {
		name  string
		grows int64 // by what the guest writes meanwhile, each time
		ends  bool
	}{{"it gets somewhere", 0, true}, {"the guest writes as fast", total / 20, false}} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				var tell []snapshot.Merging
				for i := range int64(21) {
					tell = append(tell, snapshot.Merging{Done: i * total / 20, Total: total + i*c.grows})
				}
				job := w.job()
				job.Host = &slowly{looking: looking{Host: job.Host, tell: tell}, pause: 15 * time.Minute} // of the bubble
				begun := time.Now()
				res, err := w.runner.Backup(t.Context(), job)
				if took := time.Since(begun); c.ends {
					must(t, err)
					w.wantRestored(res.Point)
				} else if err == nil || !strings.Contains(err.Error(), "the merge gets nowhere for") || took > 2*time.Hour {
					t.Errorf("after %v: %v", took, err)
				}
			})
		})
	}
}

// A journal that was lost comes back as far as the host can tell, and the delta is merged.
func TestRecoverAdopts(t *testing.T) {
	w := newWorld(t)
	host := w.fake.Host()
	lost, err := host.Plan(t.Context(), "web", "lost")
	must(t, err)
	must(t, host.Prepare(t.Context(), lost))
	must(t, host.Take(t.Context(), lost))
	l := &looking{Host: host, find: func(*snapshot.Plan) []snapshot.Finding {
		if len(w.fake.Leftovers()) == 0 {
			return []snapshot.Finding{{Kind: snapshot.FindingStray, Text: "a small thing"}}
		}
		return []snapshot.Finding{{Kind: snapshot.FindingOrphan, Adopt: &lost}}
	}}
	left, err := w.runner.RecoverVM(t.Context(), vmName, func(string) (snapshot.Host, string, error) { return l, "web", nil })
	must(t, err)
	if len(left) != 1 || left[0].Kind != snapshot.FindingStray {
		t.Errorf("left: %+v", left)
	}
	w.tidy()
}

// The agent looks around once when it starts, and shows what it finds.
func TestDaemonLooksAround(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		host := finds(w.fake.Host(), snapshot.Finding{Kind: snapshot.FindingStray, Path: "/x", Text: "a file", Next: "rm /x"})
		groups := []agent.Group{{Name: "g", VMs: []string{vmName, vmName}}}
		board := agent.NewBoard("test", 1, time.Now(), w.journal, groups)
		d := &agent.Daemon{Runner: w.runner, Groups: groups, Parallel: 1, Log: w.runner.Log, Ready: func() {}, Board: board,
			Resolve: func(string) (snapshot.Host, string, error) { return host, "web", nil }}
		run(t, d, time.Second)
		s, err := board.Status()
		must(t, err)
		if len(s.Found) != 1 || s.Found[0].VM != vmName || s.Found[0].Next != "rm /x" {
			t.Errorf("found: %+v", s.Found)
		}
	})
}
