package plugins

import (
	"log/slog"
	"strings"
	"testing"
	"time"
)

// A handshake that passes leads nowhere but into the plugin's own folder.
func FuzzHandshake(f *testing.F) {
	cert := strings.Repeat("A", 60)
	for _, seed := range []string{
		"1|1|unix|/run/p/s|grpc|" + cert, "1|1|unix|/run/p/../s|grpc|" + cert, "1|1|tcp|/run/p/s|grpc|" + cert,
		"1|1|unix|/run/p/s|netrpc|" + cert, "1|1|unix|/run/p/s|grpc|", "", "|||||", "hello",
	} {
		f.Add(seed)
	}
	p := newProcess(Spec{}, "/run/p", newLineLog(slog.New(slog.DiscardHandler)))
	f.Fuzz(func(t *testing.T, line string) {
		if p.checkHandshake(line) != nil {
			return
		}
		parts := strings.Split(strings.TrimSpace(line), "|")
		if parts[2] != "unix" || !strings.HasPrefix(parts[3], "/run/p/") || strings.Contains(parts[3], "..") && strings.Contains(parts[3], "/../") {
			t.Errorf("handshake %q was accepted", line)
		}
	})
}

func TestLogLimits(t *testing.T) {
	var out strings.Builder
	now := time.Unix(1_000_000, 0)
	l := newLineLog(slog.New(slog.NewTextHandler(&out, nil)))
	l.now, l.lines.filled = func() time.Time { return now }, now
	w := &lineWriter{to: l, level: slog.LevelInfo}
	long := strings.Repeat("x", 10*maxLine)
	for range 1000 {
		for _, part := range []string{long, "\nshort", "\n\n"} {
			if _, err := w.Write([]byte(part)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if n := strings.Count(out.String(), "\n"); n != lineBurst {
		t.Errorf("%d lines in a burst, want %d", n, lineBurst)
	}
	if n := out.Len(); n > lineBurst*(maxLine+200) {
		t.Errorf("%d bytes logged", n)
	}
	out.Reset()
	now = now.Add(time.Second)
	for range 1000 {
		l.say(slog.LevelInfo, "again")
	}
	if n := strings.Count(out.String(), "\n"); n != lineRate || !strings.Contains(out.String(), "dropped=1900") {
		t.Errorf("a second later: %d lines, want %d and how many were dropped:\n%.300s", n, lineRate, out.String())
	}
}
