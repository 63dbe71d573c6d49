package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/lull-backup/lull/agent"
	"github.com/lull-backup/lull/transport/repo"
)

func (in *invocation) checkCommand() *cobra.Command {
	var all bool
	cmd := in.addRepositoryFlags(&cobra.Command{
		Use:   "check",
		Short: "Prove that a repository is whole",
		Long: "Prove that every restore point of a repository has all of its parts. With --all\n" +
			"every byte is read and verified, which takes as long as restoring everything.",
		Args: argCount(0, 0, ""),
		RunE: in.run(func(cmd *cobra.Command, _ []string) error { return in.check(cmd.Context(), all) }),
	})
	cmd.Flags().BoolVar(&all, "all", false, "read and verify every byte")
	return cmd
}

// checkResult is a check as --json shows it.
type checkResult struct {
	All bool `json:"all"` // every byte was read
	repo.CheckReport
}

func (in *invocation) check(ctx context.Context, all bool) error {
	t, err := in.target()
	if err != nil {
		return err
	}
	return in.withRepository(ctx, t, func(r *repo.Repository) error {
		story := in.newStory("check")
		defer story.close()
		report, err := r.Check(ctx, repo.CheckOptions{ReadAll: all, Progress: story.checking})
		story.close()
		if err != nil {
			return fmt.Errorf("check %s: %w", t.repository.Name, err)
		}
		if err := in.showCheck(report, all); err != nil {
			return err
		}
		if n := len(report.Problems); n > 0 {
			return withHint(fmt.Errorf("check %s: %s found: %w", t.repository.Name, count(n, "problem"), repo.ErrCorrupt),
				"restore points that are not listed with a problem are whole")
		}
		return nil
	})
}

func (in *invocation) showCheck(report repo.CheckReport, all bool) error {
	if in.flags.json {
		if report.Problems == nil {
			report.Problems = []repo.Problem{}
		}
		return in.line(eventLine{
			Event:   agent.Event{Time: time.Now(), Step: agent.StepDone},
			Checked: &checkResult{All: all, CheckReport: report},
		})
	}
	if len(report.Problems) > 0 {
		tab := newTable("OBJECT", "PROBLEM", "RESTORE POINTS")
		for _, p := range report.Problems {
			tab.add(p.Object, p.Err, join(p.Points))
		}
		return tab.write(in.Stdout)
	}
	if in.flags.quiet {
		return nil
	}
	depth := "structure only, --all reads every byte"
	if all {
		depth = "every byte read, " + size(report.Read)
	}
	_, err := fmt.Fprintf(in.Stdout, "whole: %s, %s, %s (%s)\n", count(report.Points, "restore point"),
		count(report.Objects, "object"), count(int(report.Blocks), "block"), depth)
	return err
}
