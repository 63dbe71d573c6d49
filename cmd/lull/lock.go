package main

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/lull-backup/lull/agent"
	"github.com/lull-backup/lull/transport/blob"
	"github.com/lull-backup/lull/transport/repo"
)

func (in *invocation) lockCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "lock",
		Short: "See to the object locks of a repository",
		Args:  subcommandOnly,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(in.lockRenewCommand())
	return cmd
}

func (in *invocation) lockRenewCommand() *cobra.Command {
	var dry, all bool
	cmd := in.addRepositoryFlags(&cobra.Command{
		Use:   "renew",
		Short: "Lock for longer what newer restore points reuse",
		Long: "Make the locks of all that restore points need last as long as the points are to be\n" +
			"locked by object_lock of the configuration. New objects are locked as they are\n" +
			"stored; this is for what new points reuse of older ones. The agent does so on the\n" +
			"schedule of maintenance; without an agent, run it daily. It takes a key of the\n" +
			"maintain, restore or owner role. Locks are only ever made longer.",
		Example: "  lull lock renew --repository offsite",
		Args:    argCount(0, 0, ""),
		RunE:    in.run(func(cmd *cobra.Command, _ []string) error { return in.renewLocks(cmd.Context(), dry, all) }),
	})
	cmd.Flags().BoolVar(&dry, "dry-run", false, "only say how many locks would be renewed")
	cmd.Flags().BoolVar(&all, "all", false, "trust no memory of locks that were made before")
	return cmd
}

func (in *invocation) renewLocks(ctx context.Context, dry, all bool) error {
	t, err := in.target()
	if err != nil {
		return err
	}
	want := t.repository.ObjectLock
	if want == nil {
		return withHint(usagef("lock renew: repository %s has no object_lock", t.repository.Name), "add object_lock: {mode: governance, days: 30} to it")
	}
	cache, err := in.cacheDir(t.config)
	if err != nil {
		return err
	}
	return in.withRepository(ctx, t, func(r *repo.Repository) error {
		o := lockOptions(t, cache, r)
		o.DryRun = dry
		if all {
			o.Memory = ""
		}
		report, err := r.RenewLocks(ctx, o)
		if err != nil && report.Points == 0 {
			return fmt.Errorf("%s: %w", t.repository.Name, err)
		}
		if err := in.showRenewal(report, dry); err != nil {
			return err
		}
		if err != nil {
			return fmt.Errorf("%s: %w", t.repository.Name, err)
		}
		return nil
	})
}

// lockOptions are those for what the configuration wants of a repository.
func lockOptions(t target, cache string, r *repo.Repository) repo.LockOptions {
	l := t.repository.ObjectLock
	o := repo.LockOptions{
		Mode: blob.LockMode(l.Mode), Period: time.Duration(l.Days) * day, Slack: time.Duration(lockSlack(l.Days)) * day,
		Memory: filepath.Join(cache, r.ID().String(), "locks"),
	}
	if l.Follow {
		o.Until = func(points []repo.Point) []time.Time {
			// Without rules only the newest point is sure to stay. Its lock follows the clock: by
			// whole hours, or each renewal would make it longer by what has passed since the last.
			now := time.Now().Truncate(time.Hour)
			return agent.LockUntil(t.config.KeepOf(points[0].VM, t.repository.Name), points, time.Local, now, o.Period+o.Slack)
		}
	}
	return o
}

func (in *invocation) showRenewal(report repo.LockReport, dry bool) error {
	if in.flags.json {
		return writeJSON(in.Stdout, report)
	}
	if in.flags.quiet {
		return nil
	}
	did := "renewed"
	if dry {
		did = "to be renewed"
	}
	_, err := fmt.Fprintf(in.Stdout, "%s of %s for %s, the others last\n",
		count(report.Renewed, "lock")+" "+did, count(report.Objects, "object"), count(report.Points, "restore point"))
	return err
}
