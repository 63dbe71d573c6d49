package snapshot

import (
	"context"
	"io"
)

// Saver is a Host that can take a VM's memory and device state together with its
// disks: what hibernation gives a guest that cannot hold still.
type Saver interface {
	Host

	// CanSave says why TakeSaved would not do for this plan, as far as can be
	// seen: nil, it would. It changes nothing. After Prepare.
	CanSave(ctx context.Context, p Plan) error

	// TakeSaved is Take of a VM that stands still meanwhile, and saves its memory
	// and device state, as of the same instant, into the plan's file. Whatever
	// happens, on return the VM runs, or the error says that it could not be
	// resumed; then Merge tries that again, in any process. ErrNotSaved: the disks
	// are frozen, as after Take, but there is no state. ErrNotTaken: nothing was taken,
	// the VM is as it was, and Take may be called. Any other error is like one of Take.
	// reached is called at each of the moments that come, in their order; it is quick.
	// Once the VM goes on ctx need not end in a hurry: the guest waits for nothing.
	TakeSaved(ctx context.Context, p Plan, reached func(Moment)) (Saving, error)

	// Resume lets a VM go on that stands still because the process died that was in
	// TakeSaved; else it does nothing. Any process may call it, at any time after
	// that death. Merge does the same, and more.
	Resume(ctx context.Context, p Plan) error
}

// Moment is how far a TakeSaved has come.
type Moment int

const (
	MomentFrozen Moment = iota // the disks are, and the VM stands still
	MomentGoesOn               // the VM does; its memory may still be written
)

// Saving is how the memory of a VM was written.
type Saving struct {
	// Background: the VM went on meanwhile. Else it stood still until all was written, and
	// Why says in plain words why it had to.
	Background bool
	Why        string
}

// FrozenState is a Frozen of a Saver.
type FrozenState interface {
	Frozen

	// SavedState opens the state that TakeSaved saved, in a form in which two nights
	// of one VM have much in common: see StateDefiner. The caller closes it.
	SavedState(ctx context.Context) (Source, error)
}

// StateDefiner is a Definer that brings back what a FrozenState handed out. Its Define fails
// with ErrNoMemory where all was done but that.
type StateDefiner interface {
	Definer

	// FitsState fails, with a hint, where the hypervisor of this host would not take a
	// saved state of such a VM. It writes nothing.
	FitsState(ctx context.Context, hw Hardware) error

	// RestoreState writes to w the hypervisor's own form of a state, which is what
	// Define's RoleSavedState file has to hold. src has the size bytes of a
	// FrozenState.SavedState. ErrCorrupt: they are none; part may have been written.
	RestoreState(ctx context.Context, w io.Writer, src io.ReaderAt, size int64) error
}
