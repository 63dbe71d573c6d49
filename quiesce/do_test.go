package quiesce_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lull-backup/lull/quiesce"
	"github.com/lull-backup/lull/quiesce/quiescetest"
)

// scene is a guest with an application and file systems.
type scene struct {
	tape  quiescetest.Tape
	guest *quiescetest.Guest
	app   *quiescetest.Writer
	fs    *quiescetest.Writer
	job   quiesce.Job
	takes int
	steps []quiesce.Step
}

func newScene() *scene {
	s := &scene{guest: quiescetest.NewGuest()}
	s.app, s.fs = quiescetest.App("db"), quiescetest.Filesystem(s.guest)
	s.app.Tape, s.fs.Tape = &s.tape, &s.tape
	s.job = quiesce.Job{
		Run: "run-1", VM: "vm", Guest: s.guest,
		Policy: quiesce.Policy{
			Ladder: []quiesce.Level{quiesce.LevelApplication, quiesce.LevelFilesystem, quiesce.LevelSavedState, quiesce.LevelCrash},
			Floor:  quiesce.LevelCrash,
		},
		Writers: []quiesce.Writer{s.fs, s.app},
		Take: func(context.Context) error {
			s.takes++
			s.tape.Record("host", "take")
			return nil
		},
		Step: func(step quiesce.Step) { s.steps = append(s.steps, step) },
	}
	return s
}

func (s *scene) do(t *testing.T) (*quiesce.Held, error) {
	t.Helper()
	return quiesce.Do(t.Context(), s.job)
}

func (s *scene) wantLevel(t *testing.T, want quiesce.Level, reasons ...string) *quiesce.Held {
	t.Helper()
	held, err := s.do(t)
	if err != nil {
		t.Fatal(err)
	}
	r := held.Report()
	if r.Level != want {
		t.Errorf("level %v, want %v; reasons %q", r.Level, want, r.Reasons)
	}
	if len(reasons) != len(r.Reasons) {
		t.Fatalf("reasons %q, want %d of them", r.Reasons, len(reasons))
	}
	for i, part := range reasons {
		if !strings.Contains(r.Reasons[i], part) {
			t.Errorf("reason %q does not contain %q", r.Reasons[i], part)
		}
	}
	s.wantThawed(t)
	return held
}

// Who watches a run cannot keep the guest frozen: not by a terminal that was
// stopped, not by a pipe that nobody reads.
func TestObserverHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene()
		note := s.job.Step
		s.job.Step = func(step quiesce.Step) {
			if step == quiesce.StepFrozen {
				time.Sleep(time.Hour) // of the bubble
				if s.app.Frozen() || s.guest.IsFrozen() {
					t.Error("the guest was frozen as long as the observer hung")
				}
			}
			note(step)
		}
		if r := s.wantLevel(t, quiesce.LevelApplication).Report(); r.Window > time.Second {
			t.Errorf("window %v", r.Window)
		}
		if diff := cmp.Diff([]quiesce.Step{quiesce.StepFreezing, quiesce.StepFrozen, quiesce.StepTaken, quiesce.StepThawed}, s.steps); diff != "" {
			t.Errorf("steps (-want +got):\n%s", diff)
		}
	})
}

func (s *scene) wantThawed(t *testing.T) {
	t.Helper()
	if s.app.Frozen() || s.guest.IsFrozen() {
		t.Errorf("frozen on return: application %v, file systems %v", s.app.Frozen(), s.guest.IsFrozen())
	}
}

func TestOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene()
		s.app.Document = []byte("lsn 42")
		held := s.wantLevel(t, quiesce.LevelApplication)
		if err := held.Complete(t.Context(), "point-1"); err != nil {
			t.Fatal(err)
		}
		if err := held.Abort(t.Context()); err != nil {
			t.Fatal(err)
		}
		// Calls of both writers at once have no order: only those in the window do.
		want := []string{"db freeze", "filesystem freeze", "host take", "filesystem thaw", "db thaw"}
		if diff := cmp.Diff(want, s.tape.Calls()[4:9]); diff != "" {
			t.Errorf("window (-want +got):\n%s", diff)
		}
		if got := strings.Join(s.tape.Calls(), ","); strings.Contains(got, "abort") || strings.Count(got, "complete") != 2 {
			t.Errorf("want two Complete and no Abort: %s", got)
		}
		if diff := cmp.Diff([]quiesce.Step{quiesce.StepFreezing, quiesce.StepFrozen, quiesce.StepTaken, quiesce.StepThawed}, s.steps); diff != "" {
			t.Errorf("steps (-want +got):\n%s", diff)
		}
		if got := held.Report().Writers; len(got) != 2 || string(got[1].Document) != "lsn 42" {
			t.Errorf("writers of the report: %+v", got)
		}
	})
}

