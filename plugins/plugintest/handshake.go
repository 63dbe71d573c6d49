package plugintest

import (
	"context"
	"errors"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/lull-backup/lull/plugins/proto"
	"github.com/lull-backup/lull/quiesce/quiescetest"
)

// handshake starts the plugin as lull does, and ends it.
func handshake(t quiescetest.TB, o Options) {
	begin := time.Now()
	p := start(t, o, o.Guest())
	identified(t, o, p)
	t.Logf("first answer after %v", time.Since(begin).Round(time.Millisecond))
}

// startedByHand: without the cookie, a plugin says what it is and ends.
func startedByHand(t quiescetest.TB, o Options) {
	line, err := firstLine(o.within(t), o, nil)
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		t.Error("it waits when it is started by hand; it should say that it is a plugin of lull, and end")
	case strings.Count(line, "|") >= 4:
		t.Errorf("it makes a handshake when it is started by hand: %q", line)
	}
}

// newerLull offers versions that do not exist yet. A plugin names its own, or ends:
// either way the administrator is told which of the two is too old.
func newerLull(t quiescetest.TB, o Options) {
	line, err := firstLine(o.within(t), o, []int{98, 99})
	if errors.Is(err, context.DeadlineExceeded) {
		t.Fatal("it neither answers nor ends when lull speaks only versions that it does not know")
	}
	if v := spoken(line); v > proto.Version {
		t.Errorf("it says that it speaks version %d", v)
	}
}

// severalVersions offers this version among others, as a later lull will.
func severalVersions(t quiescetest.TB, o Options) {
	for _, versions := range [][]int{{proto.Version, 99}, {99, proto.Version}} {
		line, err := firstLine(o.within(t), o, versions)
		if v := spoken(line); err != nil || v != proto.Version {
			t.Errorf("offered the versions %v it printed %.200q (%v), want a handshake of version %d", versions, line, err, proto.Version)
		}
	}
}

// spoken is the protocol version in a handshake; 0 where there is none.
func spoken(line string) int {
	parts := strings.Split(line, "|")
	if len(parts) < 5 {
		return 0
	}
	v, err := strconv.Atoi(parts[1])
	if err != nil {
		return 0
	}
	return v
}

// quiet counts what a plugin says while nothing goes wrong.
func quiet(t quiescetest.TB, o Options) {
	lines := &counter{}
	o.Log = slog.New(lines)
	p := start(t, o, o.Guest())
	for range 3 {
		identified(t, o, p)
		_ = quiescetest.PrepareOnly(o.within(t), p, request())
		_ = p.Abort(o.within(t), request())
	}
	if err := p.Close(); err != nil {
		t.Errorf("end the plugin: %v", err)
	}
	said, dropped := lines.count()
	t.Logf("it said %d lines", said)
	if dropped > 0 {
		t.Errorf("it says more than lull logs: %d lines and more were dropped", dropped)
	}
	// lull kills at 8 MiB; this is where its log begins to drop lines.
	if said >= manyLines {
		t.Errorf("it said %d lines for three aborted backups: %d is where lull begins to drop them", said, manyLines)
	}
}

// manyLines is the burst that package plugins logs.
const manyLines = 100

// counter is a slog.Handler that counts the lines of a plugin.
type counter struct {
	mu            sync.Mutex
	said, dropped int
}

func (c *counter) Enabled(context.Context, slog.Level) bool { return true }
func (c *counter) WithAttrs([]slog.Attr) slog.Handler       { return c }
func (c *counter) WithGroup(string) slog.Handler            { return c }

func (c *counter) Handle(_ context.Context, r slog.Record) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	r.Attrs(func(a slog.Attr) bool {
		switch a.Key {
		case "line":
			c.said++
		case "dropped":
			c.dropped += int(a.Value.Int64())
		}
		return true
	})
	return nil
}

func (c *counter) count() (said, dropped int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.said, c.dropped
}
