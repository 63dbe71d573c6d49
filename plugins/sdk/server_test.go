package sdk

import (
	"context"
	"errors"
	"testing"

	"github.com/lull-backup/lull/plugins/proto"
	"github.com/lull-backup/lull/quiesce"
)

// counted is a writer that counts its freezes, whatever becomes of their contexts.
type counted struct{ freezes int }

func (c *counted) Freeze(context.Context, quiesce.Request) error {
	c.freezes++
	return nil
}

func (c *counted) Thaw(context.Context, quiesce.Request) (quiesce.ThawResult, error) {
	return quiesce.ThawResult{}, nil
}

// A Freeze that was given up, and whose turn comes only after the Abort, does not begin.
func TestGivenUpFreezeDoesNotBegin(t *testing.T) {
	w := &counted{}
	s := newServer(w, nil)
	over, cancel := context.WithCancel(t.Context())
	cancel()
	for range 100 { // the turn is free, and the context has ended: either may be seen first
		if _, err := s.Abort(t.Context(), &proto.AbortRequest{}); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Freeze(over, &proto.FreezeRequest{}); !errors.Is(err, context.Canceled) {
			t.Errorf("freeze: %v", err)
		}
	}
	if w.freezes > 0 {
		t.Errorf("%d of 100 began", w.freezes)
	}
	if _, err := s.Freeze(t.Context(), &proto.FreezeRequest{}); err != nil || w.freezes != 1 {
		t.Errorf("freeze in time: %v, %d began", err, w.freezes)
	}
}
