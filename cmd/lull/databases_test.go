package main

import (
	"encoding/json"
	"testing"

	"github.com/lull-backup/lull/quiesce"
	"github.com/lull-backup/lull/snapshot/guesttest"
)

func TestGuestDatabases(t *testing.T) {
	l := newLab(t, guesttest.DatabaseOptions(t))
	if err := l.guest.WaitDatabases(l.ctx); err != nil {
		t.Fatal(err)
	}
	l.configure(l.web(), `schedule: manual, consistency: {ladder: [application, filesystem, crash]}`)
	l.lull(exitDone, "backup", "lab/web")
	q := l.result().Point.Quiesce
	for _, w := range q.Writers {
		t.Logf("%s %s", w.Identity.Name, w.Document)
	}
	t.Logf("%v %v %v", q.Window, q.Level, q.Reasons)
	if q.Level != quiesce.LevelApplication {
		text, _ := json.Marshal(q)
		t.Fatalf("%s", text)
	}
}
