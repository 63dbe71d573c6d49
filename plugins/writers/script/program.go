package script

import (
	"bytes"
	"context"
	_ "embed" // the programs
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/lull-backup/lull/plugins/writers/internal/inguest"
	"github.com/lull-backup/lull/quiesce"
	"github.com/lull-backup/lull/snapshot"
)

var (
	//go:embed common.sh
	commonText string
	//go:embed freeze.sh
	freezeText string
	//go:embed thaw.sh
	thawText string
)

func freezeProgram() string { return commonText + freezeText }
func thawProgram() string   { return commonText + thawText }

// tryAgain is the exit code of a freeze script that may go well later: EX_TEMPFAIL.
const tryAgain = 75

// turns are numbers that only grow, on this host's clock, over all processes of this
// plugin. The one between two of them is the timer's.
type turns struct {
	mu   sync.Mutex
	last int64
}

func (t *turns) next() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last = max(time.Now().UnixNano(), t.last+2)
	return strconv.FormatInt(t.last, 10)
}

// What the programs say.
const (
	verdictEnded = "ended" // and how
	verdictLate  = "late"  // its time was over
	verdictOver  = "over"  // a thaw came first
	verdictNone  = "none"  // there was nothing to thaw
	wordHeld     = "held"  // before ended: the freeze had held until then
)

type verdict struct {
	is     string
	code   int
	held   bool
	output string // the beginning of what the script printed
}

// maxOutput bounds what is kept of a script's output, in bytes.
const maxOutput = 8 << 10

// parseVerdict reads an answer. A guest may say anything.
func parseVerdict(out []byte) (verdict, error) {
	line, rest, _ := bytes.Cut(out, []byte("\n"))
	v := verdict{output: strings.TrimSpace(strings.ToValidUTF8(string(rest[:min(len(rest), maxOutput)]), "?"))}
	words := strings.Fields(string(line[:min(len(line), 100)]))
	if len(words) > 1 && words[0] == wordHeld {
		v.held, words = true, words[1:]
	}
	switch {
	case len(words) == 1 && (words[0] == verdictLate || words[0] == verdictOver || words[0] == verdictNone):
		v.is = words[0]
		return v, nil
	case len(words) == 2 && words[0] == verdictEnded:
		code, err := strconv.ParseUint(words[1], 10, 8)
		v.is, v.code = verdictEnded, int(code)
		return v, err
	}
	return verdict{}, errors.New("no answer of this program")
}

// run runs a program of this package where the scripts are.
func (w *Writer) run(ctx context.Context, r quiesce.Request, program string, args []string) (verdict, error) {
	result, err := w.exec.Exec(ctx, snapshot.Command{
		Path: "/bin/sh", Args: append([]string{"-c", program, "lull-script"}, args...),
		Env: []string{"LULL_VM=" + r.VM, "LULL_RUN=" + r.Run, "LULL_WRITER=" + w.settings.Name},
	})
	if err != nil {
		return verdict{}, w.failure(err)
	}
	v, err := parseVerdict(result.Stdout)
	if err != nil || result.ExitCode != 0 {
		return v, w.failure(fmt.Errorf("run scripts: the shell ended with %d: %s", result.ExitCode, lastLine(string(result.Stderr))))
	}
	return v, nil
}

// probe looks for programs: 4 says that the first is not there, 5 that another is not.
const probe = `[ -x "$1" ] || exit 4; shift; for p; do [ -x "$p" ] || exit 5; done`

// present looks for the scripts.
func (w *Writer) present(ctx context.Context) error {
	if w.exec == nil {
		return w.absent(snapshot.ErrNoGuest)
	}
	if len(w.settings.Freeze) == 0 {
		return w.failure(errors.New("the settings name no program to freeze with"))
	}
	if !w.settings.Host {
		info, err := w.guest.Info(ctx)
		if err != nil {
			return w.failure(err)
		}
		if info.OS == inguest.Windows {
			return w.absent(errors.New("scripts need a guest with a shell"))
		}
	}
	args := []string{"-c", probe, "lull-script", w.settings.Freeze[0]}
	if len(w.settings.Thaw) > 0 {
		args = append(args, w.settings.Thaw[0])
	}
	result, err := w.exec.Exec(ctx, snapshot.Command{Path: "/bin/sh", Args: args})
	switch {
	case err != nil:
		return w.failure(err)
	case result.ExitCode == 4 && !w.settings.Host:
		return w.absent(fmt.Errorf("%s is not there, or no program", w.settings.Freeze[0]))
	case result.ExitCode != 0:
		return w.failure(snapshot.WithHint(fmt.Errorf("a program of %q is not there, or none", args[3:]), "install both with mode 755"))
	}
	return nil
}

// judge turns how a script ended into a failure.
func (w *Writer) judge(what string, command []string, v verdict) error {
	f := &quiesce.Failure{Writer: w.settings.Name}
	switch {
	case v.is == verdictEnded && v.code == 0:
		return nil
	case v.is == verdictLate:
		f.Class, f.Next = quiesce.Timeout, "find out what it waits for, or give it a longer limit"
		f.Err = fmt.Errorf("%s took longer than %ss and was killed%s", command[0], w.limit(), said(v.output))
	case v.is == verdictOver:
		f.Err, f.Next = errors.New("a later call came first"), "if it stays: did the clock of this host go back?"
	case v.is == verdictNone:
		f.Err = errors.New("no answer of this program")
	default:
		f.Err = fmt.Errorf("%s ended with %d%s", command[0], v.code, said(v.output))
		if what == "freeze" {
			f.Class = quiesce.Vetoed
		}
		if what == "freeze" && v.code == tryAgain {
			f.Class = quiesce.Retryable
		}
	}
	return f
}

// said is the last line of an output as an addition to an error.
func said(output string) string {
	if line := lastLine(output); line != "" {
		return fmt.Sprintf("; it said %q", line)
	}
	return ""
}

func lastLine(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	line := lines[len(lines)-1]
	return strings.ToValidUTF8(line[:min(len(line), 200)], "?")
}

func (w *Writer) absent(err error) error {
	return &quiesce.Failure{Class: quiesce.NotPresent, Writer: w.settings.Name, Err: err}
}

// failure types an error of the way to the scripts. This host has no agent to look after.
func (w *Writer) failure(err error) error {
	if w.settings.Host && errors.Is(err, context.DeadlineExceeded) {
		return &quiesce.Failure{Class: quiesce.Timeout, Writer: w.settings.Name, Err: err}
	}
	return inguest.Fail(w.settings.Name, err)
}
