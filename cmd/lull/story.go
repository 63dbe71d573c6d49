package main

import (
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"github.com/lull-backup/lull/agent"
	"github.com/lull-backup/lull/quiesce"
)

// eventLine is one line of --json of a long command: an event and, in the last
// one, what it came to.
type eventLine struct {
	agent.Event
	Restored *agent.RestoreResult `json:"restored,omitempty"`
	Checked  *checkResult         `json:"checked,omitempty"`
}

// line writes one line of --json.
func (in *invocation) line(l eventLine) error { return writeJSON(in.Stdout, l) }

// story tells the user how long work goes on: as JSON lines, as a bar on a
// terminal with the turning points above it, or as plain lines.
type story struct {
	in   *invocation
	what string // shown beside the bar

	mu   sync.Mutex
	bars *mpb.Progress // nil until there is progress to draw
	bar  *mpb.Bar
	step agent.Step             // that the bar is of
	said map[string]agent.Event // by writer: its word that was told last
}

func (in *invocation) newStory(what string) *story { return &story{in: in, what: what} }

// hear is an agent.Observer.
func (s *story) hear(e agent.Event) {
	if s.in.Observe != nil {
		s.in.Observe(e)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.in.flags.json:
		// An unwritable stdout shows when the result is written.
		_ = s.in.line(eventLine{Event: e})
	case s.in.flags.quiet:
	case e.Step == agent.StepWriter:
		s.tellWriter(e)
	case e.Total > 0:
		s.draw(e)
	default:
		s.tell(e)
	}
}

// writing is the progress of something that writes, told now and then.
func (s *story) writing() func(done, total int64) {
	told := int64(0)
	return func(done, total int64) {
		if done-told >= meterStep {
			told = done
			s.hear(agent.Event{Time: time.Now(), Step: agent.StepWriting, Done: done, Total: total})
		}
	}
}

// checking is the progress of a check.
func (s *story) checking(done, total int64) {
	s.hear(agent.Event{Time: time.Now(), Step: agent.StepReading, Done: done, Total: total})
}

// tell writes the turning points; the finer steps are for --json and the log.
func (s *story) tell(e agent.Event) {
	text := ""
	switch e.Step {
	case agent.StepStarted:
		text = "backup begins"
	case agent.StepRecovering:
		text = "repairing what an earlier run left"
	case agent.StepRecovered:
		text = "repaired"
	case agent.StepWaiting:
		text = "waiting for other runs: " + e.Message
	case agent.StepTaken:
		text = "disks are frozen"
		if e.Message != "" {
			text += ", " + e.Message
		}
	case agent.StepThawed:
		text = "the guest goes on"
	case agent.StepRetrying:
		text = "the guest does not hold still yet; it is tried again in a moment"
	case agent.StepRead:
		if e.Message == "" {
			return
		}
		s.endBar(true)
		text = e.Message
	case agent.StepMerging, agent.StepMerged:
		s.endBar(e.Step == agent.StepMerging)
		return
	case agent.StepWarning:
		text = "warning: " + e.Message
	case agent.StepDone, agent.StepFailed:
		s.endBar(e.Step == agent.StepFailed)
		return
	default:
		return
	}
	fmt.Fprintf(s.out(), "lull: %s: %s\n", printable(e.VM), printable(text))
}

// A writer's progress is told as lines: at once where it says something new, though no
// faster than that, and now and then where it goes on with the same.
const (
	newWordEvery  = time.Second
	sameWordEvery = 10 * time.Second
)

func (s *story) tellWriter(e agent.Event) {
	last, known := s.said[e.Writer]
	every := newWordEvery
	if last.Message == e.Message {
		every = sameWordEvery
	}
	if known && e.Time.Sub(last.Time) < every {
		return
	}
	if s.said == nil {
		s.said = map[string]agent.Event{}
	}
	s.said[e.Writer] = e
	fmt.Fprintf(s.out(), "lull: %s: %s: %s\n", printable(e.VM), printable(e.Writer), printable(writerWord(e.Message, e.Done, e.Total)))
}

// writerWord is a writer's progress as a person reads it.
func writerWord(what string, done, total int64) string {
	return quiesce.Progress{What: what, Done: done, Total: total}.String()
}

// out is where lines go without tearing a bar apart.
func (s *story) out() io.Writer {
	if s.bars != nil {
		return s.bars
	}
	return s.in.Stderr
}

func (s *story) draw(e agent.Event) {
	if !s.in.Terminal {
		return
	}
	if s.step != e.Step {
		s.endBar(true)
	}
	if s.bar == nil {
		what := s.what
		if e.Step == agent.StepMerging {
			what += " merging"
		}
		s.step = e.Step
		s.bars = mpb.New(mpb.WithOutput(s.in.Stderr), mpb.WithWidth(40), mpb.WithAutoRefresh())
		s.bar = s.bars.AddBar(e.Total,
			mpb.PrependDecorators(decor.Name(what, decor.WCSyncSpaceR), decor.Percentage(decor.WC{W: 5})),
			mpb.AppendDecorators(decor.CountersKibiByte("% .1f / % .1f"), decor.Name("  "),
				decor.AverageSpeed(decor.SizeB1024(0), "% .1f"), decor.Name("  "), decor.AverageETA(decor.ET_STYLE_GO)))
	}
	s.bar.SetTotal(e.Total, false)
	s.bar.SetCurrent(e.Done)
}

// endBar stops drawing; an unfinished bar stays as it was.
func (s *story) endBar(unfinished bool) {
	if s.bar == nil {
		return
	}
	if unfinished {
		s.bar.Abort(false)
	} else {
		s.bar.SetTotal(-1, true)
	}
	s.bars.Wait()
	s.bar, s.bars = nil, nil
}

// close ends all drawing. Safe to call twice.
func (s *story) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.endBar(true)
}
