package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/lull-backup/lull/plugins"
	"github.com/lull-backup/lull/plugins/plugintest"
)

// identifyLimit is how long a plugin may take to say who it is.
const identifyLimit = 10 * time.Second

func (in *invocation) pluginVerifyCommand() *cobra.Command {
	var f subjectFlags
	var junit string
	var limit time.Duration
	cmd := f.add(&cobra.Command{
		Use:   "verify {PATH [ARG...] | NAME}",
		Short: "Hold a plugin to the contract, over a fake guest",
		Long: "Hold a writer plugin, of any language, to its contract: handshake and versions, every\n" +
			"call in and out of order, calls that are given up, and the end of the plugin or of its\n" +
			"host at every call. The guest is a fake one whose commands echo their input; with\n" +
			"--here it is this machine. Only an application that may be stopped belongs there.",
		Example: "  lull plugin verify ./redis\n  lull plugin verify --here --junit report.xml ./sqlite-writer /srv/app.db",
		Args:    argCount(1, -1, "the plugin"),
		RunE: in.run(func(cmd *cobra.Command, args []string) error {
			spec, err := in.subject(args, f)
			if err != nil {
				return err
			}
			return in.verifyPlugin(cmd.Context(), plugintest.Options{
				Path: spec.Path, Args: spec.Args, Env: spec.Env, User: spec.User,
				Grants: append([]plugins.Grant{}, spec.Grants...), // nil is all of them to the kit
				Guest:  f.guest, Limit: limit, Log: slog.New(slog.DiscardHandler),
			}, junit)
		}),
	})
	cmd.Flags().StringVar(&junit, "junit", "", "write a JUnit report to this `FILE`")
	cmd.Flags().DurationVar(&limit, "limit", plugintest.DefaultLimit, "how long one call may take")
	return cmd
}

func (in *invocation) verifyPlugin(ctx context.Context, o plugintest.Options, junit string) error {
	report := plugintest.Verify(ctx, o, func(r plugintest.Result) {
		if !in.flags.json && (r.Failed || !in.flags.quiet) {
			in.showResult(r)
		}
	})
	if junit != "" {
		if err := writeJUnit(report, junit); err != nil {
			return fmt.Errorf("verify plugin: %w", err)
		}
	}
	if in.flags.json {
		if err := writeJSON(in.Stdout, report); err != nil {
			return err
		}
	}
	switch n := report.Failed(); {
	case report.Interrupted != "":
		return fmt.Errorf("verify plugin %s: %s", o.Path, report.Interrupted)
	case n > 0:
		return withHint(fmt.Errorf("verify plugin %s: %d of %s failed", o.Path, n, count(len(report.Results), "test")), "docs/plugins.md says what each asks for")
	}
	in.note("%s passed in %s", count(len(report.Results), "test"), took(report.Took))
	return nil
}

func (in *invocation) showResult(r plugintest.Result) {
	word := "ok    "
	if r.Failed {
		word = "FAILED"
	}
	fmt.Fprintf(in.Stdout, "%s  %-28s %s\n", word, r.Name, took(r.Took))
	for _, f := range r.Failures {
		for line := range strings.Lines(f) {
			fmt.Fprintln(in.Stdout, "        "+printable(line))
		}
	}
}

func writeJUnit(report plugintest.Report, path string) (err error) {
	f, err := os.Create(path)
	if err != nil {
		return plainPath(err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return report.WriteJUnit(f)
}
