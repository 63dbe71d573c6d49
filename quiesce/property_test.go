package quiesce_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/lull-backup/lull/quiesce"
	"github.com/lull-backup/lull/quiesce/quiescetest"
)

// trial is one drawn case: everything is decided before it runs, so that rapid
// can shrink it.
type trial struct {
	policy   quiesce.Policy
	apps     []*quiescetest.Writer
	fs       *quiescetest.Writer // nil: none
	guest    *quiescetest.Guest
	refuse   atomic.Int32  // how many questions the guest fails to answer at first
	take     time.Duration // how long Take takes
	takeErr  error
	cancelAt time.Duration // 0: never
	complete bool

	saved *savedTrial // nil: the host cannot

	tape   quiescetest.Tape
	guards []*guard
	takes  int
	atTake []bool // which writers held still at the end of Take
}

var calls = []quiescetest.Call{
	quiescetest.Identify, quiescetest.Prepare, quiescetest.Freeze, quiescetest.Thaw,
	quiescetest.PostSnapshot, quiescetest.Complete, quiescetest.Abort,
}

func drawAct(t *rapid.T, label string) quiescetest.Act {
	seconds := rapid.IntRange(0, 40)
	switch rapid.IntRange(0, 14).Draw(t, label) {
	case 0:
		class := quiesce.Class(rapid.IntRange(0, 5).Draw(t, label+" class"))
		times := rapid.IntRange(0, 3).Draw(t, label+" times")
		return quiescetest.Act{Err: &quiesce.Failure{Class: class, Writer: "liar", Err: errors.New("no")}, Times: times}
	case 8:
		return quiescetest.Act{Err: &quiesce.Failure{Class: quiesce.Retryable, Err: errors.New("later")}, Times: 1}
	case 1:
		return quiescetest.Act{Delay: time.Duration(seconds.Draw(t, label+" delay")) * time.Second}
	case 2:
		return quiescetest.Act{Delay: time.Duration(seconds.Draw(t, label+" delay")) * time.Second, Deaf: true}
	case 3:
		return quiescetest.Act{Delay: time.Hour, Deaf: true}
	case 4:
		return quiescetest.Act{Panic: true}
	case 5:
		return quiescetest.Act{Lie: true}
	case 6:
		return quiescetest.Act{Die: true}
	case 7:
		return quiescetest.Act{Err: errors.New("untyped"), Lie: true}
	}
	return quiescetest.Act{}
}

func (tr *trial) drawWriter(t *rapid.T, w *quiescetest.Writer) {
	w.Tape = &tr.tape
	// Most calls go well, else no trial gets far.
	for _, c := range rapid.SliceOfN(rapid.SampledFrom(calls), 0, 3).Draw(t, w.ID.Name+" odd calls") {
		a := drawAct(t, w.ID.Name+" "+string(c))
		a.Tells = []quiesce.Progress{{What: "rows", Done: 3, Total: 7}}
		w.On(c, a)
	}
}

func drawTrial(t *rapid.T) *trial {
	tr := &trial{guest: quiescetest.NewGuest()}
	ladder := []quiesce.Level{quiesce.LevelApplication, quiesce.LevelFilesystem, quiesce.LevelSavedState, quiesce.LevelCrash}
	tr.policy.Ladder = ladder[rapid.IntRange(0, 3).Draw(t, "top"):]
	tr.policy.Floor = rapid.SampledFrom(tr.policy.Ladder).Draw(t, "floor")
	if rapid.Bool().Draw(t, "retries") {
		tr.policy.Retry = quiesce.Retry{
			Attempts: rapid.IntRange(0, 4).Draw(t, "attempts"), Delay: time.Duration(rapid.IntRange(0, 60).Draw(t, "delay")) * time.Second, Until: 2 * time.Minute,
		}
	}
	for i := range rapid.IntRange(0, 3).Draw(t, "applications") {
		w := quiescetest.App(fmt.Sprintf("app-%d", i))
		w.ID.Tier = quiesce.Tier(rapid.IntRange(0, 1).Draw(t, "tier"))
		tr.drawWriter(t, w)
		tr.apps = append(tr.apps, w)
	}
	if rapid.Bool().Draw(t, "filesystem writer") {
		tr.fs = quiescetest.Filesystem(tr.guest)
		tr.drawWriter(t, tr.fs)
	}
	tr.refuse.Store(int32(rapid.IntRange(0, 3).Draw(t, "refused questions")))
	if rapid.IntRange(0, 3).Draw(t, "slow take") == 0 {
		tr.take = time.Duration(rapid.IntRange(1, 20).Draw(t, "take seconds")) * time.Second
	}
	if rapid.IntRange(0, 9).Draw(t, "take fails") == 0 {
		tr.takeErr = errors.New("take failed")
	}
	if rapid.IntRange(0, 4).Draw(t, "cancelled") == 0 {
		tr.cancelAt = time.Duration(rapid.IntRange(1, 30).Draw(t, "cancel at")) * time.Second
	}
	tr.complete = rapid.Bool().Draw(t, "complete")
	if rapid.IntRange(0, 4).Draw(t, "saves") > 0 {
		tr.saved = drawSaved(t, tr)
	}
	for i := range rapid.IntRange(0, 2).Draw(t, "guards") {
		g := &guard{trial: tr}
		if rapid.IntRange(0, 5).Draw(t, "guard fails") == 0 {
			g.err = fmt.Errorf("guard %d does not arm", i)
		}
		tr.guards = append(tr.guards, g)
	}
	return tr
}

