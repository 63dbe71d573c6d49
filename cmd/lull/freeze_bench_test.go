package main

import (
	"slices"
	"testing"
	"time"

	"github.com/lull-backup/lull/agent"
	"github.com/lull-backup/lull/quiesce"
	"github.com/lull-backup/lull/snapshot/guesttest"
)

// held is a way to hold a guest still, and the guest that it is tried on.
type held struct {
	name    string
	lab     func(testing.TB) *lab // nil: a small guest
	writers string                // sections of the configuration
	rules   string                // of the group; empty: wantApplication
	level   quiesce.Level
	setUp   func(*lab) // once the guest is up
}

// waysToHold has a line for each writer. Those of databases have a larger guest, in which
// both databases are written to.
func waysToHold() []held {
	const hostScript = "{where: host, freeze: [/bin/true], thaw: [/bin/true]}"
	return []held{
		{name: "filesystem", rules: bestLevel, level: quiesce.LevelFilesystem},
		{name: "script-in-guest", writers: "scripts: {app: {freeze: [/run/app], thaw: [/run/app]}}", level: quiesce.LevelApplication,
			setUp: func(l *lab) { l.install("/run/app", "true") }},
		{name: "sqlite-python", lab: newSQLiteLab, level: quiesce.LevelApplication, setUp: (*lab).installPythonWriter},
		{name: "script-on-host", writers: "scripts: {app: " + hostScript + "}", level: quiesce.LevelApplication},
		{name: "postgresql", lab: newDatabaseLab, rules: databaseRules + ", writers: [filesystem, postgresql]", level: quiesce.LevelApplication},
		{name: "mariadb", lab: newDatabaseLab, rules: databaseRules + ", writers: [filesystem, mariadb]", level: quiesce.LevelApplication},
		{name: "both-databases", lab: newDatabaseLab, rules: databaseRules, level: quiesce.LevelApplication},
	}
}

// BenchmarkFreezeWindow backs up a real guest that writes all the time, and
// reports for each writer the freeze window as the host sees it and the longest pause as
// the guest's program does: the time between two records that it knows to be safe.
func BenchmarkFreezeWindow(b *testing.B) {
	for _, h := range waysToHold() {
		b.Run(h.name, func(b *testing.B) { benchHeld(b, h) })
	}
}

func benchHeld(b *testing.B, h held) {
	if h.lab == nil {
		h.lab = func(t testing.TB) *lab { return newLab(t, guesttest.Options{}) }
	}
	l := h.lab(b)
	l.writers = h.writers
	if h.setUp != nil {
		h.setUp(l)
	}
	if h.rules == "" {
		h.rules = wantApplication
	}
	l.configure(l.web(), h.rules)
	l.lull(exitDone, "backup", "lab/web") // the first one reads everything
	if got := l.result().Point.Quiesce; got.Level != h.level {
		b.Fatalf("level %v, want %v: %q", got.Level, h.level, got.Reasons)
	}
	var windows, pauses []time.Duration
	for b.Loop() {
		pause := l.longestPause()
		l.lull(exitDone, "backup", "lab/web")
		pauses = append(pauses, pause())
		windows = append(windows, l.result().Point.Quiesce.Window)
	}
	reportSpread(b, windows, "window")
	reportSpread(b, pauses, "pause")
}

// longestPause watches the guest until the function that it returns is called,
// which says how long the guest's program was held up at most.
func (l *lab) longestPause() func() time.Duration {
	stop, longest := make(chan struct{}), make(chan time.Duration)
	go func() {
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		var most time.Duration
		last, since := l.acked(), time.Now()
		for {
			select {
			case <-stop:
				longest <- most
				return
			case <-tick.C:
			}
			if n := l.acked(); n != last {
				most = max(most, time.Since(since))
				last, since = n, time.Now()
			}
		}
	}()
	return func() time.Duration {
		l.goesOn()
		close(stop)
		return <-longest
	}
}

// reportSpread reports the middle and the end of a distribution, in milliseconds.
func reportSpread(b *testing.B, all []time.Duration, what string) {
	slices.Sort(all)
	ms := func(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
	b.ReportMetric(ms(all[len(all)/2]), what+"-p50-ms")
	b.ReportMetric(ms(all[len(all)*99/100]), what+"-p99-ms")
}

// BenchmarkDeadMan kills lull while the guest is frozen, and reports how long the
// guest's program is held up from then on: nobody but the dead-man thaws it.
func BenchmarkDeadMan(b *testing.B) {
	l := newLab(b, guesttest.Options{})
	var held []time.Duration
	for b.Loop() {
		l.killedAt(agent.StepTaken)
		died, last := time.Now(), l.acked()
		if err := l.guest.WaitAcked(l.ctx, last+1); err != nil {
			b.Fatal(err)
		}
		held = append(held, time.Since(died))
		l.lull(exitDone, "backup", "lab/web")
	}
	reportSpread(b, held, "held")
}
