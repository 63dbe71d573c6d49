package plugins

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lull-backup/lull/quiesce"
)

// Limits of what a plugin may have logged.
const (
	maxLine   = 4 << 10 // bytes of one line; the rest is cut
	lineBurst = 100
	lineRate  = 10 // lines a second after the burst
)

// Limits of the progress that is passed on. What comes faster is left out, and is no loss:
// a later word says more.
const (
	progressBurst = 5
	progressRate  = 5
)

// lineLog passes what a plugin says on to a slog.Logger, and what is progress to whoever
// listens to its call, within limits. Safe for concurrent use.
type lineLog struct {
	log *slog.Logger
	now func() time.Time
	// during is the last call that belongs to a run or a restore.
	during atomic.Pointer[spoken]

	mu       sync.Mutex
	lines    allowance
	progress allowance
	dropped  int
}

// spoken is a call that what the plugin says belongs to.
type spoken struct {
	run, vm string
	tell    func(quiesce.Progress)
}

func newLineLog(l *slog.Logger) *lineLog {
	now := time.Now()
	return &lineLog{
		log: l, now: time.Now,
		lines:    allowance{burst: lineBurst, rate: lineRate, left: lineBurst, filled: now},
		progress: allowance{burst: progressBurst, rate: progressRate, left: progressBurst, filled: now},
	}
}

// allowance is so many at once, and so many a second after that.
type allowance struct {
	burst, rate, left float64
	filled            time.Time
}

func (a *allowance) take(now time.Time) bool {
	a.left = min(a.burst, a.left+a.rate*now.Sub(a.filled).Seconds())
	a.filled = now
	if a.left < 1 {
		return false
	}
	a.left--
	return true
}

// tell passes progress on, unless there was much of it, and logs it like any line.
func (l *lineLog) tell(level slog.Level, p quiesce.Progress, line string) {
	l.mu.Lock()
	ok := l.progress.take(l.now())
	l.mu.Unlock()
	if !ok {
		return
	}
	s := l.during.Load()
	l.say(level, line) // first: who hears of it may begin another call
	if s != nil {
		s.tell(p)
	}
}

// say logs one line of the plugin, or counts it as dropped.
func (l *lineLog) say(level slog.Level, line string) {
	dropped, ok := l.admit()
	if !ok {
		return
	}
	if len(line) > maxLine {
		line = line[:maxLine] + "…"
	}
	attrs := []slog.Attr{slog.String("line", strings.ToValidUTF8(line, "?"))}
	if s := l.during.Load(); s != nil {
		attrs = append(attrs, s.attrs()...)
	}
	if dropped > 0 {
		attrs = append(attrs, slog.Int("dropped", dropped))
	}
	l.log.LogAttrs(context.Background(), level, "plugin says", attrs...)
}

// attrs name the run; a restore has none.
func (s *spoken) attrs() []slog.Attr {
	if s.run == "" {
		return []slog.Attr{slog.String("vm", s.vm)}
	}
	return []slog.Attr{slog.String("run", s.run), slog.String("vm", s.vm)}
}

// admit tells whether one more line is allowed; dropped is how many were not since
// the last that was.
func (l *lineLog) admit() (dropped int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.lines.take(l.now()) {
		l.dropped++
		return 0, false
	}
	dropped, l.dropped = l.dropped, 0
	return dropped, true
}

// lineWriter cuts a stream into lines for a lineLog. Long lines are logged by
// their beginning.
type lineWriter struct {
	to    *lineLog
	level slog.Level
	line  []byte
}

func (w *lineWriter) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		line, after, whole := bytes.Cut(rest, []byte{'\n'})
		if room := maxLine + 1 - len(w.line); room > 0 {
			w.line = append(w.line, line[:min(room, len(line))]...)
		}
		if whole {
			w.flush()
		}
		rest = after
	}
	return len(p), nil
}

func (w *lineWriter) flush() {
	if len(w.line) > 0 {
		w.to.say(w.level, string(w.line))
	}
	w.line = w.line[:0]
}
