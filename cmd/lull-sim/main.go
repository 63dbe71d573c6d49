// Command lull-sim plays a year of many hosts that back up nightly into one
// repository, and prints what the store and each host have to carry. It is a model:
// its costs are compared at the start with those of real backups into a store in
// memory; equal seeds give equal tables.
//
//	lull-sim [-hosts 10000] [-days 365] [-seed 1] [-domain 100]
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"text/tabwriter"
)

func main() {
	m := model{cost: defaultCost()}
	flag.IntVar(&m.hosts, "hosts", 10000, "hosts, one VM each")
	flag.IntVar(&m.days, "days", 365, "nights")
	flag.Uint64Var(&m.seed, "seed", 1, "of the hosts' nights")
	flag.IntVar(&m.domain, "domain", 100, "hosts that share blocks, in the last columns")
	flag.Parse()
	if err := run(&m); err != nil {
		fmt.Fprintln(os.Stderr, "lull-sim:", err)
		os.Exit(1)
	}
}

func run(m *model) error {
	if m.hosts < 1 || m.days < 1 || m.domain < 1 || m.domain > m.hosts {
		return fmt.Errorf("hosts, days and domain are to be at least 1, and a domain no more than all hosts")
	}
	if err := m.calibrate(context.Background()); err != nil {
		return fmt.Errorf("measure a real backup: %w", err)
	}
	fmt.Printf("%d hosts, %d nights, seed %d\n", m.hosts, m.days, m.seed)
	fmt.Printf("as measured: %.1f bytes of index a new block, %.0f an index object; %.0f bytes a block; %.0f requests a night of one host\n\n",
		m.cost.perBlock, m.cost.perObject, m.cost.block, m.cost.requests)
	out := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(out, "night\tTB stored\tobjects M\tindex GB\tindex objects k\trequests k\tlease, sum\tTB deleted, sum\tTB repacked, sum\tfetch MB\tfetch TB, all\tLIST k, all\tcache GB\tfetch MB, domain\tfetch TB, all\tLIST k, all\tcache GB\t")
	m.play(func(n *night) {
		fmt.Fprintf(out, "%d\t%.0f\t%.1f\t%.1f\t%.0f\t%.0f\t%d\t%.0f\t%.0f\t%.0f\t%.2f\t%.0f\t%.1f\t%.1f\t%.3f\t%.0f\t%.2f\t\n",
			n.number, n.stored/1e12, n.objects/1e6, n.index/1e9, n.indexObjects/1e3, n.requests/1e3, n.lease, n.deleted/1e12, n.repacked/1e12,
			n.all.fetch/1e6, n.all.fetch*float64(m.hosts)/1e12, n.all.lists*float64(m.hosts)/1e3, n.all.cache/1e9,
			n.part.fetch/1e6, n.part.fetch*float64(m.hosts)/1e12, n.part.lists*float64(m.hosts)/1e3, n.part.cache/1e9)
	})
	return out.Flush()
}
