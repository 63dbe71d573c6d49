package agent

import (
	"context"
	"errors"
	"fmt"

	"github.com/lull-backup/lull/agent/journal"
	"github.com/lull-backup/lull/snapshot"
)

// RecoverVM repairs one VM: what its journal entry tells of, an operation on its
// checkpoints that was interrupted, and then the deltas that the
// VM writes to although no journal has them, as after the loss of the state folder. It
// returns what is left that only an administrator can decide.
func (r *Runner) RecoverVM(ctx context.Context, name string, resolve Resolve) ([]snapshot.Finding, error) {
	host, vm, err := resolve(name)
	if err != nil {
		return nil, fmt.Errorf("recover %s: %w", name, err)
	}
	done, err := r.turns.wait(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("recover %s: %w", name, err)
	}
	defer done()
	lock, err := r.Journal.Lock(name)
	if err != nil {
		return nil, fmt.Errorf("recover %s: %w", name, err)
	}
	defer lock.Unlock()
	_, owed, err := r.Journal.Read(name)
	if err == nil {
		err = r.recoverAny(ctx, name, host, vm)
	}
	if err != nil {
		return nil, err
	}
	for range maxAdopted {
		found, err := compare(ctx, host, vm, nil)
		// It went after its run, or ended; what that run left is repaired.
		if errors.Is(err, snapshot.ErrNotFound) || owed && errors.Is(err, snapshot.ErrUnreachable) {
			return nil, nil
		}
		if err != nil {
			return nil, fmt.Errorf("recover %s: %w", name, err)
		}
		plan := adoptable(found)
		if plan == nil {
			return found, nil
		}
		if err := r.adopt(ctx, name, host, vm, *plan); err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("recover %s: %w", name, errEndless)
}

// maxAdopted bounds how many deltas are adopted; a VM has no more disks.
const maxAdopted = 256

var errEndless = errors.New("there is always one more delta")

func adoptable(found []snapshot.Finding) *snapshot.Plan {
	for _, f := range found {
		if f.Adopt != nil {
			return f.Adopt
		}
	}
	return nil
}

// adopt puts a plan into the journal that has lost it, and recovers from it.
func (r *Runner) adopt(ctx context.Context, name string, host snapshot.Host, vm string, p snapshot.Plan) error {
	r.Log.Warn("adopt a delta that no journal has", "vm", name, "run", p.Run)
	e := journal.Entry{Run: p.Run, VM: name, Plan: p, Started: r.Now()}
	if err := r.Journal.Write(e); err != nil {
		return fmt.Errorf("recover %s: %w", name, err)
	}
	return r.recoverEntry(ctx, name, host, vm)
}