func (tr *trial) writers() []*quiescetest.Writer {
	all := slices.Clone(tr.apps)
	if tr.fs != nil {
		all = append(all, tr.fs)
	}
	return all
}

// play runs the trial and returns what was broken.
func (tr *trial) play(ctx context.Context) []string {
	if tr.cancelAt > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, tr.cancelAt)
		defer cancel()
	}
	job := quiesce.Job{Run: "run-1", VM: "vm", Policy: tr.policy, Guest: tr.guest, Take: tr.doTake}
	if tr.saved != nil {
		job.Saved = tr.saved.saved()
	}
	var within, late atomic.Bool
	job.Progress = func(quiesce.Progress) {
		if !within.Load() {
			late.Store(true)
		}
	}
	within.Store(true)
	for _, w := range tr.writers() {
		job.Writers = append(job.Writers, w)
	}
	for _, g := range tr.guards {
		job.Guards = append(job.Guards, g)
	}
	tr.guest.Fault = func(context.Context, string) error {
		if tr.refuse.Add(-1) < 0 {
			return nil
		}
		return errors.New("guest is busy")
	}
	held, err := quiesce.Do(ctx, job)
	within.Store(false)
	if tr.saved != nil {
		tr.saved.told = tr.saved.answer.Load()
	}
	broken := slices.Concat(tr.checkThawed(err), tr.checkResult(held, err), tr.checkGuards(err))
	if held != nil {
		within.Store(true)
		tr.end(held)
		within.Store(false)
	}
	for _, w := range tr.writers() {
		w.Wait()
	}
	broken = append(broken, tr.checkThawed(err)...) // nothing froze late
	if tr.saved != nil {
		time.Sleep(3 * time.Hour) // of the bubble: what nobody waits for any more has ended
		broken = append(broken, tr.saved.check(tr, held, err)...)
	}
	if late.Load() {
		broken = append(broken, "progress was told of although nothing was under way")
	}
	return slices.Concat(broken, tr.checkOrder(), tr.checkEnds(), tr.checkAttempts(held))
}

// checkAttempts: no level is tried more often than the policy says, and each failed
// attempt that was made again is named.
func (tr *trial) checkAttempts(held *quiesce.Held) []string {
	most := max(1, tr.policy.Retry.Attempts)
	prepared := map[string]int{}
	for _, e := range tr.tape.Entries() {
		if e.Call == quiescetest.Prepare {
			prepared[e.Writer]++
		}
	}
	var broken []string
	again := 0
	for w, n := range prepared {
		if n > 2*most { // two levels have writers
			broken = append(broken, fmt.Sprintf("%s was prepared %d times, with %d attempts", w, n, most))
		}
		again = max(again, n-2)
	}
	if held != nil && len(held.Report().Attempts) < again {
		broken = append(broken, fmt.Sprintf("%d attempts were made again, the report names %q", again, held.Report().Attempts))
	}
	return broken
}

func (tr *trial) doTake(context.Context) error {
	tr.takes++
	if tr.take > 0 {
		time.Sleep(tr.take) // of the bubble
	}
	for _, w := range tr.writers() {
		tr.atTake = append(tr.atTake, w.Frozen())
	}
	return tr.takeErr
}

func (tr *trial) end(held *quiesce.Held) {
	complete := func(ctx context.Context) error { return held.Complete(ctx, "point-1") }
	first, second := held.Abort, complete
	if tr.complete {
		first, second = complete, held.Abort
	}
	// Errors are the scripts' own.
	_ = first(context.Background())
	_ = second(context.Background())
}

// lies says whether a writer says that it thawed when it did not, or that it
// froze: no coordinator can see through that without asking the guest.
func lies(w *quiescetest.Writer) bool {
	for c, a := range w.Acts {
		if a.Lie && (a.Err == nil || c == quiescetest.Abort) {
			return true
		}
	}
	return false
}

func (tr *trial) checkThawed(err error) []string {
	if errors.Is(err, quiesce.ErrStillFrozen) {
		return nil
	}
	var broken []string
	for _, w := range tr.writers() {
		if w.Frozen() && (w.Guest != nil || !lies(w)) {
			broken = append(broken, fmt.Sprintf("%s is frozen although Do returned %v", w.ID.Name, err))
		}
	}
	return broken
}

