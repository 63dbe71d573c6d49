package quiesce_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lull-backup/lull/quiesce"
	"github.com/lull-backup/lull/quiesce/quiescetest"
)

func later(times int) quiescetest.Act {
	return quiescetest.Act{Err: &quiesce.Failure{Class: quiesce.Retryable, Err: errors.New("a checkpoint runs")}, Times: times}
}

func TestRetry(t *testing.T) {
	tests := []struct {
		name     string
		call     quiescetest.Call
		times    int // that it fails; 0: always
		retry    quiesce.Retry
		level    quiesce.Level
		attempts int // that the report names
		last     string
		took     time.Duration
	}{
		{"freeze passes", quiescetest.Freeze, 2, quiesce.Retry{Attempts: 3, Delay: time.Minute, Until: time.Hour}, quiesce.LevelApplication, 2, "", 2 * time.Minute},
		{"prepare passes", quiescetest.Prepare, 1, quiesce.Retry{Attempts: 3, Delay: time.Minute, Until: time.Hour}, quiesce.LevelApplication, 1, "", time.Minute},
		{"identify passes", quiescetest.Identify, 2, quiesce.Retry{Attempts: 3, Delay: time.Minute, Until: time.Hour}, quiesce.LevelApplication, 2, "", 2 * time.Minute},
		{"too few", quiescetest.Freeze, 0, quiesce.Retry{Attempts: 3, Delay: time.Minute, Until: time.Hour}, quiesce.LevelFilesystem, 2, "(attempt 3)", 2 * time.Minute},
		{"too late", quiescetest.Freeze, 0, quiesce.Retry{Attempts: 100, Delay: time.Minute, Until: 150 * time.Second}, quiesce.LevelFilesystem, 2, "(attempt 3)", 2 * time.Minute},
		{"none", quiescetest.Freeze, 1, quiesce.Retry{}, quiesce.LevelFilesystem, 0, "a checkpoint runs", 0},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newScene()
				s.app.On(test.call, later(test.times))
				s.job.Policy.Retry = test.retry
				begin := time.Now()
				held, err := s.do(t)
				if err != nil {
					t.Fatal(err)
				}
				r := held.Report()
				if r.Level != test.level || len(r.Attempts) != test.attempts || s.takes != 1 {
					t.Errorf("level %v, attempts %q, %d takes", r.Level, r.Attempts, s.takes)
				}
				if got := strings.Join(r.Reasons, "\n"); (got == "") != (test.last == "") || !strings.Contains(got, test.last) {
					t.Errorf("reasons %q, want %q", got, test.last)
				}
				for _, a := range r.Attempts {
					// One that has not said who it is has its place for a name.
					if !strings.Contains(a, "application: writer db: retryable") && !strings.Contains(a, "application: writer 2: retryable: identify") {
						t.Errorf("attempt %q", a)
					}
				}
				if took := time.Since(begin).Round(time.Second); took != test.took {
					t.Errorf("it took %v, want %v", took, test.took)
				}
				s.wantThawed(t)
			})
		})
	}
}

// What will not pass is not tried again, and the end of the run ends the waiting.
func TestNoRetry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene()
		s.job.Policy.Retry = quiesce.DefaultRetry()
		s.app.On(quiescetest.Freeze, quiescetest.Act{Err: &quiesce.Failure{Class: quiesce.Vetoed, Err: errors.New("a migration runs")}})
		s.fs.On(quiescetest.Prepare, later(0))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		held, err := quiesce.Do(ctx, s.job)
		if !errors.Is(err, context.DeadlineExceeded) || held != nil {
			t.Errorf("%v, %v", held, err)
		}
		for _, c := range s.tape.Calls() {
			if c == "db freeze" {
				t.Error("frozen although a prepare had failed")
			}
		}
		s.wantThawed(t)
	})
}
