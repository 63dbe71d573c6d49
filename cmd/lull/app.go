package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"time"

	"golang.org/x/term"

	"github.com/lull-backup/lull/agent"
	"github.com/lull-backup/lull/config"
	"github.com/lull-backup/lull/transport/repo"
)

// App is lull with its surroundings. The zero value of an optional field turns
// off what it stands for. End-to-end tests fill one in and call Run.
type App struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Env            func(key string) string

	// Terminal says that stderr is one: progress is drawn there.
	Terminal bool
	// Ask prompts for a secret without showing it; nil when nobody can answer.
	Ask func(ctx context.Context, prompt string) ([]byte, error)
	// Observe hears every event of every run, before it is printed. Optional.
	Observe agent.Observer
	// Checkpointing hears each step of an operation on checkpoints before it is done.
	// Optional.
	Checkpointing func(vm, step string)
	// Program is the lull binary that plugin processes are started from.
	Program string
	// Patience is how long a store may be away before a run gives up; 0: the
	// usual time.
	Patience time.Duration
	// MinFree is how many bytes deltas leave free, where the configuration does not say; 0: the
	// usual, fewer than none: nothing.
	MinFree int64
	// TPMDir is where libvirt keeps the state of emulated TPMs; empty: the usual.
	TPMDir string
	// Cost is what trying a passphrase of a new key costs; zero: the usual cost.
	Cost repo.Cost
	// Version is what `lull version` says and restore points record.
	Version string
}

// processApp is the App of this process.
func processApp() *App {
	app := &App{
		Stdin:    os.Stdin,
		Stdout:   os.Stdout,
		Stderr:   os.Stderr,
		Env:      os.Getenv,
		Terminal: term.IsTerminal(int(os.Stderr.Fd())),
		Program:  "/proc/self/exe",
		Version:  buildVersion(),
	}
	if path, err := os.Executable(); err == nil {
		app.Program = path
	}
	if term.IsTerminal(int(os.Stdin.Fd())) {
		app.Ask = terminalAsk(os.Stdin, os.Stderr)
	}
	return app
}

// Run carries out one command line and returns the exit code. A cancelled ctx
// ends it as soon as everything is put back in order.
func (a *App) Run(ctx context.Context, args []string) int {
	in := &invocation{App: a}
	root := in.rootCommand()
	root.SetArgs(args)
	root.SetIn(a.Stdin)
	root.SetOut(a.Stdout)
	root.SetErr(a.Stderr)
	cmd, err := root.ExecuteContextC(ctx)
	err = errors.Join(err, in.closeHosts())
	if err != nil && !in.started {
		err = asUsage(cmd, err)
		// Parsing stops at the mistake; who asked for JSON after it gets it too.
		in.flags.json = in.flags.json || slices.Contains(args, "--json")
	}
	in.fail(err)
	return in.code
}

// invocation is one command line on its way.
type invocation struct {
	*App
	flags   globalFlags
	started bool // the arguments were right and the command's own work began
	code    int

	opened     []io.Closer // hosts: whatever a command did, they let go at its end
	unattended bool        // nobody is there to answer a question
}

// closeHosts ends the connections that hosts still hold.
func (in *invocation) closeHosts() error {
	var errs []error
	for _, h := range in.opened {
		errs = append(errs, h.Close())
	}
	return errors.Join(errs...)
}

// globalFlags are understood by every command.
type globalFlags struct {
	config     string
	repository string
	repoDir    string
	passphrase string // path of the file that holds it
	key        keyFlags
	// compression is of backups; empty: as configured.
	compression string
	json        bool
	quiet       bool
}

// fail reports err, if any, and lets it count for the exit code.
func (in *invocation) fail(err error) { in.failVM("", err) }

// failVM is fail for one of several VMs.
func (in *invocation) failVM(vm string, err error) {
	if err == nil {
		return
	}
	code := exitCode(err)
	in.code = worse(in.code, code)
	if errors.Is(err, errReported) {
		return
	}
	for _, line := range errorLines(err) {
		fmt.Fprintln(in.Stderr, line)
	}
	if !in.flags.json {
		return
	}
	r := report{VM: vm, Error: plainError(err), Hint: hintOf(err), ExitCode: code}
	if wrong := (config.Errors)(nil); errors.As(err, &wrong) {
		r.Problems = problems(wrong)
		r.Error = fmt.Sprintf("%s: %s", wrong[0].File, count(len(wrong), "mistake")) // each is among them
	}
	if err := writeJSON(in.Stdout, r); err != nil {
		fmt.Fprintln(in.Stderr, errorLine(err))
	}
}

// warn tells the user of something that does not stop the command.
func (in *invocation) warn(format string, args ...any) {
	if !in.flags.quiet {
		fmt.Fprintln(in.Stderr, "lull: warning: "+printable(fmt.Sprintf(format, args...)))
	}
}

// note tells the user what is being done.
func (in *invocation) note(format string, args ...any) {
	if !in.flags.quiet && !in.flags.json {
		fmt.Fprintln(in.Stderr, "lull: "+printable(fmt.Sprintf(format, args...)))
	}
}

// logger is for what packages have to say on the way.
func (in *invocation) logger(level slog.Level) *slog.Logger {
	if in.flags.quiet {
		level = slog.LevelError
	}
	return slog.New(slog.NewTextHandler(in.Stderr, &slog.HandlerOptions{Level: level}))
}
