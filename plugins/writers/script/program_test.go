package script

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// shell runs a program of the package over the state of one test, and returns the line that
// it answers.
func shell(t *testing.T, program string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "/bin/sh", append([]string{"-c", program, "lull-script"}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return strings.TrimSpace(string(out))
}

// TestTurns: a thaw undoes what has a lower turn than its own, and keeps it from
// beginning; it leaves alone what has a higher one.
func TestTurns(t *testing.T) {
	t.Parallel() // it waits for programs more than it works
	dir := t.TempDir()
	state, mark := filepath.Join(dir, "state"), filepath.Join(dir, "mark")
	freeze := func(turn, hold string) string {
		return shell(t, freezeProgram(), state, turn, "9", hold, thawProgram(), "2", "touch", mark, "rm", "-f", mark)
	}
	thaw := func(turn string) string { return shell(t, thawProgram(), state, turn, "9", "rm", "-f", mark) }
	is := func(what, got, want string, frozen bool) {
		t.Helper()
		if got != want {
			t.Errorf("%s: %q, want %q", what, got, want)
		}
		if _, err := os.Stat(mark); (err == nil) != frozen {
			t.Errorf("%s: frozen is %v, want %v", what, err == nil, frozen)
		}
	}
	is("thaw of nothing", thaw("1000"), "none", false)
	is("freeze that comes late", freeze("998", "60"), "over", false)
	is("freeze", freeze("1002", "60"), "ended 0", true)
	is("thaw that comes late", thaw("1001"), "none", true)
	is("thaw", thaw("1004"), "held ended 0", false)
	is("second thaw", thaw("1006"), "none", false)

	is("freeze that nobody thaws", freeze("1008", "0.3"), "ended 0", true)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for begin := time.Now(); time.Since(begin) < time.Minute; <-tick.C {
		if left, err := filepath.Glob(filepath.Join(state, "[be]*-*")); err == nil && len(left) == 0 {
			break
		}
	}
	is("thaw after the timer's", thaw("1010"), "none", false)
}

// TestTimerFindsNothing: a timer that finds its freeze undone, or the folder of the state
// gone, makes nothing anew.
func TestTimerFindsNothing(t *testing.T) {
	t.Parallel() // it waits for programs more than it works
	state := filepath.Join(t.TempDir(), "state")
	const waits = `sleep "$1"; [ -d`
	program := strings.Replace(freezeProgram(), waits, `until [ -e "$2.on" ]; do sleep 0.01; done; [ -d`, 1)
	if program == freezeProgram() {
		t.Fatalf("no %s in the program", waits)
	}
	if got := shell(t, program, state, "100", "9", "60", thawProgram(), "1", "true", "true"); got != "ended 0" {
		t.Fatalf("freeze: %q", got)
	}
	pid, err := os.ReadFile(filepath.Join(state, "begun-100", "hold"))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.RemoveAll(state), os.WriteFile(state+".on", nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	if p := filepath.Join("/proc", strings.TrimSpace(string(pid)), "cmdline"); !gone(p) {
		t.Errorf("%s runs on", p)
	}
	if _, err := os.Stat(state); !os.IsNotExist(err) {
		t.Errorf("the folder is there again: %v", err)
	}
}

// TestSlowFreeze: a freeze whose script has not left its number when its thaw comes does
// not begin it after that, wherever it was.
func TestSlowFreeze(t *testing.T) {
	t.Parallel() // it waits for programs more than it works
	const leaves = `echo $$ >"$1"`
	for name, slow := range map[string]string{
		"before its number": `WAIT; echo $$ >"$1"`,
		"file without it":   `{ WAIT; echo $$; } >"$1"`,
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			state, mark := filepath.Join(dir, "state"), filepath.Join(dir, "mark")
			at, on, over := filepath.Join(dir, "at"), filepath.Join(dir, "on"), filepath.Join(dir, "over")
			wait := "touch " + at + "; until [ -e " + on + " ]; do sleep 0.01; done"
			program := strings.Replace(freezeProgram(), leaves, strings.Replace(slow, "WAIT", wait, 1), 1)
			if program == freezeProgram() {
				t.Fatalf("no %s in the program", leaves)
			}
			thaw := []string{"sh", "-c", `rm -f "$1"; touch "$2"; until [ -e "$1" ] || [ -e "$3" ]; do sleep 0.01; done`,
				"thaw", mark, on, over}
			freeze := exec.CommandContext(t.Context(), "/bin/sh", append([]string{"-c", program, "lull-script",
				state, "100", "9", "60", thawProgram(), "2", "touch", mark}, thaw...)...)
			ended := make(chan error, 1)
			go func() {
				_, err := freeze.Output()
				ended <- errors.Join(err, os.WriteFile(over, nil, 0o600))
			}()
			appears(t, at)
			if got := shell(t, thawProgram(), append([]string{state, "102", "9"}, thaw...)...); got != "ended 0" {
				t.Errorf("thaw: %q", got)
			}
			if err := <-ended; err != nil {
				t.Error(err)
			}
			if _, err := os.Stat(mark); err == nil {
				t.Error("it is frozen after its thaw")
			}
		})
	}
}

