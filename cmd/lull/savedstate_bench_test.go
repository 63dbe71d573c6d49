package main

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/lull-backup/lull/snapshot/guesttest"
	"github.com/lull-backup/lull/snapshot/qmp"
)

// BenchmarkSavedState backs up a guest of which a quarter of the memory is noise, night
// after night with its memory. It reports how long the VM stood still, by QEMU's own
// clock, and what the nights after the first found new and stored: as the host's QEMU can
// best, which is with a background snapshot from 8.1 on, and standing still while the memory
// is written. The guest writes nothing to its disks.
func BenchmarkSavedState(b *testing.B) {
	for _, memory := range []int64{256 << 20, 1 << 30} {
		for _, way := range []string{"best", "standing"} {
			b.Run(humanize.IBytes(uint64(memory))+"/"+way, func(b *testing.B) { benchSavedState(b, memory, way == "standing") })
		}
	}
}

func benchSavedState(b *testing.B, memory int64, standing bool) {
	hands := filepath.Join(b.TempDir(), "hands")
	l := newLab(b, guesttest.Options{Memory: memory, Pause: -1, Args: []string{"-qmp", "unix:" + hands + ",server=on,wait=off"}})
	l.configure("{name: web, qmp: "+l.guest.QMP+"}", "schedule: manual, consistency: {ladder: [saved-state], window: 60s}")
	l.told(l.guest.Side, fmt.Sprintf("dd if=/dev/urandom of=/run/noise bs=1M count=%d 2>&1", memory>>22))
	c, err := qmp.Dial(l.ctx, hands, qmp.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	if standing { // QEMU does no background snapshots beside this
		err := c.Execute(l.ctx, "migrate-set-capabilities",
			map[string]any{"capabilities": []map[string]any{{"capability": "xbzrle", "state": true}}}, nil)
		if err != nil {
			b.Fatal(err)
		}
	}
	first := l.night(c)
	if how := l.result().Memory; standing && !strings.Contains(how, "stood still") {
		b.Fatal(how)
	}
	var pauses []time.Duration
	var found, stored int64
	for b.Loop() {
		pauses = append(pauses, l.night(c))
		stats := l.result().Point.Stats
		found, stored = found+stats.New, stored+stats.Stored
	}
	pauses = append(pauses, first)
	reportSpread(b, pauses, "pause")
	b.ReportMetric(float64(l.result().Point.Stats.Read)/1e6, "memory-MB")
	b.ReportMetric(float64(found)/float64(b.N)/1e6, "night-new-MB")
	b.ReportMetric(float64(stored)/float64(b.N)/1e6, "night-stored-MB")
}

// night is one backup. It returns how long the VM stood still.
func (l *lab) night(c *qmp.Client) time.Duration {
	l.t.Helper()
	sub := c.Subscribe("STOP", "RESUME")
	defer sub.Close()
	l.lull(exitDone, "backup", "lab/web")
	var stopped time.Time
	for {
		select {
		case e := <-sub.Events():
			if e.Name == "RESUME" {
				return e.Time.Sub(stopped)
			}
			stopped = e.Time
		case <-l.ctx.Done():
			l.t.Fatal("the VM was not stopped and resumed")
		}
	}
}
