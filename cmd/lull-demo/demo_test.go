package main

import (
	"strings"
	"testing"
	"time"

	"github.com/lull-backup/lull/snapshot/guesttest/record"
)

func logs(a, b record.LogReport) record.Report {
	a.Path, b.Path = "/data/0", "/data/1"
	return record.Report{Logs: []record.LogReport{a, b}}
}

// TestJudge: the proof of the demo can fail.
func TestJudge(t *testing.T) {
	whole := record.LogReport{First: 1, Last: 100}
	for _, c := range []struct {
		name       string
		found      record.Report
		safe, last uint64
		want       string
	}{
		{"whole", logs(whole, whole), 98, 200, ""},
		{"a record lost", logs(whole, record.LogReport{First: 1, Last: 99}), 100, 200, "100 was safe"},
		{"a record torn", logs(whole, record.LogReport{First: 1, Last: 100, Torn: 1}), 98, 200, "torn"},
		{"the first lost", logs(whole, record.LogReport{First: 2, Last: 100}), 98, 200, "begins with record 2"},
		{"no snapshot at all", logs(whole, whole), 98, 100, "after the snapshot"},
		{"nothing known", logs(whole, whole), 0, 200, "empty"},
		{"a disk missing", record.Report{Logs: []record.LogReport{whole}}, 98, 200, "1 disks"},
		{"a gap", record.Report{Problems: []string{"records 5 to 6 are missing"}}, 98, 200, "records 5 to 6"},
	} {
		err := judge(c.found, c.safe, c.last)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: got %v, want %q", c.name, err, c.want)
		}
	}
}

func TestAcksBefore(t *testing.T) {
	start := time.Unix(1000, 0)
	var w ackWatch
	for i, n := range []uint64{3, 3, 7, 9} {
		w.note(ack{at: start.Add(time.Duration(i) * time.Second), record: n})
	}
	for after, want := range map[time.Duration]uint64{0: 0, time.Millisecond: 3, 2 * time.Second: 3, 2500 * time.Millisecond: 7, time.Hour: 9} {
		if got := w.before(start.Add(after)); got != want {
			t.Errorf("before +%s: got %d, want %d", after, got, want)
		}
	}
}
