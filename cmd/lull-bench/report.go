package main

import (
	"fmt"
	"io"
	"math"
	"runtime"
)

// report prints the table of everything, and the targets with what was reached.
func report(out io.Writer, images []image, results []*samples, s3 *overS3) {
	fmt.Fprintf(out, "Images in use: A %d, B %d, A a day later (A') %d MB. MB = 10^6 bytes, MiB of memory; medians of %d rounds; what is measured for its size had one.\n\n",
		images[0].used/1e6, images[1].used/1e6, images[2].used/1e6, rounds(results))
	fmt.Fprintln(out, "| program | A: wall s | cpu s | MiB | unchanged: wall s | cpu s | restore A': wall s | cpu s | MiB | stored A, MB | + B | + A' |")
	fmt.Fprintln(out, "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
	for _, s := range results {
		row(out, s)
	}
	fmt.Fprintln(out, "\n| target | measured | aim | |\n|---|---:|---:|---|")
	for _, t := range targets(results, s3) {
		fmt.Fprintln(out, t)
	}
	if s3 != nil {
		d, b := medians(s3.dir), medians(s3.bucket)
		fmt.Fprintf(out, "\nInto the directory %.1f s wall, %.1f s processor; into S3 %.1f and %.1f, and %.1f s processor of the server.\n", d.wall, d.cpu, b.wall, b.cpu, mean(s3.server))
	}
}

func rounds(results []*samples) (n int) {
	for _, s := range results {
		n = max(n, len(s.usage[firstA]))
	}
	return n
}

func row(out io.Writer, s *samples) {
	a, again, back := s.median(firstA), s.median(unchanged), s.median(restoring)
	fmt.Fprintf(out, "| %s | %s | %s | %s | %s | %s | %s | %s | %s | %d | %d | %d |\n", s.program,
		seconds(a.wall), seconds(a.cpu), memory(a.peak), seconds(again.wall), seconds(again.cpu),
		seconds(back.wall), seconds(back.cpu), memory(back.peak), s.size(1)/1e6, s.size(2)/1e6, s.size(3)/1e6)
}

func seconds(v float64) string {
	if v == 0 {
		return "–"
	}
	return fmt.Sprintf("%.1f", v)
}

func memory(v int64) string {
	if v == 0 {
		return "–"
	}
	return fmt.Sprint(v >> 20)
}

// target is one promise of the design: value is at most aim where it is met.
type target struct {
	what       string
	value, aim float64
	strictly   bool // less, not at most
}

func (t target) String() string {
	verdict := "**not met**"
	switch {
	case math.IsInf(t.value, 0) || math.IsNaN(t.value):
		return fmt.Sprintf("| %s | – | %.2f | not measured |", t.what, t.aim)
	case t.value < t.aim || t.value == t.aim && !t.strictly:
		verdict = "met"
	}
	return fmt.Sprintf("| %s | %.2f | %.2f | %s |", t.what, t.value, t.aim, verdict)
}

// targets are those of issue 3, in its order.
func targets(results []*samples, s3 *overS3) []target {
	wall := func(phase string) func(*samples) float64 {
		return func(s *samples) float64 { return orNone(s.median(phase).wall) }
	}
	cpu := func(s *samples) float64 { return orNone(s.median(firstA).cpu) }
	size := func(s *samples) float64 { return orNone(float64(s.size(3))) }
	of := func(name, setting string, f func(*samples) float64) float64 {
		return best(results, f, func(p *program) bool { return p.name == name && (setting == "" || p.setting == setting) })
	}
	lz4 := func(p *program) bool { return p.name == "borg" && p.timed }
	anyPeer := func(p *program) bool { return p.role == peer }
	squeezing := func(p *program) bool { return p.role == peer && p.compresses && p.name != "borg" }
	quick := func(p *program) bool { return p.role == peer && p.fastest }
	peak := 0.0
	for _, s := range results {
		if s.program.role == lull {
			peak = max(peak, float64(max(s.median(firstA).peak, s.median(restoring).peak)>>20))
		}
	}
	ts := []target{
		{what: "full backup, wall, to the best of restic, desync and casync with compression", value: ratio(of("lull", "default", wall(firstA)), best(results, wall(firstA), squeezing)), aim: 0.5},
		{what: "full backup, wall, to the faster borg with lz4", value: ratio(of("lull", "default", wall(firstA)), best(results, wall(firstA), lz4)), aim: 0.6},
		{what: "full backup, wall, to `zstd -1 -T2`", value: ratio(of("lull", "default", wall(firstA)), of("zstd -1 -T2", "", wall(firstA))), aim: 1},
		{what: "repository of A, B, A', to the smallest peer at any setting", value: ratio(of("lull", "default", size), best(results, size, anyPeer)), aim: 0.93},
		{what: "`fast`: processor time, to the cheaper borg with lz4", value: ratio(of("lull", "fast", cpu), best(results, cpu, lz4)), aim: 0.6},
		{what: "`fast`: repository, to the smallest of the peers' fastest", value: ratio(of("lull", "fast", size), best(results, size, quick)), aim: 1, strictly: true},
		{what: "restore, wall, to the fastest peer", value: ratio(of("lull", "default", wall(restoring)), best(results, wall(restoring), anyPeer)), aim: 0.8},
		{what: "restore, wall, to `cp --sparse=always` and fsync", value: ratio(of("lull", "default", wall(restoring)), of("cp --sparse=always, fsync", "", wall(restoring))), aim: 1.3},
		{what: "peak memory, MiB", value: orNone(peak), aim: 256},
	}
	if s3 == nil {
		return append(ts, target{what: "S3 to the directory", value: math.NaN(), aim: 1.15})
	}
	d, b := medians(s3.dir), medians(s3.bucket)
	cores := float64(runtime.GOMAXPROCS(0))
	return append(ts,
		target{what: "S3 to the directory, wall less the server's share of the processors", value: (b.wall - mean(s3.server)/cores) / d.wall, aim: 1.15},
		target{what: "S3 to the directory, processor time of lull", value: b.cpu / d.cpu, aim: 1.15})
}

// ratio is none where one of the two was not measured.
func ratio(a, b float64) float64 {
	if math.IsInf(b, 0) {
		return math.NaN()
	}
	return a / b
}

// best is the least of a value among the programs that are asked for; none: +Inf.
func best(results []*samples, value func(*samples) float64, which func(*program) bool) float64 {
	least := math.Inf(1)
	for _, s := range results {
		if which(s.program) {
			least = min(least, value(s))
		}
	}
	return least
}

// orNone makes what was not measured lose every comparison.
func orNone(v float64) float64 {
	if v == 0 {
		return math.Inf(1)
	}
	return v
}

func mean(vs []float64) float64 {
	sum := 0.0
	for _, v := range vs {
		sum += v
	}
	return sum / float64(max(len(vs), 1))
}
