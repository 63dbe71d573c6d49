package main

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/lull-backup/lull/transport/repo"
)

// shortestGrace is four times as long as S3 takes a signed request for good: what a store may
// still do late, docs/format.md.
const shortestGrace = time.Hour

func (in *invocation) pruneCommand() *cobra.Command {
	var o repo.PruneOptions
	var recompress string
	var unused int
	grace := repo.DefaultGrace
	cmd := in.addRepositoryFlags(&cobra.Command{
		Use:   "prune",
		Short: "Delete what no restore point needs any more",
		Long: "Delete what only forgotten restore points needed. That takes two runs: one marks, and\n" +
			"one that comes after the grace deletes what nothing has come to need. Backups never\n" +
			"wait for it, it may be interrupted at any moment, and nothing is ever left locked.\n" +
			"The agent prunes by itself, see maintenance in the configuration.",
		Example: "  lull prune --dry-run\n  lull prune\n  lull prune --recompress=200GiB",
		Args:    argCount(0, 0, ""),
		RunE: in.run(func(cmd *cobra.Command, _ []string) error {
			o.Grace = grace
			if grace < shortestGrace {
				return withHint(usagef("prune: --grace %s is no grace", grace), "give 24h or so; restores that take longer may fail")
			}
			var err error
			if o.Keep, err = keepUnused(unused); err != nil {
				return err
			}
			if o.Recompress, err = recompressBudget(recompress); err != nil {
				return err
			}
			return in.prune(cmd.Context(), o)
		}),
	})
	f := cmd.Flags()
	f.BoolVar(&o.DryRun, "dry-run", false, "change nothing, and say what would be done")
	f.DurationVar(&grace, "grace", grace, "how long what is to be deleted is marked before")
	f.IntVar(&unused, "max-unused", 10, "`PERCENT` of unused data that is not worth rewriting packs for")
	f.StringVar(&recompress, "recompress", "", "write packs anew that would be smaller with compression: best, of `SIZE` at most")
	f.Lookup("recompress").NoOptDefVal = "64GiB"
	return cmd
}

// keepUnused is the share of unused data that stays, in percent, as repo.PruneOptions has it.
func keepUnused(percent int) (int, error) {
	switch {
	case percent < 0 || percent > 100:
		return 0, withHint(usagef("prune: --max-unused=%d is no percentage", percent), "give 0 to 100")
	case percent == 0:
		return -1, nil
	}
	return percent, nil
}

// recompressBudget reads how many bytes of packs may be compressed anew; "" is none.
func recompressBudget(s string) (int64, error) {
	if s == "" {
		return 0, nil
	}
	n, err := humanize.ParseBytes(s)
	if err != nil || n == 0 || n > math.MaxInt64 {
		return 0, withHint(usagef("prune: --recompress=%s is no size", s), "give it as 200GiB, or none for 64GiB")
	}
	return int64(n), nil
}

func (in *invocation) prune(ctx context.Context, o repo.PruneOptions) error {
	t, err := in.target()
	if err != nil {
		return err
	}
	return in.withRepository(ctx, t, func(r *repo.Repository) error {
		report, err := r.Prune(ctx, o)
		if err != nil {
			return fmt.Errorf("%s: %w", t.repository.Name, err)
		}
		if in.flags.json {
			return writeJSON(in.Stdout, map[string]any{"dry_run": o.DryRun, "prune": report})
		}
		in.showPrune(report, o.DryRun)
		return nil
	})
}

func (in *invocation) showPrune(p repo.PruneReport, dry bool) {
	would := ""
	if dry {
		would = "would be "
	}
	if p.Packs > 0 {
		in.note("%s, %s in %s, %s of it unused", count(p.Points, "restore point"), size(p.Stored), count(p.Packs, "pack"), size(p.Unused))
	}
	in.note("%sdeleted: %s, %s", would, count(p.Deleted, "pack"), size(p.DeletedBytes))
	in.note("%smarked to be deleted by a later prune: %s, %s", would, count(p.Marked, "pack"), size(p.MarkedBytes))
	if p.Rewritten > 0 {
		in.note("%srewritten: %s, %s moved", would, count(p.Rewritten, "pack"), size(p.Moved))
	}
	if p.Recompressed > 0 {
		in.note("%scompressed anew: %s, which takes %s less once the old ones are deleted", would, count(p.Recompressed, "pack"), size(p.Saved))
	}
	if p.Locked > 0 {
		until := ""
		if !p.LockedUntil.IsZero() {
			until = ", the first until " + moment(p.LockedUntil)
		}
		in.note("unused, and kept locked by the store: %s, %s%s", count(p.Locked, "pack"), size(p.LockedBytes), until)
	}
	if p.Fenced > 0 {
		in.note("given up: %s that did not go on", count(p.Fenced, "session"))
	}
	for _, name := range p.Ignored {
		in.note("no lease of maintenance, and not believed: %q; find out who can write to the store, see docs/threat-model.md", name)
	}
	if p.Waiting != "" {
		until := ""
		if !p.Until.IsZero() {
			until = ", until " + moment(p.Until.Round(time.Second))
		}
		in.note("what is marked waits for %s%s", p.Waiting, until)
	}
}
