package plugins

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/lull-backup/lull/quiesce"
)

// Limits of what a plugin may have logged.
const (
	maxLine   = 4 << 10 // bytes of one line; the rest is cut
	lineBurst = 100
	lineRate  = 10 // lines a second after the burst
)

// lineLog passes what a plugin says on to a slog.Logger, within limits. It is
// go-plugin's logger too. Safe for concurrent use.
type lineLog struct {
	log *slog.Logger
	now func() time.Time
	// during is the run of the last call that had one.
	during atomic.Pointer[quiesce.Request]

	mu      sync.Mutex
	tokens  float64
	filled  time.Time
	dropped int
}

func newLineLog(l *slog.Logger) *lineLog {
	return &lineLog{log: l, now: time.Now, tokens: lineBurst, filled: time.Now()}
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
	if r := l.during.Load(); r != nil {
		attrs = append(attrs, slog.String("run", r.Run), slog.String("vm", r.VM))
	}
	if dropped > 0 {
		attrs = append(attrs, slog.Int("dropped", dropped))
	}
	l.log.LogAttrs(context.Background(), level, "plugin says", attrs...)
}

// admit takes a token from the bucket; dropped is how many lines got none since
// the last that did.
func (l *lineLog) admit() (dropped int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	l.tokens = min(lineBurst, l.tokens+lineRate*now.Sub(l.filled).Seconds())
	l.filled = now
	if l.tokens < 1 {
		l.dropped++
		return 0, false
	}
	l.tokens--
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

// tail keeps the end of what was written.
type tail struct {
	mu  sync.Mutex
	end []byte
}

func (t *tail) Write(p []byte) (int, error) {
	const room = 1 << 10
	t.mu.Lock()
	defer t.mu.Unlock()
	t.end = append(t.end, p[max(0, len(p)-room):]...)
	t.end = t.end[max(0, len(t.end)-room):]
	return len(p), nil
}

// last is the last line as an addition to an error; empty where there is none.
func (t *tail) last() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	lines := strings.Split(strings.TrimSpace(string(t.end)), "\n")
	if line := clip(lines[len(lines)-1]); line != "" {
		return fmt.Sprintf("; it said %q", line)
	}
	return ""
}

// hostLog is an hclog.Logger over slog. What go-plugin says of itself goes to
// the debug level: errors that matter are returned. What it read from the
// plugin comes through a logger that it names after the program.
type hostLog struct {
	lines      *lineLog
	fromPlugin bool
	name       string
}

var _ hclog.Logger = (*hostLog)(nil)

func slogLevel(l hclog.Level) slog.Level {
	switch l {
	case hclog.Error:
		return slog.LevelError
	case hclog.Warn:
		return slog.LevelWarn
	case hclog.Info:
		return slog.LevelInfo
	}
	return slog.LevelDebug
}

// Log passes a message on.
func (h *hostLog) Log(level hclog.Level, msg string, args ...any) {
	if h.fromPlugin {
		h.lines.say(slogLevel(level), msg+pairs(args))
		return
	}
	h.lines.log.Debug("go-plugin: "+msg, args...)
}

// pairs are what a plugin's own logger added to a line, but for the time, which lull's
// log has.
func pairs(args []any) string {
	var all []string
	for ; len(args) > 1; args = args[2:] {
		if args[0] != "timestamp" {
			all = append(all, fmt.Sprintf(" %v=%v", args[0], args[1]))
		}
	}
	slices.Sort(all) // go-plugin has them in no order
	return strings.Join(all, "")
}

// Trace is dropped: it is one line a message.
func (h *hostLog) Trace(string, ...any) {}

// Debug logs at the debug level.
func (h *hostLog) Debug(msg string, args ...any) { h.Log(hclog.Debug, msg, args...) }

// Info logs at the info level.
func (h *hostLog) Info(msg string, args ...any) { h.Log(hclog.Info, msg, args...) }

// Warn logs at the warning level.
func (h *hostLog) Warn(msg string, args ...any) { h.Log(hclog.Warn, msg, args...) }

// Error logs at the error level.
func (h *hostLog) Error(msg string, args ...any) { h.Log(hclog.Error, msg, args...) }

// IsTrace is false.
func (h *hostLog) IsTrace() bool { return false }

// IsDebug is true: slog decides.
func (h *hostLog) IsDebug() bool { return true }

// IsInfo is true.
func (h *hostLog) IsInfo() bool { return true }

// IsWarn is true.
func (h *hostLog) IsWarn() bool { return true }

// IsError is true.
func (h *hostLog) IsError() bool { return true }

// ImpliedArgs are none.
func (h *hostLog) ImpliedArgs() []any { return nil }

// With adds nothing: go-plugin does not use it.
func (h *hostLog) With(...any) hclog.Logger { return h }

// Name is the last given.
func (h *hostLog) Name() string { return h.name }

// Named tells go-plugin's own parts from the plugin.
func (h *hostLog) Named(name string) hclog.Logger {
	return &hostLog{lines: h.lines, name: name, fromPlugin: name != "stdio"}
}

// ResetNamed is Named.
func (h *hostLog) ResetNamed(name string) hclog.Logger { return h.Named(name) }

// SetLevel does nothing.
func (h *hostLog) SetLevel(hclog.Level) {}

// GetLevel is debug.
func (h *hostLog) GetLevel() hclog.Level { return hclog.Debug }

// StandardLogger writes lines at the debug level.
func (h *hostLog) StandardLogger(o *hclog.StandardLoggerOptions) *log.Logger {
	return log.New(h.StandardWriter(o), "", 0)
}

// StandardWriter writes lines at the debug level.
func (h *hostLog) StandardWriter(*hclog.StandardLoggerOptions) io.Writer {
	return &lineWriter{to: h.lines, level: slog.LevelDebug}
}
