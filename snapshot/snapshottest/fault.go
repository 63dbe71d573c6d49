package snapshottest

import (
	"context"
	"slices"
)

// Fault makes calls to a Fake fail. The zero value of a field does not restrict.
type Fault struct {
	// Call is the method's name: VMs, Plan, Prepare, Take, Open, Disk, File,
	// Extents, ReadAt, Watch, Merge, Instance, Track, Changes, Settle, Guest; of the guest Info, Exec, ReadFile,
	// WriteFile, Freeze, Thaw, Frozen.
	Call  string
	VM    string
	Skip  int // so many matching calls go well first
	Times int // so many calls fail; 0: all

	Err  error  // what the call returns; nil: it goes on as usual
	Late bool   // the call takes effect, only its answer is lost
	Hang bool   // the call waits until its context ends, and returns that error too
	Do   func() // runs when the fault strikes, before the call
}

// Inject adds a fault. Of several that match a call the first one strikes.
func (f *Fake) Inject(fault Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.faults = append(f.faults, &fault)
}

// Heal removes all faults.
func (f *Fake) Heal() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.faults = nil
}

// Calls is the log of all calls so far, each as "vm call".
func (f *Fake) Calls() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.calls)
}

// strike logs a call and finds the fault for it.
func (f *Fake) strike(vm, call string) *Fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, vm+" "+call)
	for i, x := range f.faults {
		if x.Call != "" && x.Call != call || x.VM != "" && x.VM != vm {
			continue
		}
		if x.Skip > 0 {
			x.Skip--
			continue
		}
		if x.Times > 0 {
			if x.Times--; x.Times == 0 {
				f.faults = slices.Delete(f.faults, i, i+1)
			}
		}
		hit := *x
		return &hit
	}
	return nil
}

// do runs a call under whatever fault strikes it.
func (f *Fake) do(ctx context.Context, vm, call string, run func() error) error {
	x := f.strike(vm, call)
	if x == nil {
		x = &Fault{}
	}
	if x.Do != nil {
		x.Do()
	}
	if x.Err != nil && !x.Late {
		return x.answer(ctx, x.Err)
	}
	if x.Hang && !x.Late {
		return x.answer(ctx, nil)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := run(); err != nil || !x.Late {
		return err
	}
	return x.answer(ctx, x.Err)
}

func (x *Fault) answer(ctx context.Context, err error) error {
	if !x.Hang {
		return err
	}
	<-ctx.Done()
	if err == nil {
		return ctx.Err()
	}
	return &hung{err: err, ctx: ctx.Err()}
}

// hung is an error that is both the fault's and the context's.
type hung struct{ err, ctx error }

func (h *hung) Error() string   { return h.err.Error() + ": " + h.ctx.Error() }
func (h *hung) Unwrap() []error { return []error{h.err, h.ctx} }
