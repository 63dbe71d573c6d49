package agent_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lull-backup/lull/agent"
	"github.com/lull-backup/lull/snapshot/snapshottest"
)

// What a nightly point lacks is in the agent's log: nobody watches its runs.
func TestDaemonLogsWarnings(t *testing.T) {
	w := newWorld(t)
	w.fake.Inject(snapshottest.Fault{Call: "Freeze", Err: errors.New("the hook says no")})
	var said bytes.Buffer
	synctest.Test(t, func(t *testing.T) {
		groups := []agent.Group{{
			Name: "often", Schedule: every(t, "@every 1m"), VMs: []string{vmName},
			Open: func(context.Context, []string) ([]agent.Job, func() error, error) {
				return []agent.Job{w.job()}, func() error { return nil }, nil
			},
		}}
		run(t, &agent.Daemon{
			Runner: w.runner, Groups: groups, Parallel: 1, Resolve: w.resolve, Ready: func() {},
			Log:   slog.New(slog.NewTextHandler(&said, nil)),
			Board: agent.NewBoard("test", os.Getpid(), time.Now(), w.journal, groups),
		}, 90*time.Second)
	})
	for _, want := range []string{"level=WARN", vmName, "the hook says no", "crash was reached"} {
		if !strings.Contains(said.String(), want) {
			t.Errorf("the log does not say %q:\n%s", want, said.String())
		}
	}
	w.tidy()
}
