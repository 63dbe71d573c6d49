package agent_test

import (
	"context"
	"errors"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lull-backup/lull/agent"
	"github.com/lull-backup/lull/snapshot"
)

// cutOff is a host that has an operation on checkpoints to bring to its end.
type cutOff struct {
	snapshot.Host
	trees
	pending bool
	err     error
}

// trees is what is asked of nobody here.
type trees struct{ snapshot.Checkpointer }

func (c *cutOff) RecoverCheckpoints(context.Context, string) (found bool, err error) {
	if c.err != nil {
		return c.pending, c.err
	}
	found, c.pending = c.pending, false
	return found, nil
}

func (c *cutOff) resolve(string) (snapshot.Host, string, error) { return c, "web", nil }

// Whoever repairs a VM ends what was interrupted on its checkpoints, too, although no
// journal entry tells of it.
func TestRecoverCheckpoints(t *testing.T) {
	for name, recovers := range map[string]func(*testing.T, *world, *cutOff){
		"by hand": func(t *testing.T, w *world, c *cutOff) {
			c.err = snapshot.ErrDiverged
			if _, err := w.runner.RecoverVM(t.Context(), vmName, c.resolve); !errors.Is(err, snapshot.ErrDiverged) {
				t.Errorf("what cannot be repaired: %v", err)
			}
			c.err = nil
			_, err := w.runner.RecoverVM(t.Context(), vmName, c.resolve)
			must(t, err)
		},
		"by the agent": func(t *testing.T, w *world, c *cutOff) {
			groups := []agent.Group{{Name: "g", VMs: []string{vmName}}}
			run(t, &agent.Daemon{Runner: w.runner, Groups: groups, Parallel: 1, Log: w.runner.Log, Ready: func() {}, Resolve: c.resolve,
				Board: agent.NewBoard("test", os.Getpid(), time.Now(), w.journal, groups)}, time.Second)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				c := &cutOff{Host: w.fake.Host(), pending: true}
				recovers(t, w, c)
				if c.pending {
					t.Error("it is as it was")
				}
				w.tidy()
			})
		})
	}
}
