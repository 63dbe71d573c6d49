package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lull-backup/lull/agent"
	"github.com/lull-backup/lull/plugins/sdk"
	"github.com/lull-backup/lull/quiesce"
)

// keeperName is the plugin that the test binary is under that name.
const keeperName = "keeper"

// keeperLog names the file that the plugin writes down in what it hears.
const keeperLog = "KEEPER_LOG"

// heardIt ends the name of the file that says that its progress was heard.
const heardIt = ".heard"

// keeper is a writer whose application is a file of the guest.
type keeper struct{ guest sdk.Guest }

func serveKeeper() {
	if err := sdk.Serve(&keeper{}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func (k *keeper) Connect(_ context.Context, g sdk.Guest) error {
	k.guest = g
	return nil
}

func (k *keeper) shell(ctx context.Context, script string) (int, error) {
	if k.guest == nil {
		return 0, errors.New("no guest")
	}
	res, err := k.guest.Exec(ctx, sdk.Command{Path: "/bin/sh", Args: []string{"-c", script}})
	return res.ExitCode, err
}

func (k *keeper) note(format string, args ...any) error {
	f, err := os.OpenFile(os.Getenv(keeperLog), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(f, format+"\n", args...)
	return errors.Join(err, f.Close())
}

// Prepare says what is not granted.
func (k *keeper) Prepare(ctx context.Context, r sdk.PrepareRequest) ([]sdk.Component, error) {
	if _, err := k.guest.ReadFile(ctx, "/etc/passwd", 1<<20); !errors.Is(err, sdk.ErrDenied) {
		return nil, fmt.Errorf("a file was read that is not granted: %w", err)
	}
	sdk.Log(ctx).Warn("keeper prepares")
	sdk.Progress(ctx, "shelves", 1, 2)
	if err := k.heard(ctx); err != nil {
		return nil, err
	}
	return []sdk.Component{{Name: "shelf", Files: []string{"/run/keeper"}}}, k.note("prepare %s, secrets in the environment: %v", r.VM, os.Getenv("LULL_PASSPHRASE") != "")
}

// heard waits until the test has heard how far Prepare is.
func (k *keeper) heard(ctx context.Context) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, err := os.Stat(os.Getenv(keeperLog) + heardIt); err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (k *keeper) Freeze(ctx context.Context, _ sdk.Request) error {
	_, err := k.shell(ctx, "touch /run/keeper")
	return errors.Join(err, k.note("freeze"))
}

func (k *keeper) Thaw(ctx context.Context, _ sdk.Request) (sdk.ThawResult, error) {
	code, err := k.shell(ctx, "rm /run/keeper")
	return sdk.ThawResult{Held: code == 0}, errors.Join(err, k.note("thaw"))
}

func (k *keeper) PostSnapshot(context.Context, sdk.Request) ([]byte, error) {
	return []byte("position 42"), nil
}

func (k *keeper) Complete(_ context.Context, r sdk.CompleteRequest) error {
	for _, o := range r.Outcomes {
		if err := k.note("complete %s %v: %v in a point of level %v: %t", o.Name, o.Files, o.Level, r.Level, o.Succeeded && r.Point != ""); err != nil {
			return err
		}
	}
	return nil
}

func (k *keeper) PreRestore(_ context.Context, r sdk.RestoreRequest) error {
	return k.note("pre-restore %s: %s, guest %v", r.VM, r.Document, k.guest != nil)
}

func (k *keeper) PostRestore(_ context.Context, r sdk.RestoreRequest) error {
	return k.note("post-restore %s: %s", r.VM, r.Document)
}

const wantApplication = "schedule: manual, consistency: {ladder: [application, filesystem, crash], floor: crash, window: 60s}"

// level proves the level of the last point, and that each of the words is in a warning.
func (l *lab) level(want quiesce.Level, words ...string) {
	l.t.Helper()
	r := l.result()
	if got := r.Point.Quiesce.Level; got != want {
		l.t.Errorf("level %v, want %v: %q", got, want, r.Warnings)
	}
	for _, w := range words {
		if !slices.ContainsFunc(r.Warnings, func(s string) bool { return strings.Contains(s, w) }) {
			l.t.Errorf("no warning says %q: %q", w, r.Warnings)
		}
	}
	l.tidy()
}

// configuredPlugin: a plugin of the configuration, known by its SHA-256 and with one
// grant, brings a real guest to the level application, and gets its document back.
func configuredPlugin(l *lab) {
	heard := filepath.Join(l.dir, "keeper.log")
	l.writers = fmt.Sprintf("plugins: {keeper: {sha256: %q, grants: [exec], env: {%s: %s}}}", l.installKeeper(), keeperLog, heard)
	l.configure(l.web(), wantApplication)
	l.hear = func(e agent.Event) {
		if e.Step != agent.StepWriter {
			return
		}
		if err := os.WriteFile(heard+heardIt, nil, 0o600); err != nil {
			l.t.Error(err)
		}
	}
	_, _, said := l.attempt(l.ctx, "backup", "lab/web")
	l.hear = nil
	l.level(quiesce.LevelApplication)
	for _, word := range []string{"keeper prepares", "plugin=keeper", "run=" + l.result().Run, "vm=lab/web", "lull: lab/web: keeper: shelves: 1 of 2\n"} {
		if !strings.Contains(said, word) {
			l.t.Errorf("the log does not say %q:\n%s", word, said)
		}
	}
	l.lull(exitDone, "restore", "lab/web", "--to", filepath.Join(l.dir, "kept"))
	l.lull(exitDone, "restore", "lab/web", "--to", filepath.Join(l.dir, "alone"), "--without-writers")
	log, err := os.ReadFile(heard)
	if err != nil {
		l.t.Fatal(err)
	}
	want := []string{
		"prepare lab/web, secrets in the environment: false", "freeze", "thaw",
		"complete shelf [/run/keeper]: application in a point of level application: true",
		"pre-restore lab/web: position 42, guest false", "post-restore lab/web: position 42", "",
	}
	if diff := cmp.Diff(want, strings.Split(string(log), "\n")); diff != "" {
		l.t.Errorf("the plugin heard (-want +got):\n%s", diff)
	}
}

// installKeeper puts this program into the folder of plugins and returns its SHA-256.
func (l *lab) installKeeper() string {
	l.t.Helper()
	dir := filepath.Join(l.dir, "plugins")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		l.t.Fatal(err)
	}
	if err := os.Symlink(l.program, filepath.Join(dir, keeperName)); err != nil {
		l.t.Fatal(err)
	}
	f, err := os.Open(l.program)
	if err != nil {
		l.t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		l.t.Fatal(err)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// install puts a program into the guest.
func (l *lab) install(path, script string) {
	l.t.Helper()
	l.inGuest("printf '#!/bin/sh\\n%s\\n' '" + script + "' >" + path + "; chmod +x " + path)
}

// guestScripts: programs in the guest, run by its own shell, which is not the one of the
// unit tests; one that vetoes, and one that is too slow.
func guestScripts(l *lab) {
	l.writers = "scripts: {app: {freeze: [/run/app, freeze], thaw: [/run/app, thaw], limit: 3s}}"
	l.configure(l.web(), wantApplication)
	l.lull(exitWarnings, "backup", "lab/web")
	l.level(quiesce.LevelFilesystem, "no application of a writer is in this guest")

	l.install("/run/app", "echo $1 $LULL_VM | tee -a /run/app.log; sleep 100 &")
	l.lull(exitDone, "backup", "lab/web")
	l.level(quiesce.LevelApplication)
	l.scriptsRan("freeze lab/web\nthaw lab/web\n")
	for _, w := range l.result().Point.Quiesce.Writers {
		if want := `{"freeze":"freeze lab/web","thaw":"thaw lab/web"}`; w.Identity.Name == "app" && string(w.Document) != want {
			l.t.Errorf("document %s, want %s", w.Document, want)
		}
	}

	l.install("/run/app", "echo $1 | tee -a /run/app.log; [ $1 = thaw ]")
	l.lull(exitWarnings, "backup", "lab/web")
	l.level(quiesce.LevelFilesystem, `writer app: vetoed: freeze: /run/app ended with 1; it said "freeze"`)
	for _, o := range l.result().Point.Quiesce.Components {
		if app := o.Writer == "app"; o.Succeeded == app || o.Level != quiesce.LevelFilesystem || strings.Contains(o.Reason, "/run/app ended with 1") != app {
			l.t.Errorf("outcome %+v", o)
		}
	}
	l.scriptsRan("freeze\nthaw\n")

	l.install("/run/app", "echo $1 >>/run/app.log; [ $1 = thaw ] || sleep 100")
	l.lull(exitWarnings, "backup", "lab/web")
	l.level(quiesce.LevelFilesystem, "took longer than 3s and was killed")
	l.scriptsRan("freeze\nthaw\n")
	l.inGuest("! ls -d /run/lull/scripts/app/begun-*")
}

// killedHolding: what holds an application still in the guest ends with lull, long before
// its own time is up, and nobody starts lull again before that.
func killedHolding(l *lab) {
	l.writers = "scripts: {app: {freeze: [/run/app, freeze], thaw: [/run/app, thaw], limit: 3s}}"
	l.configure(l.web(), wantApplication)
	l.install("/run/app", "echo $1 >>/run/app.log")
	l.killedAt(agent.StepTaken)
	l.goesOn()
	ctx, cancel := context.WithTimeout(l.ctx, quiesce.MaxWindow)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, err := l.guest.Exec(ctx, "/bin/sh", "-c", "grep -q thaw /run/app.log"); err == nil {
			break
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			l.t.Fatal("the application still holds still")
		}
	}
	l.scriptsRan("freeze\nthaw\n")
	l.lull(exitDone, "backup", "lab/web")
	l.tidy()
}

// scriptsRan proves what ran in the guest since it was asked last.
func (l *lab) scriptsRan(want string) {
	l.t.Helper()
	got, err := l.guest.Exec(l.ctx, "/bin/sh", "-c", "cat /run/app.log; rm /run/app.log")
	if err != nil || string(got) != want {
		l.t.Errorf("ran %q, %v; want %q", got, err, want)
	}
}

// mountPoints: those that a group names are frozen, and a name that is none shows.
func mountPoints(l *lab) {
	l.configure(l.web(), bestLevel+", mount_points: [/data/0]")
	l.lull(exitDone, "backup", "lab/web")
	l.level(quiesce.LevelFilesystem)
	l.configure(l.web(), bestLevel+", mount_points: [/data/0, /data/typo]")
	l.lull(exitWarnings, "backup", "lab/web")
	l.level(quiesce.LevelCrash, "froze 1 of the 2 file systems", "mount_points")
}

// hiddenHook: the dispatcher of hooks, which Debian's is after, ends well whatever they
// do.
func hiddenHook(l *lab) {
	l.inGuest("mkdir -p /var/log")
	l.hook(`[ "$1" = thaw ] || echo "$(date): /etc/qemu/fsfreeze-hook.d/mysql finished with status=7" >>/var/log/qga-fsfreeze-hook.log`)
	l.configure(l.web(), bestLevel)
	l.lull(exitWarnings, "backup", "lab/web")
	l.level(quiesce.LevelFilesystem, "hooks of the guest failed around the freeze: /etc/qemu/fsfreeze-hook.d/mysql ended with 7")
	l.inGuest("rm /run/freeze-hook")
	l.lull(exitDone, "backup", "lab/web")
	l.level(quiesce.LevelFilesystem)
}
