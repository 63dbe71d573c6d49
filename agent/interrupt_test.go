package agent_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/lull-backup/lull/agent"
	"github.com/lull-backup/lull/snapshot"
)

func TestInterruptedErrors(t *testing.T) {
	signal := errors.New("terminated")
	plain, cancel := context.WithCancel(t.Context())
	cancel()
	caused, because := context.WithCancelCause(t.Context())
	because(signal)
	cancelled := fmt.Errorf("read disk: %w", errors.Join(context.Canceled, fmt.Errorf("close: %w", context.Canceled)))
	mixed := fmt.Errorf("merge: %w: %w", snapshot.ErrDiverged, context.Canceled)
	for name, c := range map[string]struct {
		ctx       context.Context
		err, want error
	}{
		"none":           {plain, nil, nil},
		"it lives":       {t.Context(), cancelled, cancelled},
		"cancelled":      {plain, cancelled, agent.ErrInterrupted},
		"with a cause":   {caused, cancelled, signal},
		"says more":      {plain, mixed, mixed},
		"something else": {plain, snapshot.ErrGone, snapshot.ErrGone},
	} {
		if got := agent.Interrupted(c.ctx, c.err); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
	if !errors.Is(agent.ErrInterrupted, context.Canceled) {
		t.Error("ErrInterrupted is not context.Canceled")
	}
}