func (tr *trial) checkResult(held *quiesce.Held, err error) []string {
	if tr.takes > 1 {
		return []string{fmt.Sprintf("taken %d times", tr.takes)}
	}
	if (held == nil) == (err == nil) {
		return []string{fmt.Sprintf("held %v with error %v", held, err)}
	}
	if err != nil {
		return nil
	}
	r := held.Report()
	var broken []string
	if r.Level < tr.policy.Floor || r.Level > tr.policy.Ladder[0] {
		broken = append(broken, fmt.Sprintf("level %v outside of the policy", r.Level))
	}
	if r.Level < r.Asked && len(r.Reasons) == 0 {
		broken = append(broken, "lowered without a reason")
	}
	if r.Level > quiesce.LevelSavedState && r.Window > quiesce.DefaultWindow { // a guest that stood still is whole however long
		broken = append(broken, fmt.Sprintf("level %v with a window of %v", r.Level, r.Window))
	}
	return append(broken, tr.checkLevel(r)...)
}

// checkLevel compares the reported level with what was frozen when Take ended.
func (tr *trial) checkLevel(r quiesce.Report) []string {
	var broken []string
	named := map[string]bool{}
	for _, w := range r.Writers {
		named[w.Identity.Name] = true
	}
	for i, w := range tr.writers() {
		if named[w.ID.Name] && !tr.atTake[i] && !lies(w) {
			broken = append(broken, fmt.Sprintf("%s is in the report but was not frozen at the snapshot", w.ID.Name))
		}
	}
	if r.Level == quiesce.LevelFilesystem && !named["filesystem"] {
		broken = append(broken, "level filesystem without its writer")
	}
	if r.Level == quiesce.LevelApplication && tr.fs != nil && tr.fs.Acts[quiescetest.Identify].Err == nil && !named["filesystem"] {
		broken = append(broken, "level application without the file systems")
	}
	if r.Level == quiesce.LevelApplication && (len(named) == 0 || len(named) == 1 && named["filesystem"]) {
		broken = append(broken, "level application without an application")
	}
	return broken
}

// checkOrder reads the tape: freezes climb the tiers, thaws go down, and every
// writer that was frozen is asked to go on within the budget.
func (tr *trial) checkOrder() []string {
	var broken []string
	tier := map[string]quiesce.Tier{}
	for _, w := range tr.writers() {
		tier[w.ID.Name] = w.ID.Tier
	}
	frozenAt, last := map[string]time.Time{}, quiescetest.Entry{}
	for _, e := range tr.tape.Entries() {
		switch e.Call {
		case quiescetest.Freeze:
			if last.Call == quiescetest.Freeze && tier[last.Writer] > tier[e.Writer] {
				broken = append(broken, fmt.Sprintf("%s froze after %s", e.Writer, last.Writer))
			}
			frozenAt[e.Writer] = e.At
		case quiescetest.Thaw:
			if last.Call == quiescetest.Thaw && tier[last.Writer] < tier[e.Writer] {
				broken = append(broken, fmt.Sprintf("%s thawed after %s", e.Writer, last.Writer))
			}
		}
		if at, ok := frozenAt[e.Writer]; ok && (e.Call == quiescetest.Thaw || e.Call == quiescetest.Abort) {
			delete(frozenAt, e.Writer)
			if d := e.At.Sub(at); d > quiesce.DefaultWindow {
				broken = append(broken, fmt.Sprintf("%s was asked to thaw after %v", e.Writer, d))
			}
		}
		last = e
	}
	for w := range frozenAt {
		broken = append(broken, w+" was never asked to thaw")
	}
	return broken
}

// checkEnds: in an attempt, Complete and Abort never both happen, and one does.
func (tr *trial) checkEnds() []string {
	var broken []string
	ends := map[string]string{}
	for _, e := range tr.tape.Entries() {
		switch e.Call {
		case quiescetest.Prepare:
			if ends[e.Writer] == "open" {
				broken = append(broken, e.Writer+" was prepared twice in one attempt")
			}
			ends[e.Writer] = "open"
		case quiescetest.Complete, quiescetest.Abort:
			if before := ends[e.Writer]; e.Call == quiescetest.Complete && before != "open" || before == string(quiescetest.Complete) {
				broken = append(broken, fmt.Sprintf("%s: %s after %q", e.Writer, e.Call, before))
			}
			ends[e.Writer] = string(e.Call)
		}
	}
	for w, end := range ends {
		if end == "open" {
			broken = append(broken, w+" got neither Complete nor Abort")
		}
	}
	return broken
}

func TestAnyWriters(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		tr := drawTrial(rt)
		var broken []string
		synctest.Test(t, func(t *testing.T) { broken = tr.play(t.Context()) })
		if len(broken) > 0 {
			rt.Fatalf("%s\ntape:\n%s", strings.Join(broken, "\n"), strings.Join(tr.tape.Calls(), "\n"))
		}
	})
}
