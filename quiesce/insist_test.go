package quiesce_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lull-backup/lull/quiesce"
)

func TestInsist(t *testing.T) {
	busy := errors.New("busy")
	for name, test := range map[string]struct {
		fails int // so often; then it goes well
		again bool
		limit time.Duration
		want  error
		took  time.Duration
	}{
		"at once":    {0, true, time.Hour, nil, 0},
		"third time": {2, true, time.Hour, nil, 3 * time.Second},
		"no use":     {2, false, time.Hour, busy, 0},
		"for long":   {6, true, time.Hour, nil, (1 + 2 + 4 + 5 + 5 + 5) * time.Second},
		"too long":   {6, true, 8 * time.Second, busy, 8 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), test.limit)
				defer cancel()
				begin, left := time.Now(), test.fails
				err := quiesce.Insist(ctx, time.Second, 5*time.Second, func() (bool, error) {
					if left--; left >= 0 {
						return test.again, busy
					}
					return true, ctx.Err()
				})
				if !errors.Is(err, test.want) || time.Since(begin) != test.took {
					t.Errorf("%v after %v, want %v after %v", err, time.Since(begin), test.want, test.took)
				}
			})
		})
	}
}