func TestWalkDown(t *testing.T) {
	veto := &quiesce.Failure{Class: quiesce.Vetoed, Writer: "somebody else", Err: errors.New("a long transaction runs"), Next: "try later"}
	tests := []struct {
		name    string
		set     func(*scene)
		level   quiesce.Level
		reasons []string
	}{
		{"veto in prepare", func(s *scene) { s.app.On(quiescetest.Prepare, quiescetest.Act{Err: veto}) },
			quiesce.LevelFilesystem, []string{"application: writer db: vetoed: prepare: a long transaction runs (try later)"}},
		{"freeze fails", func(s *scene) { s.app.On(quiescetest.Freeze, quiescetest.Act{Err: errors.New("no luck")}) },
			quiesce.LevelFilesystem, []string{"application: writer db: not retryable: freeze: no luck"}},
		{"freeze panics", func(s *scene) { s.app.On(quiescetest.Freeze, quiescetest.Act{Panic: true}) },
			quiesce.LevelFilesystem, []string{"freeze: panicked"}},
		{"freeze hangs", func(s *scene) { s.app.On(quiescetest.Freeze, quiescetest.Act{Delay: time.Hour}) },
			quiesce.LevelFilesystem, []string{"writer db: timeout: freeze: no answer in time"}},
		{"freeze is late and deaf", func(s *scene) {
			s.app.On(quiescetest.Freeze, quiescetest.Act{Delay: time.Minute, Deaf: true})
		}, quiesce.LevelFilesystem, []string{"timeout"}},
		{"application is not there", func(s *scene) {
			s.app.On(quiescetest.Prepare, quiescetest.Act{Err: &quiesce.Failure{Class: quiesce.NotPresent}})
		}, quiesce.LevelFilesystem, []string{"application: no application of a writer is in this guest"}},
		{"application is not there, and nobody looks before the window", func(s *scene) {
			nowhere := quiescetest.Act{Err: &quiesce.Failure{Class: quiesce.NotPresent}}
			s.app.On(quiescetest.Freeze, nowhere).On(quiescetest.Abort, nowhere)
		}, quiesce.LevelFilesystem, []string{"writer db: not present: freeze"}},
		{"no application writer", func(s *scene) { s.job.Writers = s.job.Writers[:1] },
			quiesce.LevelFilesystem, []string{"application: no writer for it is in this guest"}},
		{"identify fails", func(s *scene) { s.app.On(quiescetest.Identify, quiescetest.Act{Err: errors.New("who am I")}) },
			quiesce.LevelFilesystem, []string{"who am I"}},
		{"untrue identity", func(s *scene) { s.app.ID.Level = quiesce.LevelCrash },
			quiesce.LevelFilesystem, []string{"none that a writer can achieve"}},
		{"same name twice", func(s *scene) { s.app.ID.Name = s.fs.ID.Name },
			quiesce.LevelFilesystem, []string{"two writers are named filesystem"}},
		{"not held", func(s *scene) { s.app.On(quiescetest.Freeze, quiescetest.Act{Lie: true}) },
			quiesce.LevelFilesystem, []string{"writer db: not retryable: thaw: the freeze had not held until then"}},
		{"thaw fails", func(s *scene) { s.app.On(quiescetest.Thaw, quiescetest.Act{Err: errors.New("lost it")}) },
			quiesce.LevelFilesystem, []string{"lost it"}},
		{"file systems not held", func(s *scene) { s.fs.On(quiescetest.Freeze, quiescetest.Act{Lie: true}) },
			quiesce.LevelCrash, []string{"writer filesystem: not retryable: thaw: the freeze had not held"}},
		{"document too large", func(s *scene) { s.app.Document = make([]byte, quiesce.MaxDocument+1) },
			quiesce.LevelFilesystem, []string{"document of 1048577 bytes"}},
		{"all fail", func(s *scene) { s.fs.On(quiescetest.Freeze, quiescetest.Act{Err: errors.New("no")}) },
			quiesce.LevelCrash, []string{"application: writer filesystem", "filesystem: writer filesystem", "saved-state: this host does not save"}},
		{"take is late", func(s *scene) {
			s.job.Take = func(context.Context) error { s.takes++; time.Sleep(20 * time.Second); return nil } // of the bubble
		}, quiesce.LevelCrash, []string{"its budget is 10s"}},
		{"thaw is late", func(s *scene) { s.app.On(quiescetest.Thaw, quiescetest.Act{Delay: time.Hour, Deaf: true}) },
			quiesce.LevelFilesystem, []string{"writer db: timeout: thaw"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newScene()
				test.set(s)
				s.job.Limits.Follow = 2 * time.Hour
				held := s.wantLevel(t, test.level, test.reasons...)
				if s.takes != 1 {
					t.Errorf("taken %d times", s.takes)
				}
				if err := held.Abort(t.Context()); err != nil {
					t.Error(err)
				}
				s.wantThawed(t)
			})
		})
	}
}

