package plugintest

import (
	"context"
	"errors"
	"fmt"

	"github.com/lull-backup/lull/quiesce"
	"github.com/lull-backup/lull/quiesce/quiescetest"
	"github.com/lull-backup/lull/snapshot"
)

// absent holds a plugin to what it owes a guest without its application, which any group may
// have. lull calls Abort until it succeeds, for minutes, and then fails the run.
func absent(t quiescetest.TB, o Options) {
	p := start(t, o, emptyGuest{o.Guest()})
	if err := quiescetest.PrepareOnly(o.within(t), p, request()); err != nil {
		t.Logf("prepare: %v", err)
		return
	}
	freezeErr := p.Freeze(o.within(t), request())
	abortErr := p.Abort(o.within(t), request())
	if abortErr != nil && !(notPresent(freezeErr) && notPresent(abortErr)) {
		t.Errorf("in a guest without any program prepare goes well, freeze says %v, and abort never succeeds: %v; prepare must find out", freezeErr, abortErr)
	}
}

func notPresent(err error) bool {
	var f *quiesce.Failure
	return errors.As(err, &f) && f.Class == quiesce.NotPresent
}

// emptyGuest has no program and no file.
type emptyGuest struct{ Guest }

// Exec finds nothing.
func (emptyGuest) Exec(_ context.Context, c snapshot.Command) (snapshot.ExecResult, error) {
	return snapshot.ExecResult{}, fmt.Errorf("run %s: %w", c.Path, snapshot.ErrNoFile)
}

// ReadFile finds nothing.
func (emptyGuest) ReadFile(_ context.Context, path string, _ int64) ([]byte, error) {
	return nil, fmt.Errorf("read %s: %w", path, snapshot.ErrNoFile)
}
