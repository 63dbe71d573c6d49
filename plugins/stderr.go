package plugins

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"

	"github.com/lull-backup/lull/quiesce"
)

// maxEntry is how long a line of standard error may be that is read as JSON, in bytes.
const maxEntry = 64 << 10

// Members of a line of JSON that lull knows; the first three are those of hclog.
const (
	messageKey  = "@message"
	levelKey    = "@level"
	timeKey     = "@timestamp"
	progressKey = "@progress" // an object of done and total
)

// entry is a line of JSON with a level.
type entry struct {
	level    slog.Level
	message  string
	more     string // whatever else it says, as words
	progress *quiesce.Progress
}

// readStderr passes what the plugin prints there on, until its end. go-plugin is not let
// near it: it panics on a message that is no text.
func (p *process) readStderr() {
	in := bufio.NewReaderSize(&floodReader{p.stderr, p.flood}, maxEntry)
	panicking := false
	for {
		line, err := in.ReadSlice('\n')
		long := errors.Is(err, bufio.ErrBufferFull)
		_, _ = p.said.Write(line) // a tail fails at nothing
		panicking = p.heard(bytes.TrimRight(line, "\r\n"), panicking)
		if err != nil && !long {
			return
		}
		if long {
			_ = skipLine(in, &p.said) // the next read meets the same error
		}
	}
}

// skipLine reads to the end of a line.
func skipLine(in *bufio.Reader, said io.Writer) error {
	for {
		line, err := in.ReadSlice('\n')
		_, _ = said.Write(line)
		if !errors.Is(err, bufio.ErrBufferFull) {
			return err
		}
	}
}

// heard logs one line. A panic of Go goes on to the end of the process.
func (p *process) heard(line []byte, panicking bool) bool {
	if len(line) == 0 {
		return panicking
	}
	e, ok := parseEntry(line)
	text := string(line[:min(len(line), maxLine+1)])
	switch {
	case ok && e.progress != nil:
		p.lines.tell(e.level, *e.progress, e.message+e.more)
	case ok:
		p.lines.say(e.level, e.message+e.more)
	case panicking || strings.HasPrefix(text, "panic: ") || strings.HasPrefix(text, "fatal error: "):
		p.lines.say(slog.LevelError, text)
		return true
	default:
		p.lines.say(prefixLevel(text), text)
	}
	return panicking
}

// prefixLevel is the level of a line of text: that which it begins with, else what anybody is told.
func prefixLevel(line string) slog.Level {
	name, ok := strings.CutPrefix(line, "[")
	name, _, closed := strings.Cut(name, "]")
	if level, known := entryLevel(strings.ToLower(name)); ok && closed && known {
		return level
	}
	return slog.LevelInfo
}

func entryLevel(name string) (slog.Level, bool) {
	level, ok := map[string]slog.Level{
		"trace": slog.LevelDebug, "debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError,
	}[name]
	return level, ok
}

// parseEntry reads a line of JSON. One without a level that lull knows is text like any
// other.
func parseEntry(line []byte) (e entry, ok bool) {
	if line[0] != '{' {
		return e, false
	}
	in := json.NewDecoder(bytes.NewReader(line))
	in.UseNumber()
	var raw map[string]any
	if err := in.Decode(&raw); err != nil {
		return e, false
	}
	if _, err := in.Token(); !errors.Is(err, io.EOF) {
		return e, false // there is more than one value
	}
	level, _ := raw[levelKey].(string)
	if e.level, ok = entryLevel(strings.ToLower(level)); !ok {
		return e, false
	}
	e.message, _ = raw[messageKey].(string)
	if e.progress = progressOf(e.message, raw[progressKey]); e.progress != nil {
		delete(raw, progressKey)
		raw["done"], raw["total"] = e.progress.Done, e.progress.Total
	}
	for _, key := range []string{messageKey, levelKey, timeKey} { // lull's log has the time
		delete(raw, key)
	}
	e.more = words(raw)
	return e, true
}

// progressOf is the progress that a line tells; nil: none that lull understands.
func progressOf(what string, told any) *quiesce.Progress {
	members, ok := told.(map[string]any)
	if !ok {
		return nil
	}
	done, knowsDone := count(members["done"])
	total, knowsTotal := count(members["total"])
	if !knowsDone || !knowsTotal || done == 0 && total == 0 {
		return nil
	}
	return &quiesce.Progress{What: what, Done: done, Total: total}
}

// count is a whole number from 0 on; what is not there is 0.
func count(told any) (n int64, ok bool) {
	if told == nil {
		return 0, true
	}
	number, ok := told.(json.Number)
	n, err := number.Int64()
	return n, ok && err == nil && n >= 0
}

// words are what an entry says beside its message.
func words(members map[string]any) string {
	var all []string
	for key, value := range members {
		all = append(all, fmt.Sprintf(" %s=%v", key, value))
	}
	slices.Sort(all)
	return strings.Join(all, "")
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
