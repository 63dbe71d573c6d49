package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/lull-backup/lull/plugins"
	"github.com/lull-backup/lull/plugins/plugintest"
	"github.com/lull-backup/lull/quiesce"
	"github.com/lull-backup/lull/snapshot"
)

func (in *invocation) pluginDebugCommand() *cobra.Command {
	var f subjectFlags
	var abort bool
	cmd := f.add(&cobra.Command{
		Use:   "debug {PATH [ARG...] | NAME}",
		Short: "Play one backup with a plugin and show all that it does",
		Long: "Play one backup with a plugin, over a fake guest or this machine (--here), and show\n" +
			"each call with its time, what the plugin does in the guest, and what it logs.",
		Example: "  lull plugin debug ./redis\n  lull plugin debug --here --abort ./sqlite-writer /srv/app.db",
		Args:    argCount(1, -1, "the plugin"),
		RunE: in.run(func(cmd *cobra.Command, args []string) error {
			spec, err := in.subject(args, f)
			if err != nil {
				return err
			}
			return in.debugPlugin(cmd.Context(), spec, f.guest(), abort)
		}),
	})
	cmd.Flags().BoolVar(&abort, "abort", false, "abort in the freeze window instead of going through")
	return cmd
}

func (in *invocation) debugPlugin(ctx context.Context, spec plugins.Spec, guest plugintest.Guest, abort bool) (err error) {
	out := &trace{w: in.Stdout}
	p, err := plugins.Start(ctx, spec, &traced{Guest: guest, out: out}, slog.New(slog.NewTextHandler(out, &slog.HandlerOptions{Level: slog.LevelInfo})))
	if err != nil {
		return fmt.Errorf("debug plugin: %w", err)
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	req := quiesce.Request{Run: "debug-1", VM: "lab/debug"}
	for _, c := range debugCalls(p, req, abort) {
		if err := out.call(ctx, c); err != nil {
			_ = out.call(context.WithoutCancel(ctx), debugAbort(p, req)) // it is shown; what failed first is the news
			return fmt.Errorf("debug plugin: %s: %w", c.name, err)
		}
	}
	return nil
}

// debugCall is one call; what it returns is shown.
type debugCall struct {
	name  string
	limit time.Duration
	run   func(context.Context) (string, error)
}

func debugAbort(p *plugins.Plugin, req quiesce.Request) debugCall {
	return debugCall{"abort", 30 * time.Second, func(ctx context.Context) (string, error) { return "", p.Abort(ctx, req) }}
}

func debugCalls(p *plugins.Plugin, req quiesce.Request, abort bool) []debugCall {
	var id quiesce.Identity
	var found []quiesce.Component
	calls := []debugCall{
		{"identify", identifyLimit, func(ctx context.Context) (_ string, err error) {
			id, err = p.Identify(ctx)
			return fmt.Sprintf("%s %s, %s, %s", id.Name, id.Version, id.Level, tierName(id.Tier)), err
		}},
		{"prepare", 10 * time.Minute, func(ctx context.Context) (_ string, err error) {
			found, err = p.Prepare(ctx, quiesce.PrepareRequest{Request: req})
			return componentsText(found), err
		}},
		{"freeze", quiesce.DefaultWindow, func(ctx context.Context) (string, error) { return "", p.Freeze(ctx, req) }},
	}
	if abort {
		return append(calls, debugAbort(p, req))
	}
	return append(calls,
		debugCall{"thaw", quiesce.DefaultWindow, func(ctx context.Context) (string, error) {
			r, err := p.Thaw(ctx, req)
			if !r.Held {
				return "the freeze had not held", err
			}
			return "the freeze had held", err
		}},
		debugCall{"post-snapshot", 2 * time.Minute, func(ctx context.Context) (string, error) {
			doc, err := p.PostSnapshot(ctx, req)
			return fmt.Sprintf("a document of %d bytes: %.200s", len(doc), doc), err
		}},
		debugCall{"complete", 5 * time.Minute, func(ctx context.Context) (string, error) {
			return "", p.Complete(ctx, debugComplete(id.Name, req, found))
		}},
	)
}

// debugComplete tells of a restore point in which all that the plugin speaks for succeeded.
func debugComplete(name string, req quiesce.Request, found []quiesce.Component) quiesce.CompleteRequest {
	c := quiesce.CompleteRequest{Request: req, Point: "20260102T030405Z-0123456789ab", Level: quiesce.LevelApplication}
	for _, f := range found {
		c.Outcomes = append(c.Outcomes, quiesce.Outcome{Writer: name, Component: f, Succeeded: true, Level: quiesce.LevelApplication})
	}
	return c
}

// componentsText names what a plugin speaks for.
func componentsText(found []quiesce.Component) string {
	var names []string
	for _, c := range found {
		names = append(names, fmt.Sprintf("%s (%d files)", c.Name, len(c.Files)))
	}
	return strings.Join(names, ", ")
}

// trace writes lines of several goroutines. Safe for concurrent use.
type trace struct {
	mu sync.Mutex
	w  io.Writer
}

func (t *trace) Write(p []byte) (int, error) {
	t.say("    plugin  %s", p)
	return len(p), nil
}

func (t *trace) say(format string, args ...any) {
	line := fmt.Sprintf(format, args...)
	t.mu.Lock()
	defer t.mu.Unlock()
	indent := line[:len(line)-len(strings.TrimLeft(line, " "))]
	fmt.Fprintln(t.w, indent+printable(line))
}

func (t *trace) call(ctx context.Context, c debugCall) error {
	ctx, cancel := context.WithTimeout(ctx, c.limit)
	defer cancel()
	t.say("%s", c.name)
	begin := time.Now()
	text, err := c.run(ctx)
	spent := took(time.Since(begin))
	if err != nil {
		t.say("    FAILED after %s: %v", spent, err)
		return err
	}
	t.say("    done in %s %s", spent, text)
	return nil
}

// traced shows what is done in a guest.
type traced struct {
	plugintest.Guest
	out *trace
}

func (t *traced) told(err error, format string, args ...any) {
	line := "    guest   " + fmt.Sprintf(format, args...)
	if err != nil {
		line += ": " + err.Error()
	}
	t.out.say("%s", line)
}

// Exec is shown with its exit code.
func (t *traced) Exec(ctx context.Context, c snapshot.Command) (snapshot.ExecResult, error) {
	r, err := t.Guest.Exec(ctx, c)
	t.told(err, "exec %s %q: exit code %d, %.200q %.200q", c.Path, c.Args, r.ExitCode, r.Stdout, r.Stderr)
	return r, err
}

// ReadFile is shown.
func (t *traced) ReadFile(ctx context.Context, path string, limit int64) ([]byte, error) {
	data, err := t.Guest.ReadFile(ctx, path, limit)
	t.told(err, "read %s: %d bytes", path, len(data))
	return data, err
}

// WriteFile is shown.
func (t *traced) WriteFile(ctx context.Context, path string, data []byte) error {
	err := t.Guest.WriteFile(ctx, path, data)
	t.told(err, "write %s: %d bytes", path, len(data))
	return err
}

// FreezeFilesystems is shown.
func (t *traced) FreezeFilesystems(ctx context.Context, mountPoints []string) (int, error) {
	n, err := t.Guest.FreezeFilesystems(ctx, mountPoints)
	t.told(err, "freeze %d file systems %q", n, mountPoints)
	return n, err
}

// ThawFilesystems is shown.
func (t *traced) ThawFilesystems(ctx context.Context) (int, error) {
	n, err := t.Guest.ThawFilesystems(ctx)
	t.told(err, "thaw %d file systems", n)
	return n, err
}
