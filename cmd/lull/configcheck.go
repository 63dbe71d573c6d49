package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/lull-backup/lull/config"
)

func (in *invocation) configCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Look at the configuration",
		Args:  subcommandOnly,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(&cobra.Command{
		Use:   "check",
		Short: "Check the configuration and say what it comes to",
		Args:  argCount(0, 0, ""),
		RunE:  in.run(func(cmd *cobra.Command, _ []string) error { return in.checkConfig(cmd.Context()) }),
	})
	return cmd
}

// configResult is a good configuration as --json shows it.
type configResult struct {
	File         string        `json:"file"`
	Repositories int           `json:"repositories"`
	VMs          []string      `json:"vms"`
	Groups       []configGroup `json:"groups"`
	Warnings     []problem     `json:"warnings,omitempty"`
}

type configGroup struct {
	Name       string    `json:"name"`
	VMs        []string  `json:"vms"`
	Repository string    `json:"repository"`
	Schedule   string    `json:"schedule,omitempty"`
	Next       time.Time `json:"next,omitzero"`
}

func (in *invocation) checkConfig(ctx context.Context) error {
	cfg, err := in.loadConfig()
	if wrong := (config.Errors)(nil); errors.As(err, &wrong) {
		return fmt.Errorf("config check: %w", err)
	}
	if err != nil {
		return err
	}
	if cfg, err = in.discover(ctx, cfg, in.openHosts(cfg)); err != nil {
		in.warn("the VMs of a host are not known: %v", err)
	}
	for _, vm := range cfg.Ungrouped() {
		w := config.Problem{File: cfg.Path, What: "VM " + vm + " is in no group: the agent does not back it up", Instead: "add it to the vms of a group"}
		in.warn("%s", w)
		cfg.Warnings = append(cfg.Warnings, w)
	}
	res := configResult{
		File: cfg.Path, Repositories: len(cfg.Repositories), VMs: cfg.VMs(), Groups: []configGroup{},
		Warnings: problems(cfg.Warnings),
	}
	for _, g := range cfg.Groups {
		res.Groups = append(res.Groups, configGroup{
			Name: g.Name, VMs: g.VMs, Repository: g.Repository,
			Schedule: g.Schedule.String(), Next: g.Schedule.Next(time.Now()),
		})
	}
	if in.flags.json {
		return writeJSON(in.Stdout, res)
	}
	if in.flags.quiet {
		return nil
	}
	_, err = fmt.Fprintf(in.Stdout, "%s is good: %s, %s, %s, %s\n", cfg.Path,
		count(len(cfg.Repositories), "repository"), count(len(cfg.Hosts), "host"),
		count(len(res.VMs), "VM"), count(len(res.Groups), "group"))
	if err != nil || len(res.Groups) == 0 {
		return err
	}
	return groupTable(res.Groups).write(in.Stdout)
}

func groupTable(groups []configGroup) *table {
	t := newTable("GROUP", "VMS", "REPOSITORY", "SCHEDULE", "NEXT RUN")
	for _, g := range groups {
		schedule := g.Schedule
		if schedule == "" {
			schedule = "manual"
		}
		t.add(g.Name, join(g.VMs), g.Repository, schedule, moment(g.Next))
	}
	return t
}
