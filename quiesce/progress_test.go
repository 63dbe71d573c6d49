package quiesce_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/lull-backup/lull/quiesce"
	"github.com/lull-backup/lull/quiesce/quiescetest"
)

// What a writer tells is heard under its own name, as long as its call lasts; and the
// reason of a call that ran out of time says how far it had come.
func TestProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene()
		s.app.On(quiescetest.Prepare, quiescetest.Act{
			Delay: time.Hour, Deaf: true, Tells: []quiesce.Progress{{Writer: "another", What: "checkpoint", Done: 3, Total: 7}},
		})
		s.fs.On(quiescetest.Complete, quiescetest.Act{Tells: []quiesce.Progress{{What: "logs", Done: 1}}})
		var heard []quiesce.Progress
		s.job.Progress = func(p quiesce.Progress) { heard = append(heard, p) }
		s.job.Limits.Follow = 2 * time.Hour
		held := s.wantLevel(t, quiesce.LevelFilesystem, `prepare: no answer in time (it had come to "checkpoint: 3 of 7")`)
		if err := held.Complete(t.Context(), "point-1"); err != nil {
			t.Fatal(err)
		}
		want := []quiesce.Progress{{Writer: "db", What: "checkpoint", Done: 3, Total: 7}, {Writer: "filesystem", What: "logs", Done: 1}}
		if diff := cmp.Diff(want, slices.Compact(heard)); diff != "" { // each was told twice
			t.Errorf("heard (-want +got):\n%s", diff)
		}
	})
}

// Who hears progress may be slow, a terminal that was stopped: the window is no longer for
// that, and the newest word comes in the end.
func TestProgressHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene()
		s.app.On(quiescetest.Freeze, quiescetest.Act{
			Delay: time.Millisecond, Tells: []quiesce.Progress{{What: "tables", Done: 1, Total: 9}, {What: "tables", Done: 9, Total: 9}},
		})
		var last quiesce.Progress
		s.job.Progress = func(p quiesce.Progress) {
			time.Sleep(time.Minute) // of the bubble
			if s.app.Frozen() {
				t.Error("the guest was frozen as long as the listener hung")
			}
			last = p
		}
		if r := s.wantLevel(t, quiesce.LevelApplication).Report(); r.Window > time.Second {
			t.Errorf("window %v", r.Window)
		}
		if last.Done != 9 {
			t.Errorf("the last word is %v", last)
		}
	})
}

// Words of a hostile writer are bounded, and what makes no sense is dropped.
func TestProgressIsBounded(t *testing.T) {
	for name, test := range map[string]struct{ told, want quiesce.Progress }{
		"control characters":    {quiesce.Progress{What: "a\x1b[2Jb\r\nc", Done: 1}, quiesce.Progress{What: "a [2Jb c", Done: 1}},
		"C1, and turned around": {quiesce.Progress{What: "a\u009b2Jb\u202ec\u2066d", Done: 1}, quiesce.Progress{What: "a 2Jb c d", Done: 1}},
		"more than all":         {quiesce.Progress{What: "x", Done: 1 << 62, Total: 7}, quiesce.Progress{What: "x", Done: 7, Total: 7}},
		"negative":              {told: quiesce.Progress{What: "x", Done: -1, Total: 7}},
		"negative total":        {told: quiesce.Progress{What: "x", Total: -7}},
		"no words":              {told: quiesce.Progress{What: " \n", Done: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			var heard quiesce.Progress
			ctx, stop := quiesce.Listen(t.Context(), "", func(p quiesce.Progress) { heard = p })
			quiesce.Teller(ctx)(test.told)
			stop()
			if diff := cmp.Diff(test.want, heard); diff != "" {
				t.Errorf("heard (-want +got):\n%s", diff)
			}
		})
	}
	ctx, stop := quiesce.Listen(t.Context(), "db", func(p quiesce.Progress) {
		if len(p.What) > 200 || !utf8.ValidString(p.What) {
			t.Errorf("%d bytes of words", len(p.What))
		}
	})
	tell := quiesce.Teller(ctx)
	tell(quiesce.Progress{What: strings.Repeat("é\xff", 1000)})
	stop()
	tell(quiesce.Progress{What: "after the end"})
	quiesce.Teller(context.Background())(quiesce.Progress{What: "to nobody"})
}

// A failure of another kind than a time-out is the writer's own word, and stays that.
func TestProgressOfAFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene()
		s.app.On(quiescetest.Prepare, quiescetest.Act{
			Err: &quiesce.Failure{Class: quiesce.Vetoed, Err: errors.New("not now")}, Tells: []quiesce.Progress{{What: "checkpoint"}},
		})
		held := s.wantLevel(t, quiesce.LevelFilesystem, "not now")
		if r := held.Report().Reasons[0]; strings.Contains(r, "checkpoint") {
			t.Errorf("reason %q", r)
		}
		if err := held.Complete(t.Context(), "point-1"); err != nil {
			t.Error(err)
		}
	})
}
