package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/lull-backup/lull/agent"
	"github.com/lull-backup/lull/transport/repo"
)

// checkFlags are those of `lull check` alone.
type checkFlags struct {
	all    bool
	sample string
	repair bool
}

func (in *invocation) checkCommand() *cobra.Command {
	var flags checkFlags
	cmd := in.addRepositoryFlags(&cobra.Command{
		Use:   "check",
		Short: "Prove that a repository is whole, and repair it",
		Long: "Prove that every restore point of a repository has all of its parts. With --all\n" +
			"every byte is read and verified, which takes as long as restoring everything; with\n" +
			"--sample a share of it, other packs each time.\n\n" +
			"What is found damaged is put into quarantine: the next backup of any host stores\n" +
			"again what it meets of it. --repair saves what is whole in damaged packs, rebuilds\n" +
			"the index, and says what is lost for good.",
		Example: "  lull check\n  lull check --sample 10%\n  lull check --all --repair",
		Args:    argCount(0, 0, ""),
		RunE:    in.run(func(cmd *cobra.Command, _ []string) error { return in.check(cmd.Context(), flags) }),
	})
	f := cmd.Flags()
	f.BoolVar(&flags.all, "all", false, "read and verify every byte")
	f.StringVar(&flags.sample, "sample", "", "read and verify `SHARE` of all bytes, such as 10%")
	f.BoolVar(&flags.repair, "repair", false, "save what can be saved, and rebuild the index")
	return cmd
}

// share reads 10%, 2.5% or 10 as a part of one.
func share(s string) (float64, error) {
	n, err := strconv.ParseFloat(strings.TrimSuffix(s, "%"), 64)
	if err != nil || !(n > 0 && n <= 100) {
		return 0, withHint(usagef("--sample %s: no share", s), "give a percentage above 0, such as 10%%")
	}
	return n / 100, nil
}

func (f *checkFlags) options() (o repo.CheckOptions, err error) {
	o = repo.CheckOptions{ReadAll: f.all, Repair: f.repair}
	if f.sample == "" {
		return o, nil
	}
	if f.all {
		return o, withHint(usagef("check: --sample and --all exclude each other"), "leave one out")
	}
	o.Sample, err = share(f.sample)
	return o, err
}

// checkResult is a check as --json shows it.
type checkResult struct {
	All bool `json:"all"` // every byte was read
	repo.CheckReport
}

func (in *invocation) check(ctx context.Context, flags checkFlags) error {
	o, err := flags.options()
	if err != nil {
		return err
	}
	t, err := in.target()
	if err != nil {
		return err
	}
	return in.withRepository(ctx, t, func(r *repo.Repository) error {
		story := in.newStory("check")
		defer story.close()
		o.Progress = story.checking
		report, err := r.Check(ctx, o)
		story.close()
		if err != nil {
			return fmt.Errorf("check %s: %w", t.repository.Name, err)
		}
		if err := in.showCheck(report, flags.all); err != nil {
			return err
		}
		return problemsOf(t.repository.Name, report)
	})
}

// problemsOf is the error of a check that found something, or of a repair that left
// something.
func problemsOf(name string, report repo.CheckReport) error {
	n := len(report.Problems)
	if report.Repaired == nil && n > 0 {
		return withHint(fmt.Errorf("check %s: %s found: %w", name, count(n, "problem"), repo.ErrCorrupt),
			"restore points that are not listed with a problem are whole; lull check --repair saves what can be saved")
	}
	if n = len(report.Remaining); report.Repaired != nil && n > 0 {
		return withHint(fmt.Errorf("repair %s: %s left: %w", name, count(n, "problem"), repo.ErrCorrupt),
			"the next backup stores what is still there; restore the others with --best-effort")
	}
	return nil
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
		return in.showProblems(report)
	}
	if in.flags.quiet {
		return nil
	}
	depth := "structure only, --all reads every byte"
	switch {
	case all:
		depth = "every byte read, " + size(report.Read)
	case report.Read > 0:
		depth = fmt.Sprintf("%s of %s read", size(report.Read), size(report.Stored))
	}
	_, err := fmt.Fprintf(in.Stdout, "whole: %s, %s, %s (%s)\n", count(report.Points, "restore point"),
		count(report.Objects, "object"), count(int(report.Blocks), "block"), depth)
	return err
}

// showProblems writes what is wrong, what the restore points have lost, and what a
// repair has done.
func (in *invocation) showProblems(report repo.CheckReport) error {
	tab := newTable("OBJECT", "PROBLEM", "RESTORE POINTS")
	for _, p := range report.Problems {
		tab.add(p.Object, p.Err, join(p.Points))
	}
	if err := tab.write(in.Stdout); err != nil {
		return err
	}
	if len(report.Lost) > 0 {
		fmt.Fprintln(in.Stdout)
		tab = newTable("VM", "POINT", "OF", "LOST", "RANGES", "FIRST AT")
		for _, l := range report.Lost {
			what := "disk " + l.Disk
			if l.Disk == "" {
				what = string(l.File) + " file"
			}
			tab.add(l.VM, l.Point, what, size(l.Bytes), fmt.Sprint(len(l.Holes)+l.More), fmt.Sprint(l.Holes[0].Offset))
		}
		if err := tab.write(in.Stdout); err != nil {
			return err
		}
	}
	if r := report.Repaired; r != nil {
		_, err := fmt.Fprintf(in.Stdout, "\nrepaired: %s taken out, %s (%s) saved from them, %s listed again, %s written, %s removed\n",
			count(r.Packs, "damaged pack"), count(int(r.Blocks), "block"), size(r.Bytes), count(r.Listed, "pack"),
			count(r.Indexes, "index object"), count(len(r.Removed), "object"))
		if err == nil && r.Decision > 0 {
			_, err = fmt.Fprintln(in.Stdout, "what prune had decided could not be read: decided anew")
		}
		return err
	}
	return nil
}
