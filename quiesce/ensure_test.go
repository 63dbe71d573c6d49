package quiesce_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lull-backup/lull/quiesce"
	"github.com/lull-backup/lull/quiesce/quiescetest"
)

// A writer that hangs, whatever its context says, keeps no other from letting go, nor the
// caller for ever; one that panics ends nothing but its own call.
func TestAbortAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		deaf := quiescetest.App("deaf").On(quiescetest.Abort, quiescetest.Act{Delay: time.Hour, Deaf: true})
		odd := quiescetest.App("odd").On(quiescetest.Abort, quiescetest.Act{Panic: true})
		good := quiescetest.App("good")
		if err := good.Freeze(t.Context(), quiesce.Request{}); err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		err := quiesce.AbortAll(t.Context(), quiesce.Request{}, []quiesce.Writer{deaf, odd, good}, slog.New(slog.DiscardHandler))
		if took := time.Since(begin); took > time.Minute || good.Frozen() {
			t.Errorf("it took %v; is the good one frozen: %v", took, good.Frozen())
		}
		if err == nil || !strings.Contains(err.Error(), "panicked") || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v", err)
		}
		deaf.Wait()
	})
}
