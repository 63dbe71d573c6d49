package quiesce_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lull-backup/lull/quiesce"
	"github.com/lull-backup/lull/quiesce/quiescetest"
	"github.com/lull-backup/lull/snapshot"
)

// guard records what the coordinator does with it.
type guard struct {
	trial     *trial
	err       error // of Arm
	armed     int
	late      bool // something was frozen when Arm came
	disarmed  int
	thawed    bool // as Disarm was told
	stillHeld bool // the guest was frozen when Disarm said otherwise
}

func (g *guard) Arm(context.Context) error {
	g.late = g.late || g.trial.guest.IsFrozen()
	if g.err != nil {
		return g.err
	}
	g.armed++
	return nil
}

func (g *guard) Disarm(_ context.Context, thawed bool) error {
	g.disarmed++
	g.thawed = thawed
	g.stillHeld = thawed && g.trial.guest.IsFrozen()
	return nil
}

// checkGuards: whoever was asked to freeze was guarded, by every guard, and none is
// sent away too early or left behind.
func (tr *trial) checkGuards(err error) (broken []string) {
	froze := slices.ContainsFunc(tr.guest.Calls(), func(c string) bool { return c == "FreezeFilesystems" })
	for _, g := range tr.guards {
		switch {
		case g.disarmed != g.armed:
			broken = append(broken, "a guard was armed and disarmed a different number of times")
		case g.late:
			broken = append(broken, "a guard was armed after the freeze")
		case g.stillHeld:
			broken = append(broken, "a guard was sent away from a frozen guest")
		case g.disarmed > 0 && g.thawed == errors.Is(err, quiesce.ErrStillFrozen):
			broken = append(broken, "a guard was told other than the caller")
		case froze && g.armed == 0:
			broken = append(broken, "the guest was frozen without its guards")
		}
	}
	return broken
}

// standBy makes the test binary a dead-man.
const standBy = "LULL_TEST_STAND_BY"

func TestMain(m *testing.M) {
	if path := os.Getenv(standBy); path != "" {
		err := quiesce.StandBy(context.Background(), os.Stdin, os.Stdout, func(recipe []byte) (quiesce.Thaw, error) {
			return func(context.Context) error { return os.WriteFile(path, recipe, 0o600) }, nil
		})
		if err != nil {
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// deadMan is a real one, and the file that it writes when it thaws.
func deadMan(t *testing.T) (d *quiesce.DeadMan, thawed string) {
	thawed = t.TempDir() + "/thawed"
	return quiesce.NewDeadMan(func() *exec.Cmd {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), standBy+"="+thawed)
		return cmd
	}, []byte("thawed")), thawed
}

func TestDeadManLeaves(t *testing.T) {
	d, thawed := deadMan(t)
	for range 2 { // rungs
		if err := d.Arm(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := d.Disarm(t.Context(), true); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(thawed); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it thawed a guest that was: %v", err)
	}
}

func TestDeadManThawsWhatIsLeftToIt(t *testing.T) {
	d, thawed := deadMan(t)
	if err := d.Arm(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := d.Disarm(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(time.Minute); ; {
		if b, err := os.ReadFile(thawed); err == nil && string(b) == "thawed" {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("it did not thaw")
		}
	}
}

func TestDeadManThatCannotStart(t *testing.T) {
	for name, c := range map[string]struct {
		cmd  *exec.Cmd
		says string
	}{
		"no program":    {exec.Command("/nonexistent"), "no such file"},
		"ends at once":  {exec.Command("/bin/true"), "ended at once"},
		"says nonsense": {exec.Command("/bin/echo", "hello"), "it said 'h'"},
	} {
		t.Run(name, func(t *testing.T) {
			err := quiesce.NewDeadMan(func() *exec.Cmd { return c.cmd }, nil).Arm(t.Context())
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("arm: %v, want %q in it", err, c.says)
			}
		})
	}
}

func TestStandBy(t *testing.T) {
	for name, c := range map[string]struct {
		word string
		want bool
	}{
		"sent away": {"l", false},
		"died":      {"", true},
		"garbage":   {"x", true},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			thawed := false
			ctx, cancel := context.WithCancel(t.Context())
			cancel() // a signal: not for the dead-man
			err := quiesce.StandBy(ctx, strings.NewReader("{}\n"+c.word), &out, func(recipe []byte) (quiesce.Thaw, error) {
				return func(ctx context.Context) error {
					thawed = string(recipe) == "{}"
					return ctx.Err()
				}, nil
			})
			if err != nil || thawed != c.want || out.String() != "r" {
				t.Errorf("thawed: %v, want %v; said %q, %v", thawed, c.want, out.String(), err)
			}
		})
	}
	ready := func([]byte) (quiesce.Thaw, error) { return nil, nil }
	if err := quiesce.StandBy(t.Context(), strings.NewReader("\n"), broken{}, ready); err == nil {
		t.Error("stands by for nobody")
	}
}

// A dead-man that does not understand what it is to do says so before it is needed.
func TestStandByWithoutRecipe(t *testing.T) {
	for name, said := range map[string]string{
		"ends": "{}", "too long": strings.Repeat("x", 40<<10) + "\n", "refused": "nonsense\n",
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			err := quiesce.StandBy(t.Context(), strings.NewReader(said), &out, func([]byte) (quiesce.Thaw, error) {
				return nil, errors.New("refused")
			})
			if err == nil || out.Len() > 0 {
				t.Errorf("said %q, %v", out.String(), err)
			}
		})
	}
	for _, recipe := range []string{"two\nlines", strings.Repeat("x", 40<<10)} {
		if err := quiesce.NewDeadMan(nil, []byte(recipe)).Arm(t.Context()); err == nil {
			t.Error("a recipe that is no line is taken")
		}
	}
}

