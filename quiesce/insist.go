package quiesce

import (
	"context"
	"time"
)

// Insist tries until it is done, with pauses from first to last, each twice as long as
// the one before. It gives up where try says that another time would not help, and when
// ctx ends: then the error is the last one that was not that end itself.
func Insist(ctx context.Context, first, last time.Duration, try func() (again bool, err error)) error {
	var said error
	for pause := first; ; pause = min(2*pause, last) {
		again, err := try()
		if err == nil || !again {
			return err
		}
		if said == nil || ctx.Err() == nil {
			said = err
		}
		if sleep(ctx, pause) != nil {
			return said
		}
	}
}
