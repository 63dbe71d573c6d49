package agent

import (
	"context"
	"errors"
	"sync"
)

// Recover repairs every VM in the journal at once, as a daemon does at its start.
func (r *Runner) Recover(ctx context.Context, resolve Resolve) error {
	entries, err := r.Journal.Pending()
	errs := make([]error, len(entries))
	var all sync.WaitGroup
	for i, e := range entries {
		all.Go(func() { errs[i] = r.recover(ctx, e, resolve) })
	}
	all.Wait()
	return errors.Join(append(errs, err)...)
}
