package main

import (
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/lull-backup/lull/snapshot"
)

// BenchmarkIncremental backs up a sparse disk that holds 4 GiB of data, evenly spread,
// after 64 places of it of 1 MiB each have changed: by tracking, and by reading all. The image
// is a file, which lull reads itself.
func BenchmarkIncremental(b *testing.B) {
	table := "\n| disk | changes | s | read, MiB | requests |\n|---|---|---:|---:|---:|\n"
	for _, size := range []string{"64G", "1T"} {
		for _, way := range []string{"tracked", "read-in-full"} {
			b.Run(size+"/"+way, func(b *testing.B) {
				read, requests := incremental(b, size, way == "tracked")
				table += fmt.Sprintf("| %s | %s | %.2f | %d | %d |\n", size, way, b.Elapsed().Seconds()/float64(b.N), read>>20, requests)
			})
		}
	}
	fmt.Println(table)
}

// incremental tells how many bytes a run reads, and how many requests it makes.
func incremental(b *testing.B, size string, track bool) (read, requests int64) {
	const data, changed = 256, 64 // places
	m := newMachine(b, snapshot.FormatQcow2, size)
	m.configure(fmt.Sprintf("{name: web, qmp: %s/qmp}", m.dir),
		fmt.Sprintf("schedule: manual, consistency: {ladder: [crash]}, tracking: {enabled: %v}", track))
	apart := map[string]int64{"64G": 64 << 30, "1T": 1 << 40}[size] / data
	for i := range int64(data) {
		m.io(fmt.Sprintf("write -P %d %d 16M", i, i*apart))
	}
	m.backup(exitDone)
	news := filepath.Join(m.dir, "news")
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		for i := range int64(changed) {
			fresh := make([]byte, 1<<20)
			rand.Read(fresh) // never fails
			if err := os.WriteFile(news, fresh, 0o600); err != nil {
				b.Fatal(err)
			}
			m.io(fmt.Sprintf("write -s %s %d 1M", news, i*apart*data/changed))
		}
		b.StartTimer()
		res := m.backup(exitDone)
		read, requests = res.Point.Stats.Read, res.Requests
		if used := res.Point.Disks[0].Tracking.Used; used != track {
			b.Fatalf("tracking was used: %v", used)
		}
	}
	b.ReportMetric(float64(read)/(1<<20), "read-MiB")
	b.ReportMetric(float64(requests), "requests")
	return read, requests
}