func appears(t *testing.T, path string) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for begin := time.Now(); time.Since(begin) < time.Minute; <-tick.C {
		if _, err := os.Stat(path); err == nil {
			return
		}
	}
	t.Fatalf("%s does not appear", path)
}

// TestNothingRunsOn: after a cycle no process of it is left.
func TestNothingRunsOn(t *testing.T) {
	state := filepath.Join(t.TempDir(), "state")
	shell(t, freezeProgram(), state, "100", "9", "60", thawProgram(), "1", "true", "true")
	shell(t, thawProgram(), state, "102", "9", "true")
	processes, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range processes {
		line, err := os.ReadFile(p)
		if err == nil && strings.Contains(string(line), state) && !gone(p) {
			t.Errorf("%s runs on: %q", p, line[:min(len(line), 100)])
		}
	}
}

// gone waits for the end of a process that was killed.
func gone(cmdline string) bool {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for range 6000 {
		if line, err := os.ReadFile(cmdline); err != nil || len(line) == 0 {
			return true
		}
		<-tick.C
	}
	return false
}

func TestVerdicts(t *testing.T) {
	for out, want := range map[string]verdict{
		"ended 0\n":                {is: verdictEnded},
		"ended 7\nno\n":            {is: verdictEnded, code: 7, output: "no"},
		"held ended 0\nbye\n":      {is: verdictEnded, held: true, output: "bye"},
		"held late\n":              {is: verdictLate, held: true},
		"late\nwaiting\n\x00\xff":  {is: verdictLate, output: "waiting\n\x00?"},
		"over":                     {is: verdictOver},
		"none\n":                   {is: verdictNone},
		"ended 0\n" + big(1<<20):   {is: verdictEnded, output: big(maxOutput)},
		"ended 255\n" + "\n\n \nx": {is: verdictEnded, code: 255, output: "x"},
	} {
		if got, err := parseVerdict([]byte(out)); err != nil || got != want {
			t.Errorf("%.40q: %.200v, %v", out, got, err)
		}
	}
	for _, out := range []string{"", "\n", "ended\n", "ended 256\n", "ended -1\n", "held\n", "held held ended 0\n", "late 1\n", "sh: not found\n"} {
		if got, err := parseVerdict([]byte(out)); err == nil {
			t.Errorf("%q: %v", out, got)
		}
	}
}

func big(n int) string { return strings.Repeat("x", n) }

func FuzzVerdict(f *testing.F) {
	f.Add([]byte("held ended 0\nbye\n"))
	f.Add([]byte("late\n"))
	f.Fuzz(func(t *testing.T, out []byte) {
		v, err := parseVerdict(out)
		if err == nil && (v.is == "" || v.code < 0 || v.code > 255 || len(v.output) > 3*maxOutput) {
			t.Errorf("%+v", v)
		}
		_ = said(v.output)
	})
}
