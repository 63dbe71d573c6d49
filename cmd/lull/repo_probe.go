package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/lull-backup/lull/config"
	"github.com/lull-backup/lull/transport/blob"
	"github.com/lull-backup/lull/transport/blob/probe"
)

const day = 24 * time.Hour

func (in *invocation) probeCommand() *cobra.Command {
	var locks string
	cmd := in.addPlaceFlags(&cobra.Command{
		Use:   "probe",
		Short: "Find out whether a store is fit for a repository",
		Long: "Find out whether a store keeps the promises that a repository is built on: it\n" +
			"writes a few small objects under probe/, races for their names, reads, lists and\n" +
			"deletes them. What is missing is named, with what follows from it.\n\n" +
			"With object_lock in the configuration, or --locks, an object is locked for some\n" +
			"seconds and tried to be deleted.",
		Example: "  lull repo probe --repo /srv/backup\n  lull repo probe --repository offsite --locks compliance",
		Args:    argCount(0, 0, ""),
		RunE:    in.run(func(cmd *cobra.Command, _ []string) error { return in.probe(cmd.Context(), locks) }),
	})
	cmd.Flags().StringVar(&locks, "locks", "", "try locks of this `MODE`, governance or compliance")
	return cmd
}

func (in *invocation) probe(ctx context.Context, locks string) error {
	if locks != "" && locks != config.Governance && locks != config.Compliance {
		return withHint(usagef("repo probe: --locks %s: no such mode", locks), "use governance or compliance")
	}
	t, err := in.target()
	if err != nil {
		return err
	}
	r := t.repository
	if err := checkFolder(r); err != nil {
		return fmt.Errorf("probe %s: %w", r.Name, err)
	}
	o := probeOptions(r)
	if locks != "" {
		o.Lock = blob.LockMode(locks)
	}
	report, err := in.probeStore(ctx, r, o)
	if err != nil {
		return fmt.Errorf("probe %s: %w", r.Name, err)
	}
	if err := in.showProbe(report); err != nil {
		return err
	}
	return report.Err()
}

// probeOptions are those for what the configuration wants of the store.
func probeOptions(r config.Repository) probe.Options {
	if r.ObjectLock == nil {
		return probe.Options{}
	}
	return probe.Options{Lock: blob.LockMode(r.ObjectLock.Mode), Period: time.Duration(r.ObjectLock.Days) * day}
}

// probeStore opens a store for the time of a probe.
func (in *invocation) probeStore(ctx context.Context, r config.Repository, o probe.Options) (report probe.Report, err error) {
	store, closer, err := in.openStore(ctx, r, false)
	if err != nil {
		return report, err
	}
	defer func() { err = errors.Join(err, closer.Close()) }()
	return in.runProbe(ctx, r, store, o)
}

func (in *invocation) runProbe(ctx context.Context, r config.Repository, store blob.Store, o probe.Options) (probe.Report, error) {
	if o.Lock != "" {
		in.note("trying %s locks, which takes some seconds", o.Lock)
	}
	report, err := probe.Run(ctx, store, o)
	if r.Dir != "" {
		_ = os.Remove(filepath.Join(r.Dir, probe.Prefix)) // empty, or in use by another probe
	}
	return report, err
}

func (in *invocation) showProbe(report probe.Report) error {
	if in.flags.json {
		return writeJSON(in.Stdout, report)
	}
	tab := newTable("CHECK", "RESULT", "NEEDED", "DETAIL")
	for _, f := range report.Findings {
		tab.add(f.Name, string(f.Verdict), string(f.Weight), detailed(f))
	}
	if err := tab.write(in.Stdout); err != nil {
		return err
	}
	in.warnLeft(report)
	return nil
}

// detailed is what a finding saw, and what follows when it is missing.
func detailed(f probe.Finding) string {
	if f.Verdict != probe.Missing || f.Detail == "" {
		return f.Detail + f.Consequence
	}
	return f.Detail + ": " + f.Consequence
}

func (in *invocation) warnLeft(report probe.Report) {
	if len(report.Left) > 0 {
		in.warn("%s of the probe could not be deleted from %s: %s", count(len(report.Left), "object"), report.Store, strings.Join(report.Left, ", "))
	}
}

// probeNew refuses a store that no repository can be made in, and warns of one in
// which something will be missed.
func (in *invocation) probeNew(ctx context.Context, r config.Repository, store blob.Store) error {
	if _, err := store.Stat(ctx, "config"); err == nil {
		return nil // repo.Init says that there is a repository already
	}
	report, err := in.runProbe(ctx, r, store, probeOptions(r))
	if err != nil {
		return err
	}
	if err := report.Err(); err != nil {
		return withHint(err, "use another store; `lull repo probe` shows all that was tried")
	}
	for _, f := range report.Warnings() {
		in.warn("%s: %s: %s", report.Store, f.Name, detailed(f))
	}
	in.warnLeft(report)
	return nil
}
