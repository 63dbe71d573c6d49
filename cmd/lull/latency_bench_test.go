package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/lull-backup/lull/snapshot/guesttest"
	"github.com/lull-backup/lull/snapshot/nbd"
	"github.com/lull-backup/lull/snapshot/qmp"
	"github.com/lull-backup/lull/transport"
	"github.com/lull-backup/lull/transport/blob/dir"
	"github.com/lull-backup/lull/transport/repo"
)

// BenchmarkGuestWrites is how long the writes and flushes of a guest take that writes and
// fsyncs to two disks all the time: while nothing else happens, while lull backs the guest
// up in full, and while the same pipeline reads what QEMU's blockdev-backup fleeces. The
// times are QEMU's own, from when the device has a request until it is done. The ways take
// turns on one guest, so that what else the machine does meets all of them alike.
func BenchmarkGuestWrites(b *testing.B) {
	const data = 384 << 20
	hands := filepath.Join(b.TempDir(), "hands")
	l := newLab(b, guesttest.Options{
		Pause: time.Millisecond,
		Disks: []guesttest.Disk{{Size: 2 * data, Content: noiseFolder(b, data)}, {}},
		Args:  []string{"-qmp", "unix:" + hands + ",server=on,wait=off"},
	})
	l.configure(l.web(), "schedule: manual, consistency: {ladder: [crash]}, tracking: {enabled: false}")
	c, err := qmp.Dial(l.ctx, hands, qmp.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	f := &fleecing{lab: l, hands: c}
	ways := []struct {
		name string
		run  func()
		took latencies
	}{
		{name: "nothing else happens", run: func() { l.records(500) }},
		{name: "lull backs up", run: func() { l.lull(exitDone, "backup", "lab/web") }},
		{name: "a fleecing is backed up", run: f.run},
	}
	for b.Loop() {
		for i := range ways {
			l.freshRepository()
			f.latenciesAnew()
			ways[i].run()
			ways[i].took.add(f.latencies())
		}
	}
	fmt.Println("\n| while | writes | p50, ms | p99, ms | flushes | p50, ms | p99, ms |\n|---|---:|---:|---:|---:|---:|---:|")
	for i := range ways {
		w := &ways[i]
		fmt.Printf("| %s |", w.name)
		for kind := range w.took {
			fmt.Printf(" %d | %.2f | %.2f |", w.took.count(kind), w.took.percentile(kind, 0.50), w.took.percentile(kind, 0.99))
		}
		fmt.Println()
	}
}

// noiseFolder holds a file that does not compress.
func noiseFolder(b *testing.B, size int64) string {
	b.Helper()
	folder := b.TempDir()
	noise := make([]byte, size)
	rand.Read(noise) // never fails
	if err := os.WriteFile(filepath.Join(folder, "noise"), noise, 0o600); err != nil {
		b.Fatal(err)
	}
	return folder
}

// records waits until the guest's program has written some more.
func (l *lab) records(n uint64) {
	l.t.Helper()
	if err := l.guest.WaitAcked(l.ctx, l.acked()+n); err != nil {
		l.t.Fatal(err)
	}
}

// freshRepository is an empty one in the old one's place: each backup stores everything.
func (l *lab) freshRepository() {
	l.t.Helper()
	for _, folder := range []string{"repo", "cache"} {
		if err := os.RemoveAll(filepath.Join(l.dir, folder)); err != nil {
			l.t.Fatal(err)
		}
	}
	l.lull(exitDone, "init")
}

// fleecing backs a guest up as tools do that let QEMU copy what the guest overwrites.
type fleecing struct {
	*lab
	hands *qmp.Client
	runs  int
}

func (f *fleecing) ask(command string, arguments, result any) {
	f.t.Helper()
	if err := f.hands.Execute(f.ctx, command, arguments, result); err != nil {
		f.t.Fatalf("%s: %v", command, err)
	}
}

// run is one backup.
func (f *fleecing) run() {
	f.t.Helper()
	f.runs++
	socket := filepath.Join(f.dir, fmt.Sprintf("nbd%d", f.runs))
	f.ask("nbd-server-start", map[string]any{"addr": map[string]any{"type": "unix", "data": map[string]any{"path": socket}}}, nil)
	var actions []map[string]any
	for i := range f.guest.Disks {
		actions = append(actions, f.target(i))
	}
	f.ask("transaction", map[string]any{"actions": actions}, nil)
	for i := range f.guest.Disks {
		f.ask("block-export-add", map[string]any{"type": "nbd", "id": fmt.Sprintf("export%d", i), "node-name": fmt.Sprintf("fleece%d", i), "name": fmt.Sprintf("disk%d", i)}, nil)
	}
	if err := f.store(socket); err != nil {
		f.t.Fatal(err)
	}
	f.ask("nbd-server-stop", nil, nil)
	for i := range f.guest.Disks {
		f.end(i)
	}
}

// target makes the image that takes what the guest overwrites on a disk, and says how its
// job begins.
func (f *fleecing) target(i int) map[string]any {
	f.t.Helper()
	image := filepath.Join(f.dir, fmt.Sprintf("fleece%d.qcow2", i))
	if out, err := exec.CommandContext(f.ctx, "qemu-img", "create", "-q", "-f", "qcow2", image, fmt.Sprint(f.diskSize(i))).CombinedOutput(); err != nil {
		f.t.Fatalf("qemu-img (apt-get install qemu-utils): %v\n%s", err, out)
	}
	node := fmt.Sprintf("fleece%d", i)
	f.ask("blockdev-add", map[string]any{
		"driver": "qcow2", "node-name": node, "backing": fmt.Sprintf("fmt%d", i),
		"file": map[string]any{"driver": "file", "filename": image},
	}, nil)
	return map[string]any{"type": "blockdev-backup", "data": map[string]any{
		"job-id": node, "device": fmt.Sprintf("fmt%d", i), "target": node, "sync": "none",
	}}
}

func (f *fleecing) diskSize(i int) (size int64) {
	f.t.Helper()
	var nodes []struct {
		Name  string `json:"node-name"`
		Image struct {
			Size int64 `json:"virtual-size"`
		} `json:"image"`
	}
	f.ask("query-named-block-nodes", nil, &nodes)
	for _, n := range nodes {
		if n.Name == fmt.Sprintf("fmt%d", i) {
			size = n.Image.Size
		}
	}
	return size
}

// store brings what is exported into the repository, as lull brings frozen disks there.
func (f *fleecing) store(socket string) (err error) {
	objects, err := dir.Open(filepath.Join(f.dir, "repo"))
	if err != nil {
		return err
	}
	r, err := repo.Open(f.ctx, objects, repo.OpenOptions{Passphrase: []byte("correct horse battery staple"), Cache: filepath.Join(f.dir, "cache")})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	s, err := r.Begin(f.ctx, "lab/fleeced", time.Now())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	p := repo.Point{VM: "lab/fleeced"}
	for i := range f.guest.Disks {
		root, err := f.storeDisk(s, socket, fmt.Sprintf("disk%d", i))
		if err != nil {
			return err
		}
		p.Disks = append(p.Disks, repo.Disk{Root: root})
	}
	_, err = s.Commit(f.ctx, p)
	return err
}

func (f *fleecing) storeDisk(s *repo.Session, socket, export string) (root repo.Root, err error) {
	src, err := nbd.Dial(f.ctx, "unix", socket, export, nbd.Options{})
	if err != nil {
		return root, err
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	stored, err := transport.Backup(f.ctx, s, src, nil, transport.Options{})
	return stored.Root, err
}

// end ends the job of a disk, and removes the image.
func (f *fleecing) end(i int) {
	f.t.Helper()
	node := fmt.Sprintf("fleece%d", i)
	ended := f.hands.Subscribe("BLOCK_JOB_CANCELLED", "BLOCK_JOB_COMPLETED")
	defer ended.Close()
	f.ask("block-job-cancel", map[string]any{"device": node}, nil)
	select {
	case <-ended.Events():
	case <-f.ctx.Done():
		f.t.Fatalf("the job %s does not end", node)
	}
	f.ask("blockdev-del", map[string]any{"node-name": node}, nil)
	if err := os.Remove(filepath.Join(f.dir, node+".qcow2")); err != nil {
		f.t.Fatal(err)
	}
}

// latencyBounds are the limits of QEMU's bins in nanoseconds: from 10 µs to 10 s, each 7 % wider
// than the one below.
func latencyBounds() (bounds []uint64) {
	for at := 1e4; at < 1e10; at *= 1.07 {
		bounds = append(bounds, uint64(at))
	}
	return bounds
}

// latenciesAnew begins counting on all disks.
func (f *fleecing) latenciesAnew() {
	f.t.Helper()
	for i := range f.guest.Disks {
		f.ask("block-latency-histogram-set", map[string]any{"id": fmt.Sprintf("/machine/peripheral/disk%d/virtio-backend", i), "boundaries": latencyBounds()}, nil)
	}
}

// latencies are the bins of all disks, added up.
func (f *fleecing) latencies() (all latencies) {
	f.t.Helper()
	type histogram struct {
		Bins []uint64 `json:"bins"`
	}
	var devices []struct {
		Stats struct {
			Writes  histogram `json:"wr_latency_histogram"`
			Flushes histogram `json:"flush_latency_histogram"`
		} `json:"stats"`
	}
	f.ask("query-blockstats", nil, &devices)
	for _, d := range devices {
		all.add(latencies{d.Stats.Writes.Bins, d.Stats.Flushes.Bins})
	}
	return all
}

// latencies are counts of requests by the bin that their time falls into: of writes and of
// flushes.
type latencies [2][]uint64

func (l *latencies) add(more latencies) {
	for kind, bins := range more {
		if l[kind] == nil {
			l[kind] = make([]uint64, len(latencyBounds())+1)
		}
		for i, n := range bins {
			l[kind][i] += n
		}
	}
}

func (l *latencies) count(kind int) (n uint64) {
	for _, bin := range l[kind] {
		n += bin
	}
	return n
}

// percentile is the upper limit of the bin that a share of the requests lies in or below, in
// milliseconds.
func (l *latencies) percentile(kind int, share float64) float64 {
	left := uint64(math.Ceil(float64(l.count(kind)) * share))
	if left == 0 {
		return math.NaN()
	}
	bounds := latencyBounds()
	for i, n := range l[kind] {
		if left <= n {
			return float64(bounds[min(i, len(bounds)-1)]) / 1e6
		}
		left -= n
	}
	return math.NaN()
}

// The bins tell percentiles within their width.
func TestLatencies(t *testing.T) {
	var l latencies
	bounds := latencyBounds()
	bins := make([]uint64, len(bounds)+1)
	at := func(ms float64) int {
		i, _ := slices.BinarySearch(bounds, uint64(ms*1e6))
		return i
	}
	bins[at(1)], bins[at(50)] = 980, 20
	l.add(latencies{bins, nil})
	l.add(latencies{})
	if n := l.count(0); n != 1000 {
		t.Errorf("%d requests", n)
	}
	for share, want := range map[float64]float64{0.5: 1, 0.98: 1, 0.99: 50} {
		if got := l.percentile(0, share); got < want || got > want*1.08 {
			t.Errorf("p%.0f is %.2f ms, want %.0f", share*100, got, want)
		}
	}
}