type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

// A guest whose guards do not arm is not frozen, and the report says why.
func TestUnguardedIsNotFrozen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := quiescetest.NewGuest()
		held, err := quiesce.Do(t.Context(), quiesce.Job{
			Run: "run-1", VM: "vm", Guest: g, Writers: []quiesce.Writer{quiescetest.Filesystem(g)},
			Policy: quiesce.Policy{Ladder: []quiesce.Level{quiesce.LevelFilesystem, quiesce.LevelCrash}, Floor: quiesce.LevelCrash},
			Take:   func(context.Context) error { return nil },
			Guards: []quiesce.Guard{&guard{trial: &trial{guest: g}, err: errors.New("no more processes")}},
		})
		if err != nil {
			t.Fatal(err)
		}
		report := held.Report()
		if slices.Contains(g.Calls(), "FreezeFilesystems") || report.Level != quiesce.LevelCrash {
			t.Errorf("frozen without a guard: %+v", report)
		}
		if len(report.Reasons) != 1 || !strings.Contains(report.Reasons[0], "no more processes") {
			t.Errorf("reasons: %q", report.Reasons)
		}
	})
}

// A timer that the first rung armed must not run out in the window of the second.
func TestGuardsAreArmedAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := quiescetest.NewGuest()
		app := quiescetest.App("db")
		app.On(quiescetest.Freeze, quiescetest.Act{Err: errors.New("busy")})
		guard := &guard{trial: &trial{guest: g}}
		held, err := quiesce.Do(t.Context(), quiesce.Job{
			Run: "run-1", VM: "vm", Guest: g, Writers: []quiesce.Writer{app, quiescetest.Filesystem(g)},
			Policy: quiesce.Policy{Ladder: []quiesce.Level{quiesce.LevelApplication, quiesce.LevelFilesystem}, Floor: quiesce.LevelFilesystem},
			Take: func(context.Context) error {
				if guard.armed != 2 || guard.disarmed != 1 {
					t.Errorf("in the second window armed %d times, disarmed %d times", guard.armed, guard.disarmed)
				}
				return nil
			},
			Guards: []quiesce.Guard{guard},
		})
		if err != nil {
			t.Fatal(err)
		}
		if held.Report().Level != quiesce.LevelFilesystem || guard.disarmed != 2 || guard.late || guard.stillHeld {
			t.Errorf("level %v, guard %+v", held.Report().Level, guard)
		}
	})
}

// shell runs the timer's programs on this machine.
type shell struct{ path string }

func (s shell) Exec(ctx context.Context, c snapshot.Command) (snapshot.ExecResult, error) {
	cmd := exec.CommandContext(ctx, c.Path, c.Args...)
	cmd.Env = []string{"PATH=" + s.path}
	out, err := cmd.Output()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return snapshot.ExecResult{ExitCode: exit.ExitCode(), Stdout: out}, nil
	}
	return snapshot.ExecResult{Stdout: out}, err
}

// timerPath is a folder with a sleep that ends at once where impatient, and an
// fsfreeze that writes what it is called with into a file.
func timerPath(t *testing.T, sleep string) (path, log string) {
	t.Helper()
	dir := t.TempDir()
	log = dir + "/log"
	for name, body := range map[string]string{
		"sleep":    sleep,
		"fsfreeze": `echo "$@" >>` + log,
	} {
		if err := os.WriteFile(dir+"/"+name, []byte("#!/bin/sh\n"+body+"\n"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return dir + ":/usr/bin:/bin", log
}

func TestTimerThaws(t *testing.T) {
	path, log := timerPath(t, "exit 0")
	timer := quiesce.NewTimer(shell{path}, quiesce.Policy{}, slog.New(slog.DiscardHandler))
	if err := timer.Arm(t.Context()); err != nil {
		t.Fatal(err)
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(time.Minute); ; {
		if b, err := os.ReadFile(log); err == nil && strings.HasPrefix(string(b), "--unfreeze /") {
			break
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("it thawed nothing")
		}
	}
	if err := timer.Disarm(t.Context(), true); err != nil {
		t.Error(err)
	}
}

func TestTimerIsCancelled(t *testing.T) {
	dir := t.TempDir()
	// The timer waits until there is a file, which comes after its end.
	path, log := timerPath(t, `until [ -e `+dir+`/go ]; do /bin/sleep 0.01; done; touch `+dir+`/gone`)
	timer := quiesce.NewTimer(shell{path}, quiesce.Policy{}, slog.New(slog.DiscardHandler))
	if err := timer.Arm(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := timer.Disarm(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/go", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(time.Minute); ; {
		if _, err := os.Stat(dir + "/gone"); err == nil {
			break
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("the sleep of the timer did not end")
		}
	}
	if _, err := os.Stat(log); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a cancelled timer thawed: %v", err)
	}
}

// A guest that cannot run a timer goes without: that must not lower its level.
func TestTimerIsOptional(t *testing.T) {
	for name, guest := range map[string]quiesce.Executor{
		"no fsfreeze": shell{t.TempDir()},
		"no exec":     refusing{},
	} {
		timer := quiesce.NewTimer(guest, quiesce.Policy{}, slog.New(slog.DiscardHandler))
		if err := errors.Join(timer.Arm(t.Context()), timer.Disarm(t.Context(), true)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

type refusing struct{}

func (refusing) Exec(context.Context, snapshot.Command) (snapshot.ExecResult, error) {
	return snapshot.ExecResult{}, errors.New("guest-exec is disabled")
}