func TestBelowFloor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene()
		s.job.Policy.Floor = quiesce.LevelFilesystem
		s.fs.On(quiescetest.Freeze, quiescetest.Act{Err: errors.New("no")})
		_, err := s.do(t)
		if !errors.Is(err, quiesce.ErrBelowFloor) || s.takes != 0 {
			t.Errorf("error %v, %d takes; want ErrBelowFloor and none", err, s.takes)
		}
		s.wantThawed(t)
	})
}

func TestLoweredBelowFloor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene()
		s.job.Policy.Floor = quiesce.LevelFilesystem
		s.fs.On(quiescetest.Freeze, quiescetest.Act{Lie: true})
		_, err := s.do(t)
		if !errors.Is(err, quiesce.ErrBelowFloor) || s.takes != 1 {
			t.Errorf("error %v, %d takes; want ErrBelowFloor and one", err, s.takes)
		}
		if got := strings.Join(s.tape.Calls(), ","); strings.Contains(got, "complete") || strings.Count(got, "abort") != 2 {
			t.Errorf("want both writers aborted: %s", got)
		}
	})
}

func TestTakeFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene()
		broken := errors.New("transaction refused")
		s.job.Take = func(context.Context) error { s.takes++; return broken }
		if _, err := s.do(t); !errors.Is(err, broken) || s.takes != 1 {
			t.Errorf("error %v after %d takes", err, s.takes)
		}
		s.wantThawed(t)
	})
}

func TestTakeIgnoresTheWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene()
		opened := time.Now()
		s.job.Take = func(context.Context) error {
			time.Sleep(8500 * time.Millisecond) // of the bubble
			if s.guest.IsFrozen() {
				t.Errorf("guest still frozen after %v in Take", time.Since(opened))
			}
			return errors.New("too late")
		}
		if _, err := s.do(t); err == nil {
			t.Error("no error")
		}
	})
}

func TestCancelledInTheWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene()
		ctx, cancel := context.WithCancelCause(t.Context())
		stop := errors.New("operator stopped the run")
		s.job.Take = func(ctx context.Context) error {
			cancel(stop)
			<-ctx.Done()
			return ctx.Err()
		}
		if _, err := quiesce.Do(ctx, s.job); !errors.Is(err, stop) {
			t.Errorf("error %v, want the cause of the cancellation", err)
		}
		s.wantThawed(t)
		if got := strings.Join(s.tape.Calls(), ","); !strings.Contains(got, "filesystem thaw,db thaw") {
			t.Errorf("not thawed in order: %s", got)
		}
	})
}

func TestWriterDiesInTheWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene()
		s.job.Writers = s.job.Writers[:1]
		s.fs.On(quiescetest.Thaw, quiescetest.Act{Die: true})
		start := time.Now()
		s.wantLevel(t, quiesce.LevelCrash, "application: no writer", "writer filesystem: not retryable: thaw: thaw: writer is gone")
		if took := time.Since(start); took > quiesce.DefaultWindow {
			t.Errorf("guest was frozen for %v", took)
		}
	})
}

