package plugins

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lull-backup/lull/quiesce"
)

// entries are lines of standard error, and what lull makes of them.
var entries = map[string]struct {
	line string
	want *entry // nil: it is text
}{
	"hclog":            {`{"@level":"warn","@message":"slow","@timestamp":"2026-11-22T04:11:21.000000Z","b":1,"a":"x"}`, &entry{level: slog.LevelWarn, message: "slow", more: " a=x b=1"}},
	"progress":         {`{"@level":"info","@message":"rows","@progress":{"done":3,"total":7}}`, &entry{message: "rows", more: " done=3 total=7", progress: &quiesce.Progress{What: "rows", Done: 3, Total: 7}}},
	"without a total":  {`{"@level":"info","@message":"rows","@progress":{"done":3}}`, &entry{message: "rows", more: " done=3 total=0", progress: &quiesce.Progress{What: "rows", Done: 3}}},
	"negative":         {`{"@level":"info","@message":"rows","@progress":{"done":-3}}`, &entry{message: "rows", more: " @progress=map[done:-3]"}},
	"not whole":        {`{"@level":"info","@progress":{"done":1.5}}`, &entry{more: " @progress=map[done:1.5]"}},
	"beyond all":       {`{"@level":"info","@progress":{"done":1e400}}`, &entry{more: " @progress=map[done:1e400]"}},
	"words":            {`{"@level":"info","@progress":{"done":"3"}}`, &entry{more: " @progress=map[done:3]"}},
	"no object":        {`{"@level":"info","@progress":[3,7]}`, &entry{more: " @progress=[3 7]"}},
	"message a number": {`{"@level":"info","@message":5}`, &entry{}},
	"level a number":   {`{"@level":5,"@message":"x"}`, nil},
	"unknown level":    {`{"@level":"loud","@message":"x"}`, nil},
	"two values":       {`{"@level":"info"} {}`, nil},
	"no JSON":          {`{"@level":"info"`, nil},
}

func TestEntries(t *testing.T) {
	for name, test := range entries {
		t.Run(name, func(t *testing.T) {
			got, ok := parseEntry([]byte(test.line))
			if ok != (test.want != nil) {
				t.Fatalf("it is an entry: %v", ok)
			}
			if diff := cmp.Diff(test.want, &got, cmp.AllowUnexported(entry{})); ok && diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// Whatever a plugin prints, lull lives on, and what it passes on is bounded.
func FuzzEntry(f *testing.F) {
	for _, test := range entries {
		f.Add(test.line)
	}
	f.Fuzz(func(t *testing.T, line string) {
		if line == "" {
			return
		}
		e, ok := parseEntry([]byte(line))
		if p := e.progress; ok && p != nil && (p.Done < 0 || p.Total < 0) {
			t.Errorf("progress %+v of %q", p, line)
		}
		p := newProcess(Spec{}, "/run/p", newLineLog(slog.New(slog.DiscardHandler)))
		p.heard([]byte(line), false)
	})
}

// A writer that tells of every row is heard now and then, and its log stays readable.
func TestProgressLimits(t *testing.T) {
	var out strings.Builder
	now := time.Unix(1_000_000, 0)
	l := newLineLog(slog.New(slog.NewTextHandler(&out, nil)))
	l.now, l.lines.filled, l.progress.filled = func() time.Time { return now }, now, now
	heard := 0
	l.during.Store(&spoken{run: "r", vm: "vm", tell: func(quiesce.Progress) { heard++ }})
	for i := range int64(10_000) {
		l.tell(slog.LevelInfo, quiesce.Progress{What: "rows", Done: i}, "rows")
	}
	l.say(slog.LevelInfo, "a word beside it")
	if heard != progressBurst {
		t.Errorf("%d words in a burst, want %d", heard, progressBurst)
	}
	if n := strings.Count(out.String(), "\n"); n != progressBurst+1 || strings.Contains(out.String(), "dropped") {
		t.Errorf("%d lines:\n%.500s", n, out.String())
	}
	now = now.Add(time.Second)
	l.tell(slog.LevelInfo, quiesce.Progress{What: "rows", Done: 10_000}, "rows")
	if heard != progressBurst+1 {
		t.Error("a second later nothing is heard")
	}
}
