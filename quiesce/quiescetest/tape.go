package quiescetest

import (
	"sync"
	"time"
)

// Call names a method of quiesce.Writer.
type Call string

// The calls of a writer.
const (
	Identify     Call = "identify"
	Prepare      Call = "prepare"
	Freeze       Call = "freeze"
	Thaw         Call = "thaw"
	PostSnapshot Call = "post-snapshot"
	Complete     Call = "complete"
	Abort        Call = "abort"
	PreRestore   Call = "pre-restore"
	PostRestore  Call = "post-restore"
)

// Entry is one call as it began.
type Entry struct {
	At     time.Time
	Writer string
	Call   Call
}

// Tape records calls in the order in which they begin. The zero value is ready;
// safe for concurrent use.
type Tape struct {
	mu      sync.Mutex
	entries []Entry
}

// Record adds an entry.
func (t *Tape) Record(writer string, c Call) {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.entries = append(t.entries, Entry{time.Now(), writer, c})
}

// Entries is a copy of what was recorded.
func (t *Tape) Entries() []Entry {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([]Entry(nil), t.entries...)
}

// Calls is what was recorded as "writer call", without times.
func (t *Tape) Calls() []string {
	var out []string
	for _, e := range t.Entries() {
		out = append(out, e.Writer+" "+string(e.Call))
	}
	return out
}
