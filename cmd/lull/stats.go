package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/lull-backup/lull/transport/repo"
)

func (in *invocation) statsCommand() *cobra.Command {
	return in.addRepositoryFlags(&cobra.Command{
		Use:   "stats",
		Short: "Show what a repository costs, and for which VM",
		Long: "Show what each VM costs: ALONE is what only it needs, which forgetting all of it would\n" +
			"free; SHARED is what others need too, SHARE its part of that when it is divided evenly.\n" +
			"The maps of all restore points are read, no disk data.",
		Args: argCount(0, 0, ""),
		RunE: in.run(func(cmd *cobra.Command, _ []string) error { return in.stats(cmd.Context()) }),
	})
}

func (in *invocation) stats(ctx context.Context) error {
	t, err := in.target()
	if err != nil {
		return err
	}
	return in.withRepository(ctx, t, func(r *repo.Repository) error {
		u, err := r.Usage(ctx)
		if err != nil {
			err = fmt.Errorf("stats of %s: %w", t.repository.Name, err)
			if !partial(err) {
				return err
			}
		}
		return errors.Join(in.showStats(u), err)
	})
}

func (in *invocation) showStats(u repo.Usage) error {
	if in.flags.json {
		if u.VMs == nil {
			u.VMs, u.Growth = []repo.VMUsage{}, []repo.Growth{}
		}
		return writeJSON(in.Stdout, u)
	}
	p := picture{drawn: isTerminal(in.Stdout)}
	var most int64
	for _, v := range u.VMs {
		most = max(most, v.Alone+v.Share)
	}
	tab := newTable("VM", "POINTS", "SIZE", "DATA", "ALONE", "SHARED", "SHARE", "COSTS", "")
	for _, v := range u.VMs {
		costs := v.Alone + v.Share
		tab.add(v.VM, fmt.Sprint(v.Points), size(v.Size), size(v.Data), size(v.Alone), size(v.Shared), size(v.Share), size(costs), p.bar(costs, most))
	}
	if err := tab.write(in.Stdout); err != nil {
		return err
	}
	_, err := fmt.Fprintf(in.Stdout, "\n%s stored for %s; %s needed by none, %s twice\n",
		size(u.Stored), count(u.Points, "restore point"), size(u.Unused), size(u.Twice))
	if err != nil || len(u.Growth) < 2 {
		return err
	}
	return in.showGrowth(u, p)
}

// showGrowth draws how much was there, over time: a line of blocks on a terminal, else
// a few rows.
func (in *invocation) showGrowth(u repo.Usage, p picture) error {
	columns := 12
	if p.drawn {
		columns = 48
	}
	until, sums := growthUntil(u.Growth, columns)
	first, last, total := until[0], until[len(until)-1], sums[len(sums)-1]
	if p.drawn {
		_, err := fmt.Fprintf(in.Stdout, "growth %s %s %s: %s to %s\n", first.Local().Format(time.DateOnly), p.line(sums, total),
			last.Local().Format(time.DateOnly), size(u.Growth[0].Added), size(total))
		return err
	}
	fmt.Fprintln(in.Stdout)
	tab := newTable("UNTIL", "STORED BY THEN")
	for i, s := range sums {
		if i == 0 || s != sums[i-1] || i == len(sums)-1 {
			tab.add(moment(until[i]), size(s))
		}
	}
	return tab.write(in.Stdout)
}

// growthUntil is how much was there at so many moments, at the same distance from each other:
// from the first restore point, with what that alone brought, to the last. Fewer moments
// than that come where all points are of one.
func growthUntil(points []repo.Growth, moments int) (until []time.Time, sums []int64) {
	first, last := points[0].Frozen, points[len(points)-1].Frozen
	if !last.After(first) {
		moments = 1
	}
	var total int64
	for i := range moments {
		at := last
		if i < moments-1 {
			at = first.Add(last.Sub(first) / time.Duration(moments-1) * time.Duration(i))
		}
		for len(points) > 0 && !points[0].Frozen.After(at) {
			total += points[0].Added
			points = points[1:]
		}
		until, sums = append(until, at), append(sums, total)
	}
	return until, sums
}

// picture draws with blocks on a terminal, and nothing elsewhere.
type picture struct{ drawn bool }

const barWidth = 24

// bar is n of most.
func (p picture) bar(n, most int64) string {
	if !p.drawn || most <= 0 {
		return ""
	}
	return strings.Repeat("█", int(max(n, 0)*barWidth/most)) + "▏"
}

// line is one block a value, as high as its part of most.
func (p picture) line(values []int64, most int64) string {
	levels := []rune("▁▂▃▄▅▆▇█")
	var b strings.Builder
	for _, v := range values {
		b.WriteRune(levels[min(v*int64(len(levels))/max(most, 1), int64(len(levels)-1))])
	}
	return b.String()
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
