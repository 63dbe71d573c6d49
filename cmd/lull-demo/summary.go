package main

import (
	"context"
	"fmt"
	"os"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/lull-backup/lull/transport/repo"
)

// facts are what the demo learnt on its way.
type facts struct {
	quarter  int // of the reading that was shown last
	backup   time.Duration
	restore  time.Duration
	boot     time.Duration
	lastEver uint64 // last record before the VM was destroyed
	safe     uint64 // last record known to be safe before the freeze
	found    uint64 // last record in the restored VM
	point    repo.Point
}

// summary checks the repository and ends the demo with a table.
func (d *demo) summary(ctx context.Context) error {
	d.endBoot()
	d.step("Check the repository.")
	if _, err := d.call(ctx, "check", "--all"); err != nil {
		return err
	}
	p := d.facts.point
	fmt.Println()
	t := tabwriter.NewWriter(os.Stdout, 0, 0, 3, ' ', 0)
	for _, row := range [][2]string{
		{"consistency", p.Quiesce.Level.String()},
		{"freeze window", fmt.Sprintf("%d ms", p.Quiesce.Window.Milliseconds())},
		{"bytes read", bytes(p.Stats.Read)},
		{"zeros, not stored", bytes(p.Stats.Zero)},
		{"deduplicated", bytes(p.Stats.Dedup)},
		{"new", bytes(p.Stats.New)},
		{"stored (compressed, encrypted)", bytes(p.Stats.Stored)},
		{"backup", seconds(d.facts.backup)},
		{"restore", seconds(d.facts.restore)},
		{"restored VM up", seconds(d.facts.boot)},
		{"records safe before the freeze", fmt.Sprint(d.facts.safe)},
		{"records in the restored VM", fmt.Sprint(d.facts.found)},
		{"missing or torn", "none"},
		{"whole demo", seconds(time.Since(d.began))},
	} {
		fmt.Fprintf(t, "   %s\t%s\n", row[0], row[1])
	}
	return t.Flush()
}

func bytes(n int64) string { return humanize.IBytes(uint64(max(0, n))) }