func TestStillFrozen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene()
		s.fs.On(quiescetest.Thaw, quiescetest.Act{Die: true})
		s.guest.Fault = func(_ context.Context, method string) error {
			if method == "ThawFilesystems" {
				return errors.New("agent does not answer")
			}
			return nil
		}
		_, err := s.do(t)
		if !errors.Is(err, quiesce.ErrStillFrozen) || !strings.Contains(err.Error(), "agent does not answer") {
			t.Errorf("error %v, want ErrStillFrozen with its cause", err)
		}
	})
}

// An application that is not there is nothing to be told of, however often its writer says so.
func TestAbsentIsNoNews(t *testing.T) {
	for _, c := range []quiescetest.Call{quiescetest.Prepare, quiescetest.Freeze} {
		synctest.Test(t, func(t *testing.T) {
			s := newScene()
			var log bytes.Buffer
			s.job.Log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn}))
			nowhere := quiescetest.Act{Err: &quiesce.Failure{Class: quiesce.NotPresent}}
			s.app.On(c, nowhere).On(quiescetest.Abort, nowhere)
			if _, err := s.do(t); err != nil || log.Len() > 0 {
				t.Errorf("not there for %s: %v\n%s", c, err, log.String())
			}
		})
	}
}

// A writer that cannot let its application go keeps nobody from the guest's file systems,
// however much time that takes.
func TestStillFrozenBeside(t *testing.T) {
	for name, c := range map[string]error{
		"it fails":                         errors.New("no luck"),
		"it finds no application any more": &quiesce.Failure{Class: quiesce.NotPresent},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newScene()
				fails := quiescetest.Act{Err: c, Lie: true}
				s.app.On(quiescetest.Thaw, fails).On(quiescetest.Abort, fails)
				s.fs.On(quiescetest.Thaw, quiescetest.Act{Lie: true})
				if _, err := s.do(t); !errors.Is(err, quiesce.ErrStillFrozen) || strings.Contains(err.Error(), "thaw guest") {
					t.Errorf("error %v, want ErrStillFrozen of the application alone", err)
				}
				if s.guest.IsFrozen() {
					t.Error("the file systems are frozen")
				}
			})
		})
	}
}

func TestDeadApplicationWriter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene()
		s.app.On(quiescetest.Thaw, quiescetest.Act{Die: true})
		start := time.Now()
		_, err := s.do(t)
		if !errors.Is(err, quiesce.ErrStillFrozen) || !errors.Is(err, quiesce.ErrWriterGone) {
			t.Errorf("error %v, want ErrStillFrozen and ErrWriterGone", err)
		}
		if took := time.Since(start); took > quiesce.DefaultWindow {
			t.Errorf("a writer that is gone was asked again for %v", took)
		}
	})
}

func TestWriterBudgetShortensTheWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene()
		s.app.ID.Budget = time.Second
		s.fs.On(quiescetest.Freeze, quiescetest.Act{Delay: 1500 * time.Millisecond})
		s.wantLevel(t, quiesce.LevelFilesystem, "writer filesystem: timeout")
	})
}

func TestPolicyCheck(t *testing.T) {
	app, fs, crash := quiesce.LevelApplication, quiesce.LevelFilesystem, quiesce.LevelCrash
	tests := []struct {
		name string
		p    quiesce.Policy
		ok   bool
	}{
		{"good", quiesce.Policy{Ladder: []quiesce.Level{app, fs, crash}, Floor: fs}, true},
		{"empty", quiesce.Policy{Floor: fs}, false},
		{"rising", quiesce.Policy{Ladder: []quiesce.Level{fs, app}, Floor: fs}, false},
		{"twice", quiesce.Policy{Ladder: []quiesce.Level{fs, fs}, Floor: fs}, false},
		{"floor elsewhere", quiesce.Policy{Ladder: []quiesce.Level{app, crash}, Floor: fs}, false},
		{"no level", quiesce.Policy{Ladder: []quiesce.Level{quiesce.LevelNone}}, false},
		{"window too long", quiesce.Policy{Ladder: []quiesce.Level{fs}, Floor: fs, Window: time.Hour}, false},
		{"window negative", quiesce.Policy{Ladder: []quiesce.Level{fs}, Floor: fs, Window: -1}, false},
	}
	for _, test := range tests {
		if err := test.p.Check(); (err == nil) != test.ok {
			t.Errorf("%s: %v", test.name, err)
		}
	}
}
